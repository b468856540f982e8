"""Admits tasks that waited: for their time, for room, or for a check of their context. Fires schedules beside it."""

from __future__ import annotations

from typing import Any

from tasker.database import functions
from tasker.errors import ContextInvalid
from tasker.executors.admission import AdmissionControl
from tasker.executors.executor import ExecutorKind
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.executors.schedules import FIRING_SECONDS, fire_due_schedules
from tasker.workflows.registry import TemplateRegistry

ADMISSION = "admission"
"""No queue, but heard of like one: its channel is notified when a task is created that has to wait for admission."""

HELD_SECONDS = 1.0
"""When to look again at a schedule that is due while somebody's open transaction holds it."""


class TaskClaimer(OrchestrationExecutor):
    """Claims tasks by priority and age, checks contexts that nobody has checked, and enqueues their first steps.

    Args:
        templates: know the input schemas.
        claim_timeout_seconds: after this, somebody else may take over what was claimed.
        admission: measures how much there is to do.
        shared: as for every orchestration executor.
    """

    def __init__(
        self,
        *,
        templates: TemplateRegistry,
        claim_timeout_seconds: float,
        admission: AdmissionControl,
        **shared: Any,
    ) -> None:
        super().__init__(ExecutorKind.TASK_CLAIMER, (ADMISSION,), **shared)
        self._templates = templates
        self._claim_timeout_seconds = claim_timeout_seconds
        self._admission = admission

    def drain(self, limit: int) -> int:
        """Admit at most ``limit`` tasks, or end them where their context does not fit, and fire schedules; how many."""
        self.start()
        next_measure_seconds = self._admission.measure(self.take)
        request = {"processor": self.processor, "limit": limit, "timeout_seconds": self._claim_timeout_seconds}
        answer = self.take(functions.claim_ready_tasks(request))
        tasks: list[dict[str, Any]] = answer["tasks"]
        if tasks:
            self._admit(tasks)
        next_schedule_seconds, fired = answer["next_schedule_seconds"], 0
        if next_schedule_seconds == 0:
            fired = fire_due_schedules(self.take, seconds=FIRING_SECONDS)
            self.counters.add(schedules=fired)
            if not fired:
                next_schedule_seconds = HELD_SECONDS
        self.next_due_seconds = _sooner(answer["next_due_seconds"], next_schedule_seconds, next_measure_seconds)
        return len(tasks) + fired

    def _admit(self, tasks: list[dict[str, Any]]) -> None:
        try:
            admitted, rejected = self._check(tasks)
        except BaseException:
            for task in tasks:
                self.call(functions.release_task_claim({"task_uuid": task["task_uuid"], "processor": self.processor}))
            raise
        if rejected:
            answer = self.call(functions.reject_tasks({"processor": self.processor, "tasks": rejected}))
            self.tell(answer)
        if admitted:
            answer = self.call(functions.enqueue_ready_steps({"processor": self.processor, "task_uuids": admitted}))
            self.tell(answer)
        self.counters.add(taken=len(tasks), admitted=len(admitted), rejected=len(rejected))

    def _check(self, tasks: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, str]]]:
        """Which tasks may be admitted, and which may not and why."""
        admitted: list[str] = []
        rejected: list[dict[str, str]] = []
        for task in tasks:
            if task["check_context"]:
                try:
                    self._templates.get_by_id(task["named_task_id"]).check_context(task["context"])
                except ContextInvalid as error:
                    rejected.append(
                        {"task_uuid": task["task_uuid"], "reason": "invalid_context", "message": error.message}
                    )
                    continue
            admitted.append(task["task_uuid"])
        return admitted, rejected


def _sooner(*times: float | None) -> float | None:
    return min((seconds for seconds in times if seconds is not None), default=None)
