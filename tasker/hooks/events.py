"""Publishing domain events: what they carry, and their fast delivery.

Durable events are stored by the SQL core, with the outcome that they tell of. Here their payloads are made before that,
where a publisher or a schema asks for it, and fast ones are handed over after it. Nothing here fails a step: what it
did stands, whatever becomes of telling it.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from tasker.encoding import decode, encode
from tasker.errors import TaskerError
from tasker.handlers.events import DomainEvent, EventDraft, Subscriber, subscribers_of
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.events import calls_for
from tasker.workflows.schemas import SchemaInvalid, compile_schema

logger = logging.getLogger(__name__)

NOT_VALID = "event_not_valid"
"""Reason of a dead letter: the payload does not fit the event's schema, or cannot be stored."""

PUBLISHER_FAILED = "event_publisher_failed"
"""Reason of a dead letter: the publisher is not to be found, or raised."""

MAX_WAITING = 10_000
"""Fast events that wait for their subscribers; more are dropped."""

COUNTED_AT_ONCE = 100
"""Events that were handed over are counted together, so many or until none waits."""

CLOSE_SECONDS = 1.0
"""How long those that wait are still handed over when their executor ends."""

GIVES_UP = (Exception, SystemExit, asyncio.CancelledError)
"""What a publisher may raise without an end to anything but its event."""

_CONDITIONS = {
    "complete": "success",
    "resolved_manually": "success",
    "waiting_for_retry": "retryable_failure",
    "error": "permanent_failure",
}

