"""``Tasker``: start workflows and follow them, from any Python program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasker.client import events
from tasker.client.async_client import AsyncClient
from tasker.client.events import EventConsumer, EventHandler, Stop
from tasker.client.requests import as_uuid
from tasker.client.sync_client import SyncClient
from tasker.client.watching import Watch

if TYPE_CHECKING:
    from tasker.client.core import Task
    from tasker.handlers.events import DomainEvent


class Tasker(SyncClient, AsyncClient):
    """A client of Tasker.

    ``Tasker()`` works on the database of the settings (the embedded one where they name none), ``Tasker(address)`` and
    ``Tasker(engine)`` on that one. Making one costs nothing: connections come with the first call, one pool per
    process, also after a fork. Threads may share one. Close it, or use it in a ``with`` (``async with``) block.

    Methods that begin with ``a`` are for event loops; so are ``wait_async`` and ``wait_all_async``.
    """

    def watch(self, task: Task) -> Watch:
        """Follow a task: the state changes of it and its steps so far, then each as it is committed, until it finishes.

        Iterate with ``for`` or, in an event loop, with ``async for``.

        Raises:
            NotFound: on the first step of the iteration: there is no such task.
        """
        return Watch(self._connections, as_uuid(task))

    def consume_events(
        self,
        namespace: str,
        pattern: str,
        handler: EventHandler,
        *,
        batch_size: int = 100,
        visibility_timeout_seconds: float | None = None,
        stop: Stop | None = None,
        until_empty: bool = False,
    ) -> int:
        """Handle the durable domain events of a namespace: ``handler(event: DomainEvent)`` is called for each.

        At least once: an event is deleted when the handler has returned. One whose handler fails, or whose consumer
        dies, shows again after the visibility timeout;
        ``event.event_id`` is its idempotency key. One that has failed ``pgmq.max_receive_count`` times becomes a dead
        letter. All consumers of a namespace share its events: each is handled by one of them. Blocks; use a thread
        (``asyncio.to_thread``) beside an event loop.

        Args:
            namespace: whose workflows published them.
            pattern: of their names; ``*`` stands for any characters. Others are left to other consumers.
            handler: a plain function of one ``DomainEvent``; it returning is what deletes the event.
            batch_size: most events read at once, and deleted together.
            visibility_timeout_seconds: how long events that were read are hidden from others;
                ``pgmq.visibility_timeout_seconds`` when ``None``. Longer than a handler takes.
            stop: ends it when set, after the event at hand; a ``threading.Event``.
            until_empty: return when there are no more, instead of waiting for others.

        Returns:
            How many were handled.

        Raises:
            NotFound: no workflow of the namespace publishes durable events.
            InvalidRequest: an argument has a wrong form; ``field`` names it.
        """
        kept = self._connections.settings.pgmq
        consumer = EventConsumer(
            self._connections,
            namespace,
            pattern,
            batch_size=batch_size,
            visibility_timeout_seconds=(
                kept.visibility_timeout_seconds if visibility_timeout_seconds is None else visibility_timeout_seconds
            ),
            max_receive_count=kept.max_receive_count,
        )
        return consumer.run(handler, stop=stop, until_empty=until_empty)

    def tail_events(
        self, namespace: str, pattern: str = "*", *, from_start: bool = False, follow: bool = True
    ) -> Iterator[DomainEvent]:
        """Look at durable domain events as they come, and take none; those consumed meanwhile may be missed.

        Args:
            namespace: whose workflows publish them.
            pattern: of their names; ``*`` stands for any characters.
            from_start: begin with the oldest that is there, not with the next that comes.
            follow: wait for more after the last one.

        Raises:
            NotFound: on the first step of the iteration: no workflow of the namespace publishes durable events.
        """
        return events.tail(self._connections, namespace, pattern, from_start=from_start, follow=follow)
