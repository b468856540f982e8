"""Outcomes of steps that ran on another broker: read there by a thread of each worker that hosts orchestration."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from tasker.errors import CircuitOpen, TaskerError
from tasker.executors.stop import StopSignal
from tasker.executors.wake import wait_readable
from tasker.hosting.delegation import (
    STEP_FAILED,
    STEP_SUCCEEDED,
    CelerySteps,
    exception_message,
    success_message,
    unexplained_message,
)

logger = logging.getLogger(__name__)

PREFETCH = 10
"""Messages that are fetched ahead; those that are not done with come back to others when the connection ends."""

LOOK_SECONDS = 1.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0

Post = Callable[[Mapping[str, Any]], None]
"""Sends an outcome to ``orchestration_step_results``."""


class UnreadableCallback(ValueError):
    """A message on the queue of callbacks is none."""


class CallbackReceiver:
    """Reads callbacks of Celery tasks from the broker they were sent through, and posts the outcomes.

    A message is acknowledged once its outcome is in the database, so it may come twice; an outcome has its fence.

    Args:
        steps: knows the app, and why tasks failed.
        post: sends outcomes.
        max_result_bytes: a larger result is a permanent error of its step.
        stop: ends the thread.
    """

    def __init__(self, steps: CelerySteps, post: Post, *, max_result_bytes: int, stop: StopSignal) -> None:
        self._steps = steps
        self._post = post
        self._max_result_bytes = max_result_bytes
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name="tasker-callbacks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self, timeout_seconds: float = 3) -> None:
        """After the worker stopped: wait until the connection is closed."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        target = self._steps.target
        wait = FIRST_WAIT_SECONDS
        while not self._stop.is_set():
            connection = target.app.connection_for_read()
            try:
                with connection:
                    connection.ensure_connection(max_retries=1)
                    logger.info("Reading %s on %s", target.callback_queue, connection.as_uri())
                    wait = FIRST_WAIT_SECONDS
                    self._consume(connection)
            except Exception as error:
                # Whatever a transport raises when its connection ends.
                logger.warning("Callbacks of Celery tasks cannot be read; again in %g s: %s", wait, error)
                wait_readable([self._stop], wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _consume(self, connection: Any) -> None:
        target = self._steps.target
        queue = target.app.amqp.queues[target.callback_queue]
        with connection.Consumer(
            [queue],
            callbacks=[self._on_message],
            on_decode_error=_refuse,
            accept=["json"],
            prefetch_count=PREFETCH,
        ):
            while not self._stop.is_set():
                connection.heartbeat_check()
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=LOOK_SECONDS)

    def _on_message(self, body: Any, message: Any) -> None:
        try:
            if self._sent(self._outcome(message.headers.get("task"), body)):
                message.ack()
        except (UnreadableCallback, TaskerError, psycopg.Error) as error:
            # It would be no better the next time; the step's deadline takes care of it.
            _refuse(message, error)

    def _sent(self, outcome: Mapping[str, Any]) -> bool:
        """Send ``outcome``, however long the database is away; false when the worker stops before that."""
        wait = FIRST_WAIT_SECONDS
        while not self._stop.is_set():
            try:
                self._post(outcome)
                return True
            except (psycopg.OperationalError, CircuitOpen) as error:
                logger.warning("An outcome cannot be posted; again in %g s: %s", wait, error)
                wait_readable([self._stop], wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        return False

    def _outcome(self, name: object, body: Any) -> dict[str, Any]:
        """The outcome that a callback tells of.

        Raises:
            UnreadableCallback: it is no callback of a step.
        """
        if isinstance(body, dict):  # the first version of Celery's protocol
            name, body = body.get("task"), (body.get("args"), body.get("kwargs"))
        match body:
            case [[first, *_], {"step": dict() as step}, *_] if name == STEP_SUCCEEDED:
                return success_message(step, first, max_bytes=self._max_result_bytes)
            case [[first, *_], {"step": dict() as step}, *_] if name == STEP_FAILED:
                error = self._steps.error_of(str(first))
                return unexplained_message(step) if error is None else exception_message(step, error)
        raise UnreadableCallback(f"a call of {name!r} tells no outcome of a step")


def _refuse(message: Any, error: Exception) -> None:
    logger.error("Dropped a message of the queue of callbacks: %s", error)
    message.reject()
