"""Consuming durable domain events: read, handled, deleted; at least once."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from tasker.client.connections import Connections
from tasker.client.operations import ask
from tasker.database import functions
from tasker.database.connection import is_connection_lost
from tasker.errors import InvalidRequest
from tasker.handlers.events import DomainEvent, compile_pattern

logger = logging.getLogger(__name__)

EventHandler = Callable[[DomainEvent], Any]

NOT_AN_EVENT = "not_a_domain_event"
NOT_HANDLED = "event_not_handled"

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 1.0
_MAX_BATCH = 1000


class Stop(Protocol):
    """What tells a consumer to end; ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether to end."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait for it for at most ``timeout`` seconds."""
        ...


class EventConsumer:
    """Reads the events of one namespace in batches, and settles each batch when its handler has seen it.

    Args:
        connections: of the client.
        namespace: whose events.
        pattern: of names; ``*`` stands for any characters.
        batch_size: most events read at once.
        visibility_timeout_seconds: after this, an event that was read and not settled shows again.
        max_receive_count: an event whose handler failed so often becomes a dead letter.

    Raises:
        InvalidRequest: one of these has a wrong form; ``field`` names it.
    """

    def __init__(
        self,
        connections: Connections,
        namespace: str,
        pattern: str,
        *,
        batch_size: int,
        visibility_timeout_seconds: float,
        max_receive_count: int,
    ) -> None:
        try:
            compile_pattern(pattern)
        except ValueError as error:
            raise InvalidRequest(str(error), field="pattern") from error
        if not 1 <= batch_size <= _MAX_BATCH:
            raise InvalidRequest(f"batch_size must be 1 to {_MAX_BATCH}, not {batch_size!r}", field="batch_size")
        if not 1 <= visibility_timeout_seconds <= 604_800:
            raise InvalidRequest(
                f"must be 1 to 604,800 seconds, not {visibility_timeout_seconds!r}", field="visibility_timeout_seconds"
            )
        self._connections = connections
        self._namespace = namespace
        self._visible_again_seconds = visibility_timeout_seconds
        self._max_receive_count = max_receive_count
        self._reading = {
            "namespace": namespace,
            "pattern": pattern,
            "limit": batch_size,
            "visibility_timeout_seconds": visibility_timeout_seconds,
        }

    def run(self, handler: EventHandler, *, stop: Stop | None, until_empty: bool) -> int:
        """Handle events until told to ``stop``, or until there are none; how many were handled.

        Raises:
            NotFound: the namespace publishes nothing.
            InvalidRequest: the handler cannot be called like a plain function.
        """
        _check_plain(handler)
        stop = stop or threading.Event()
        handled, after, quiet = 0, 0, True
        pause = _FIRST_PAUSE_SECONDS
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = self._ask(functions.read_events({**self._reading, "after": after}))
                handled += self._handle(answer["events"], handler, stop, began)
            except (psycopg.Error, SQLAlchemyError) as error:
                if not is_connection_lost(error):
                    raise
                # What was read and not settled shows again, here or elsewhere.
                logger.warning("domain events of %s: the connection was lost; trying again", self._namespace)
                stop.wait(_LONGEST_PAUSE_SECONDS)
                continue
            quiet = quiet and not answer["events"]
            if not answer["is_end"]:
                after = answer["last"]
                continue
            if quiet:
                if until_empty:
                    break
                stop.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                pause = _FIRST_PAUSE_SECONDS
            # From the front again: what was not settled, or was committed late, shows there.
            after, quiet = 0, True
        return handled

    def _handle(self, entries: list[dict[str, Any]], handler: EventHandler, stop: Stop, began: float) -> int:
        done: list[int] = []
        refused: list[dict[str, Any]] = []
        failed: set[int] = set()
        try:
            for entry in entries:
                # Half of the time that they are hidden: what is left is given to others before they see it anyway.
                if stop.is_set() or time.monotonic() - began > self._visible_again_seconds / 2:
                    break
                msg_id = entry["msg_id"]
                failed.add(msg_id)
                try:
                    event = DomainEvent.from_json(entry["event"])
                except ValueError as error:
                    refused.append(_refused(msg_id, NOT_AN_EVENT, str(error)))
                    continue
                try:
                    _plainly(handler, event)
                except Exception as error:
                    logger.exception("the handler of event %s (%s) failed", event.name, event.event_id)
                    if entry["read_count"] >= self._max_receive_count:
                        why = f"its handler failed {entry['read_count']} times: {type(error).__name__}: {error}"
                        refused.append(_refused(msg_id, NOT_HANDLED, why))
                else:
                    done.append(msg_id)
        finally:
            again = [entry["msg_id"] for entry in entries if entry["msg_id"] not in failed]
            if done or refused or again:
                request = {"namespace": self._namespace, "done": done, "refused": refused, "again": again}
                self._ask(functions.settle_events(request))
        return len(done)

    def _ask(self, call: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._connections.drive(ask(call))
        return answer


def tail(
    connections: Connections, namespace: str, pattern: str, *, from_start: bool, follow: bool
) -> Iterator[DomainEvent]:
    """Events as they come, without taking them; those that consumers took before they were seen here are missed.

    Raises:
        NotFound: the namespace publishes nothing.
    """
    after = 0
    reading = {"namespace": namespace, "pattern": pattern, "peek": True, "limit": _MAX_BATCH}
    if not from_start:
        after = connections.drive(ask(functions.read_events({**reading, "limit": 1})))["newest"] or 0
    pause = _FIRST_PAUSE_SECONDS
    while True:
        answer = connections.drive(ask(functions.read_events({**reading, "after": after})))
        for entry in answer["events"]:
            try:
                yield DomainEvent.from_json(entry["event"])
            except ValueError:
                logger.warning("message %s of namespace %s is no domain event", entry["msg_id"], namespace)
        pause = _FIRST_PAUSE_SECONDS if answer["events"] else min(pause * 2, _LONGEST_PAUSE_SECONDS)
        after = max(after, answer["last"] or 0)
        if answer["is_end"]:
            if not follow:
                return
            time.sleep(pause)


def _check_plain(handler: Any) -> None:
    if not callable(handler) or inspect.iscoroutinefunction(handler):
        raise InvalidRequest(
            f"a handler is a plain function of one event, unlike {handler!r}",
            hint="have a plain function call the async one, by asyncio.run",
            field="handler",
        )


def _plainly(handler: EventHandler, event: DomainEvent) -> None:
    """Call the handler; what is still to be awaited has handled nothing, and must not count as if it had."""
    answer = handler(event)
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError("the handler returned something to be awaited: it must be a plain function")


def _refused(msg_id: int, reason: str, message: str) -> dict[str, Any]:
    text = message.encode("utf-8", "replace").decode().replace("\0", "?")[:4096]
    return {"msg_id": msg_id, "rejected": {"reason": reason, "message": text}}