Declared = Mapping[str, Any]
"""An event as it is registered: ``name``, ``condition``, ``delivery``, ``publisher``, ``schema``."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Payloads by name of the event, where they differ from what the SQL core would send, and what is not sent.

    Attributes:
        events: payloads.
        rejected: ``reason``, ``message`` and ``payload`` of events that go to dead letters.
    """

    events: Mapping[str, Any]
    rejected: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The parts of an outcome that say it."""
        found = {"events": self.events, "rejected_events": self.rejected}
        return {name: value for name, value in found.items() if value}


class EventMaker:
    """Makes payloads by publishers and checks them. Threads may share one.

    Args:
        handlers: finds publishers.
        max_bytes: the largest payload allowed, as JSON.
    """

    def __init__(self, handlers: HandlerRegistry, max_bytes: int) -> None:
        self._handlers = handlers
        self._max_bytes = max_bytes

    def prepare(
        self, declared: Iterable[Declared], draft: EventDraft, given: Mapping[str, Any] | None = None
    ) -> Prepared:
        """The payloads of those of ``declared`` that ``draft.condition`` calls for.

        Args:
            declared: events of the step or the task.
            draft: what is known of all of them; ``name`` is put in.
            given: payloads that came with the outcome; they are checked, and no publisher is asked.
        """
        events: dict[str, Any] = {}
        rejected: dict[str, Mapping[str, Any]] = {}
        for event in declared:
            name = event["name"]
            is_given = given is not None and name in given
            publisher, schema = None if is_given else event.get("publisher"), event.get("schema")
            if (publisher is None and schema is None) or not calls_for(event["condition"], draft.condition):
                continue
            payload, reason = given[name] if given is not None and is_given else draft.payload, PUBLISHER_FAILED
            try:
                if publisher is not None:
                    payload = self._published(publisher, replace(draft, name=name))
                reason = NOT_VALID
                difference = None if schema is None else compile_schema(schema).explain(payload)
                problem = None if difference is None else difference[0]
            except GIVES_UP as error:
                problem = _told(error)
            if problem is not None:
                logger.warning("event %s of task %s is not published: %s: %s", name, draft.task_uuid, reason, problem)
                text = problem.encode("utf-8", "replace").decode().replace("\0", "?")[:4096]
                rejected[name] = {"reason": reason, "message": text, "payload": payload}
            elif publisher is not None:
                events[name] = payload
        return Prepared(events, rejected)

    def _published(self, publisher: str, draft: EventDraft) -> Any:
        """What the publisher makes, as a plain JSON value that can be stored."""
        function = self._handlers.find_object(publisher)
        if not callable(function):
            function = getattr(function, "publish", None)
        if not callable(function):
            raise TypeError(f"{publisher} is no function, and has no method publish")
        payload = function(draft)
        if inspect.isawaitable(payload):
            if inspect.iscoroutine(payload):
                payload.close()
            raise TypeError(f"{publisher} is async: a publisher is a plain function that returns the payload")
        return decode(encode(payload, what=f"the payload of event {draft.name}", max_bytes=self._max_bytes))


class FastEvents:
    """Hands events to the subscribers of this process, on a thread of its own: no step ever waits for one.

    Args:
        handlers: imports the modules in which subscribers are declared.
        count: called with ``fast_events_delivered``, ``fast_events_failed`` and ``fast_events_dropped``.
    """

    def __init__(self, handlers: HandlerRegistry, count: Callable[..., None]) -> None:
        self._handlers = handlers
        self._count = count
        self._waiting: queue.Queue[DomainEvent | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()  # guards the thread
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, event: DomainEvent) -> None:
        """Hand over, soon; dropped where too many wait."""
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._count(fast_events_dropped=1)
            return
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="tasker-fast-events", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Hand over what waits, for a moment, and end. A subscriber that still runs is not waited for."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            pass
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            logger.warning("subscribers of fast events are slow: about %d are dropped", self._waiting.qsize())

    def _run(self) -> None:
        delivered = 0
        with asyncio.Runner() as runner:
            while (event := self._waiting.get()) is not None:
                for subscriber in self._subscribers(event.name):
                    try:
                        answer = subscriber(event)
                        if inspect.isawaitable(answer):
                            runner.run(_wait_for(answer))
                    except BaseException:
                        # Also what asks a thread to end, or a coroutine: this thread is everybody's.
                        logger.exception("a subscriber of event %s failed", event.name)
                        self._count(fast_events_failed=1)
                    else:
                        delivered += 1
                if delivered and (delivered >= COUNTED_AT_ONCE or self._waiting.empty()):
                    self._count(fast_events_delivered=delivered)
                    delivered = 0

    def _subscribers(self, name: str) -> Sequence[Subscriber]:
        try:
            self._handlers.import_all()
        except TaskerError:
            logger.warning("not all modules could be imported: some may have subscribers", exc_info=True)
        return subscribers_of(name)


class Publishing:
    """What one executor does about domain events: payloads before an outcome is reported, the rest after it.

    Args:
        handlers: finds publishers and subscribers.
        max_bytes: the largest payload allowed, as JSON.
        count: raises counters of the executor.
    """

    def __init__(self, handlers: HandlerRegistry, max_bytes: int, count: Callable[..., None]) -> None:
        self._maker = EventMaker(handlers, max_bytes)
        self._fast = FastEvents(handlers, count)
        self._count = count

    def prepare(
        self, declared: Sequence[Declared], draft: EventDraft, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What is to be added to an outcome, before it is reported; as ``EventMaker.prepare``."""
        return self._maker.prepare(declared, draft, given).to_json()

    def ended(
        self,
        declared: Sequence[Declared],
        outcome: Mapping[str, Any],
        condition: str,
        namespace: str,
        common: Callable[[], dict[str, Any]],
    ) -> None:
        """An outcome was recorded: count its durable events, and hand over its fast ones.

        Args:
            declared: events of the step or the task.
            outcome: as it was reported, with ``events`` and ``rejected_events``.
            condition: what happened.
            namespace: of the workflow.
            common: makes what its events have in common: all of ``DomainEvent`` but ``name`` and ``event_id``.
        """
        given, rejected = outcome.get("events") or {}, outcome.get("rejected_events") or {}
        sent = 0
        fields: dict[str, Any] = {}
        for told in declared:
            name = told["name"]
            if not calls_for(told["condition"], condition) or name in rejected:
                continue
            sent += told["delivery"] != "fast"
            if told["delivery"] != "durable":
                fields = fields or common()
                uuid, number = fields["step_uuid"] or fields["task_uuid"], fields["fence"] or fields["finish_no"]
                own = {"name": name, "event_id": event_id(uuid, number, name)}
                if name in given:
                    own["payload"] = given[name]
                self._fast.put(DomainEvent(**{**fields, **own}))
        if sent:
            self._count(**{f"events_published_total|{namespace}": sent})

    def close(self) -> None:
        """End the delivery of fast events."""
        self._fast.close()


def condition_of(state: str) -> str:
    """What it means for an event that a step, or a task, came to ``state``."""
    return _CONDITIONS.get(state, state)


def condition_of_task(state: str) -> str:
    """The same of a task: what an operator did is no success of the workflow's own."""
    return state if state == "resolved_manually" else condition_of(state)


def event_id(uuid: str, number: int | None, name: str) -> str:
    """The id of an event: of a step's uuid and the fence, or a task's uuid and the number of its finish."""
    return str(UUID(hashlib.md5(f"{uuid}:{number}:{name}".encode(), usedforsecurity=False).hexdigest()))


async def _wait_for(awaitable: Any) -> None:
    await awaitable


def _told(error: BaseException) -> str:
    if isinstance(error, SchemaInvalid):
        return f"its schema is no JSON Schema: {error.message}"
    return error.message if isinstance(error, TaskerError) else f"{type(error).__name__}: {error}"
