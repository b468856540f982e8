"""Steps that are ordinary Celery tasks: sending them, taking them back, and the message that tells how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

from tasker.encoding import encode
from tasker.errors import PayloadTooLarge, ValueNotStorable
from tasker.executors.delegation import DelegatedStep
from tasker.hosting.roles import ORCHESTRATION_QUEUE

STEP_SUCCEEDED = "tasker.step_succeeded"
STEP_FAILED = "tasker.step_failed"

STEP_KEYS = ("task_uuid", "step_uuid", "position", "map_index", "fence", "executor")
"""What identifies one run of a step; it travels with the callbacks and comes back in the outcome."""


class CelerySteps:
    """Sends delegated steps through a Celery app.

    Args:
        app: the app whose broker, routes and control are used.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, step: DelegatedStep) -> None:
        """Send a step's Celery task, with callbacks that post its outcome.

        Raises:
            kombu.exceptions.OperationalError: the broker cannot be reached.
        """
        identity = {key: getattr(step, key) for key in STEP_KEYS}
        callbacks = {
            option: self._app.signature(name, kwargs={"step": identity}, options={"queue": ORCHESTRATION_QUEUE})
            for option, name in (("link", STEP_SUCCEEDED), ("link_error", STEP_FAILED))
        }
        options = {} if step.queue is None else {"queue": step.queue}
        self._app.send_task(
            step.celery_task,
            step.args,
            step.kwargs,
            task_id=step.celery_id,
            # Nobody waits for it any more then, and another attempt may be on its way.
            expires=step.timeout_seconds,
            **callbacks,
            **options,
        )

    def revoke(self, celery_ids: Sequence[str]) -> None:
        """Tell all workers not to begin these tasks. One that runs already goes on; its outcome counts no more."""
        if celery_ids:
            self._app.control.revoke(list(celery_ids))


def success_message(step: Mapping[str, Any], result: Any, *, max_bytes: int) -> dict[str, Any]:
    """The message on ``orchestration_step_results`` for a task that returned ``result``."""
    try:
        encode(result, what="the Celery task's result", max_bytes=max_bytes)
    except (ValueNotStorable, PayloadTooLarge) as error:
        return failure_message(step, str(error), "result_not_storable", retryable=False)
    return {**_identity(step), "status": "complete", "results": result}


def failure_message(
    step: Mapping[str, Any],
    message: str,
    error_type: str,
    *,
    retryable: bool = True,
    retry_after_seconds: float | None = None,
) -> dict[str, Any]:
    """The message on ``orchestration_step_results`` for a task that failed."""
    error: dict[str, Any] = {"message": message, "type": error_type, "retryable": retryable}
    if retry_after_seconds is not None:
        error["retry_after_seconds"] = retry_after_seconds
    return {**_identity(step), "status": "error", "error": error}


def exception_message(step: Mapping[str, Any], error: BaseException) -> dict[str, Any]:
    """The message for a task that raised ``error``; ``PermanentError`` and ``RetryableError`` mean what they say."""
    name = type(error).__name__
    return failure_message(
        step,
        str(error) or name,
        getattr(error, "code", None) or name,
        retryable=name != "PermanentError",
        retry_after_seconds=getattr(error, "retry_after_seconds", None),
    )


def _identity(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: step.get(key) for key in STEP_KEYS}
