"""Steps that are Celery tasks: how one is sent. Executors know no Celery; whoever builds them gives them a sender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasker.errors import PermanentError, RetryableError
from tasker.executors import outcomes
from tasker.executors.held import HeldStep
from tasker.executors.outcomes import Outcome
from tasker.executors.preparing import Preparer
from tasker.workflows.celery_calls import CeleryCall


@dataclass(frozen=True, slots=True)
class DelegatedStep:
    """One Celery task to send, and the step that its outcome belongs to.

    Attributes:
        celery_task: name of the task.
        celery_id: its id, ``{step_uuid}:{fence}``: a repeated send is the same task.
        call: its arguments, and how it is sent.
        executor: who delegated it; outcomes name it.
        task_uuid: the workflow run.
        step_uuid: the step.
        position: the step's position.
        map_index: the step's map index.
        fence: of the claim; outcomes carry it.
        timeout_seconds: when the engine stops waiting.
    """

    celery_task: str
    celery_id: str
    call: CeleryCall
    executor: str
    task_uuid: str
    step_uuid: str
    position: int
    map_index: int
    fence: int
    timeout_seconds: float | None


StepSender = Callable[[DelegatedStep], None]
"""Sends a Celery task whose callbacks post the outcome to ``orchestration_step_results``."""


class Delegation:
    """Sends steps that have been recorded as delegated; a send that fails is the step's error.

    Args:
        send: hands a task to Celery; ``None`` where there is no Celery application.
        preparer: finds out what to send.
        submit: takes the outcome of a step whose send failed.
    """

    def __init__(self, send: StepSender | None, preparer: Preparer, submit: Callable[[Outcome], None]) -> None:
        self._send = send
        self._preparer = preparer
        self._submit = submit

    def __call__(self, steps: Sequence[HeldStep]) -> None:
        """Send ``steps``. The record came first: a crash in between ends in the step's deadline, never in two sends."""
        for step in steps:
            # From here on its deadline is its lease: what still happens to it settles no receipt.
            step.call_no = 0
            try:
                if self._send is None:
                    raise RetryableError(
                        "the step is a Celery task, and this executor runs without a Celery application",
                        code="celery_unavailable",
                    )
                self._send(self._message(step))
            except Exception as error:
                self._submit(outcomes.raised(step, error))

    def _message(self, step: HeldStep) -> DelegatedStep:
        handler = self._preparer.handler(step)
        if handler.celery_task is None:
            raise PermanentError(
                f"step {step.template.name} is marked as a Celery task, but its handler {handler.name} is none",
                code="bad_handler",
            )
        return DelegatedStep(
            celery_task=handler.celery_task,
            celery_id=f"{step.step_uuid}:{step.fence}",
            call=handler.celery_call(self._preparer.context(step)),
            executor=step.incarnation.executor,
            task_uuid=step.task_uuid,
            step_uuid=step.step_uuid,
            position=step.position,
            map_index=step.map_index,
            fence=step.fence,
            timeout_seconds=step.template.timeout_seconds,
        )
