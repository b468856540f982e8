"""Admits tasks that waited: for their time, for room, or for a check of their context."""

from __future__ import annotations

from typing import Any

from tasker.database import functions
from tasker.errors import ContextInvalid
from tasker.executors.executor import ExecutorKind
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.workflows.registry import TemplateRegistry

ADMISSION = "admission"
"""No queue, but heard of like one: its channel is notified when a task is created that has to wait for admission."""


class TaskClaimer(OrchestrationExecutor):
    """Claims tasks by priority and age, checks contexts that nobody has checked, and enqueues their first steps.

    Args:
        templates: know the input schemas.
        claim_timeout_seconds: after this, somebody else may take over what was claimed.
        shared: as for every orchestration executor.
    """

    def __init__(self, *, templates: TemplateRegistry, claim_timeout_seconds: float, **shared: Any) -> None:
        super().__init__(ExecutorKind.TASK_CLAIMER, (ADMISSION,), **shared)
        self._templates = templates
        self._claim_timeout_seconds = claim_timeout_seconds

    def drain(self, limit: int) -> int:
        """Admit at most ``limit`` tasks, or end them where their context does not fit; how many there were."""
        self.start()
        request = {"processor": self.processor, "limit": limit, "timeout_seconds": self._claim_timeout_seconds}
        answer = self.take(functions.claim_ready_tasks(request))
        self.next_due_seconds = answer["next_due_seconds"]
        tasks: list[dict[str, Any]] = answer["tasks"]
        if not tasks:
            return 0
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
        return len(tasks)

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
