"""Steps that are ordinary Celery tasks: sending them, taking them back, and the message that tells how they ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from tasker.encoding import encode
from tasker.errors import PayloadTooLarge, ValueNotStorable
from tasker.executors.delegation import DelegatedStep
from tasker.handlers.failures import classify
from tasker.hosting.roles import ORCHESTRATION_QUEUE

logger = logging.getLogger(__name__)

STEP_SUCCEEDED = "tasker.step_succeeded"
STEP_FAILED = "tasker.step_failed"

STEP_KEYS = ("task_uuid", "step_uuid", "position", "map_index", "fence", "executor")
"""What identifies one run of a step; it travels with the callbacks and comes back in the outcome."""

TERMINATED_STAMP = "tasker_step"
"""Header, with the Celery id, of tasks whose process is to be ended when they are revoked. Whoever revokes knows no
more than ids, so the task itself says how far that goes."""

_SEQUENCES = ("celery.map", "celery.starmap")
"""Tasks that every app has, which call another one for each of many values."""


@dataclass(frozen=True)
class StepApp:
    """The Celery app that steps are sent through.

    Attributes:
        app: its broker, routes and control are used.
        callback_queue: queue by which outcomes come back.
        terminate: whether processes of revoked tasks are ended, where a step does not say.
        is_other: whether it is another app than that of the workers that host executors.
    """

    app: Celery
    callback_queue: str = ORCHESTRATION_QUEUE
    terminate: bool = False
    is_other: bool = False


class CelerySteps:
    """Sends delegated steps through a Celery app.

    Args:
        find: the app; asked once, when it is first needed.
    """

    def __init__(self, find: Callable[[], StepApp]) -> None:
        self._find = find
        self._lock = threading.Lock()  # owns _found
        self._found: StepApp | None = None

    @property
    def target(self) -> StepApp:
        """The app that steps are sent through."""
        # Without the lock once it is found: a fork might copy it locked.
        if self._found is None:
            with self._lock:
                if self._found is None:
                    self._found = self._find()
        return self._found

    def send(self, step: DelegatedStep) -> None:
        """Send a step's Celery task, with callbacks that post its outcome.

        Raises:
            kombu.exceptions.OperationalError: the broker cannot be reached.
        """
        target = self.target
        options: dict[str, Any] = dict(step.call.options)
        if options.pop("terminate", target.terminate):
            options.update({"stamped_headers": [TERMINATED_STAMP], TERMINATED_STAMP: step.celery_id})
        # Nobody waits for it any more then, and another attempt may be on its way.
        ends = [end for end in (options.pop("expires", None), step.timeout_seconds) if end is not None]
        if step.celery_task in _SEQUENCES:
            # Its workers are those of the task that is called.
            options["route_name"] = step.call.kwargs["task"]["task"]
        target.app.send_task(
            step.celery_task,
            step.call.args,
            step.call.kwargs,
            task_id=step.celery_id,
            expires=min(ends, default=None),
            link=self._callback(STEP_SUCCEEDED, step),
            link_error=self._callback(STEP_FAILED, step),
            # Not the executor that happens to send it, whose run would also keep every result it sent.
            root_id=step.task_uuid,
            parent_id=step.task_uuid,
            add_to_parent=False,
            **options,
        )

    def revoke(self, celery_ids: Sequence[str]) -> None:
        """Tell all workers not to begin these tasks, and to end the processes of those that were sent to be ended.

        Others that run already go on; their outcome counts no more.
        """
        if celery_ids:
            control = self.target.app.control
            control.revoke(list(celery_ids))
            control.revoke_by_stamped_headers({TERMINATED_STAMP: list(celery_ids)}, terminate=True)

    def error_of(self, celery_id: str) -> BaseException | None:
        """What a task raised, if the app has a result backend that knows."""
        app = self.target.app
        try:
            if app.backend.as_uri().startswith("disabled"):
                return None
            result = app.AsyncResult(celery_id).result
        except Exception:
            # Whatever is there (another serializer, a class that is no exception), it failed: that must be told.
            logger.warning("The result backend does not say why Celery task %s failed", celery_id, exc_info=True)
            return None
        return result if isinstance(result, BaseException) else None

    def _callback(self, name: str, step: DelegatedStep) -> Any:
        queue = self.target.callback_queue
        return self.target.app.signature(
            name,
            kwargs={"step": {key: getattr(step, key) for key in STEP_KEYS}},
            # It is sent by the worker that ran the task, under that app's settings: none of its routes and of its
            # defaults may reach the callback.
            options={"queue": queue, "exchange": "", "routing_key": queue, "serializer": "json"},
        )


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
    """The message for a task that raised ``error``.

    ``PermanentError`` and ``RetryableError`` mean what they say. So do classes of these names that are not Tasker's:
    the app need not know Tasker, and a result backend gives names rather than classes.
    """
    failure = classify(error)
    # A result that cannot be sent will not be better the next time.
    final = type(error).__name__ in ("PermanentError", "EncodeError")
    return failure_message(
        step,
        failure["message"],
        failure["type"],
        retryable=failure["retryable"] and not final,
        retry_after_seconds=failure["retry_after_seconds"],
    )


def unexplained_message(step: Mapping[str, Any]) -> dict[str, Any]:
    """The message for a task that failed, nobody here knows why."""
    return failure_message(step, "the Celery task failed; no result backend says why", "celery_task_failed")


def _identity(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: step.get(key) for key in STEP_KEYS}
