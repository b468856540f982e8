"""What becomes of steps, told one by one to whoever watches: as Celery's task events, in batches, never waited for."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import orjson

from tasker.executors.counters import Counters
from tasker.executors.held import HeldStep
from tasker.executors.outcomes import Outcome
from tasker.executors.templates import MAX_KEPT

RESULT_BYTES = 200
"""How much of a result is shown."""

ERROR_CHARACTERS = 300

FLUSH_SECONDS = 0.05
"""A step that starts so long after the last flush is told at once: it may run for long."""

MAX_WAITING = 1000
"""Events gathered between two flushes; what comes then flushes by itself."""


class EventSink(Protocol):
    """Takes events on their way; never blocks."""

    @property
    def wanted(self) -> bool:
        """Whether anybody wants events at present. Asked for each step, so it must cost nothing."""
        ...

    def send(self, events: Sequence[bytes]) -> int:
        """Take over events, each one a JSON object; how many were dropped for want of room."""
        ...


class NoSink:
    """Where executors are not hosted by a worker, nobody wants events."""

    wanted = False

    def send(self, events: Sequence[bytes]) -> int:
        """Drop them."""
        return len(events)


class StepEvents:
    """The events of one executor's steps, with the fields of Celery's own, but those that only the worker knows.

    A step's uuid is the task's, its name is ``namespace.task.step``, earlier attempts are retries, the workflow's task
    is its root. Each event carries the name, so that a step is recognized also when its first events were not heard.
    Steps that are Celery tasks are left out: their workers tell of them.

    Safe from several threads: events are appended, which needs no lock, and ``_flushing`` is held by whoever takes them
    away.

    Args:
        sink: where events go.
        counters: of the executor; gets ``events_dropped``.
    """

    def __init__(self, sink: EventSink, counters: Counters) -> None:
        self._sink = sink
        self._counters = counters
        self._events: list[bytes] = []
        self._flushing = threading.Lock()
        self._flushed_at = 0.0

    def received(self, steps: Iterable[HeldStep]) -> None:
        """Steps were claimed; to be called before they can start."""
        if not self._sink.wanted:
            return
        now = time.time()
        for step in steps:
            if not step.template.delegated:
                # For people, who search for them: what Celery shows of arguments is their representation.
                mapped = f", 'map_index': {step.map_index}" if step.map_index > 0 else ""
                self._tell(
                    step,
                    "task-received",
                    now,
                    f',"args":"()","kwargs":"{{\'task_uuid\': \'{step.task_uuid}\'{mapped}}}"'
                    f',"retries":{step.attempt - 1},"root_id":"{step.task_uuid}"'
                    ',"parent_id":null,"eta":null,"expires":null',
                )

    def started(self, step: HeldStep) -> None:
        """The handler of ``step`` is about to be called."""
        if self._sink.wanted and not step.template.delegated:
            self._tell(step, "task-started", time.time())
            if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
                self.flush()

    def ended(self, outcome: Outcome, state: str | None) -> None:
        """The database has recorded ``outcome``, and the step is in ``state`` now."""
        if not self._sink.wanted or outcome.status == "delegated" or outcome.step.template.delegated:
            return
        step, now = outcome.step, time.time()
        if outcome.status == "complete":
            runtime, result = max(0.0, outcome.ended_at - step.started_at), _json(_shown(outcome.encoded or b""))
            self._tell(step, "task-succeeded", now, f',"runtime":{runtime:.6f},"result":{result}')
        elif outcome.status == "parked":
            text = _json(f"CircuitOpen({outcome.body['circuit']!r})")
            self._tell(step, "task-retried", now, f',"exception":{text},"traceback":{text}')
        else:
            error = outcome.body["error"]
            text = _json(f"{error['type']}({error['message'][:ERROR_CHARACTERS]!r})")
            kind = "task-retried" if state == "waiting_for_retry" else "task-failed"
            self._tell(step, kind, now, f',"exception":{text},"traceback":{text}')

    def revoked(self, steps: Iterable[HeldStep]) -> None:
        """Steps were cancelled while they were held."""
        if self._sink.wanted:
            for step in steps:
                if not step.template.delegated:
                    self._tell(step, "task-revoked", time.time(), ',"terminated":true,"signum":null,"expired":false')

    def flush(self) -> None:
        """Send what has gathered."""
        if not self._events:
            return
        with self._flushing:
            # Others only append meanwhile.
            count = len(self._events)
            events = self._events[:count]
            del self._events[:count]
            self._flushed_at = time.monotonic()
            dropped = self._sink.send(events)
        if dropped:
            self._counters.add(events_dropped=dropped)

    def _tell(self, step: HeldStep, kind: str, timestamp: float, more: str = "") -> None:
        # Written out: an encoder, which knows nothing of what it gets, would take more than twice as long.
        name = _name(step.template.label)
        self._events.append(
            f'{{"type":"{kind}","uuid":"{step.step_uuid}","name":{name},"timestamp":{timestamp:.6f}{more}}}'.encode()
        )
        if len(self._events) >= MAX_WAITING:
            self.flush()


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


_name = functools.lru_cache(maxsize=MAX_KEPT)(_json)
"""Names of steps come again and again."""


def _shown(encoded: bytes) -> str:
    """The beginning of a result, which is JSON."""
    shown = encoded[:RESULT_BYTES].decode("utf-8", "ignore")
    return shown if len(encoded) <= RESULT_BYTES else f"{shown}…"
