"""Publishes the events of steps: a thread of a worker's main process, with a broker connection of its own.

Celery's own dispatcher belongs to the main loop, which must not wait for a broker that is slow. Here only this thread
does; meanwhile the pipe fills, and executors drop what does not fit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

import orjson
from celery import Celery
from celery.events.event import get_exchange
from celery.utils.time import utcoffset
from kombu import Connection, Producer

from tasker.executors.stop import StopSignal
from tasker.executors.wake import HasFileno, wait_readable
from tasker.hosting.host import WorkerHost

logger = logging.getLogger(__name__)

MAX_EVENTS = 4000
"""Events of one message, about."""

PAUSE_SECONDS = 0.05
"""Between two messages, so that the events of all executors gather meanwhile."""

IDLE_SECONDS = 60.0
"""A connection that nothing was sent through for so long is closed."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0

_forking = threading.Lock()
"""Held while connecting, and while the app's clock is used, whose lock would be copied by a fork as it is."""


class EveryGroupBut(set[object]):
    """Groups of events as Celery's dispatcher keeps them: all, but those that were switched off.

    Celery itself has an empty set for "all", of which nothing can be taken away: ``disable_events`` would do nothing to
    a worker that was started with ``-E``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._off: set[object] = set()

    def __bool__(self) -> bool:
        return bool(self._off)

    def __contains__(self, group: object) -> bool:
        return group not in self._off

    def add(self, group: object) -> None:
        """Switch a group on."""
        self._off.discard(group)

    def discard(self, group: object) -> None:
        """Switch a group off."""
        self._off.add(group)


class EventPublisher:
    """Sends what comes through a worker's ``EventPipe``, several events as one message, as Celery's dispatcher does.

    Args:
        host: the worker.
        app: its Celery app, whose clock orders events.
    """

    def __init__(self, host: WorkerHost, app: Celery) -> None:
        self._host = host
        self._app = app
        self._groups = EveryGroupBut()
        self._ending = StopSignal()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._broker_was_away = False
        self._late = False
        self._wait = FIRST_WAIT_SECONDS
        self.published = 0
        """Events sent so far."""
        self.dropped = 0
        """Events that a broker which was away did not get; what the pipe had no room for is counted by executors."""

    def heed(self, dispatcher: Any) -> None:
        """Publish as long as the worker's own event dispatcher is to send events of tasks: ``-E``, ``enable_events``.

        Args:
            dispatcher: Celery's; ``None`` while there is none.
        """
        if dispatcher is not None and not dispatcher.groups:
            # A new dispatcher after each reconnect, of which Celery forgets what was switched off.
            dispatcher.groups = self._groups
        wanted = dispatcher is not None and dispatcher.enabled and "task" in dispatcher.groups
        if wanted and self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._run, name="tasker-events", daemon=True)
            self._thread.start()
        self._host.events.wanted = wanted

    def end(self, timeout_seconds: float = 3) -> None:
        """After the pool stopped: send what is left, and close the connection."""
        self._host.events.wanted = False
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pipe = self._host.events
        sources: list[HasFileno] = [pipe, self._ending]
        try:
            while not self._ending.is_set():
                if wait_readable(sources, IDLE_SECONDS if self._connection is not None else None):
                    self._publish(pipe.read(MAX_EVENTS))
                    wait_readable([self._ending], PAUSE_SECONDS)
                else:
                    self._disconnect()
            while events := pipe.read(MAX_EVENTS):
                self._publish(events)
            if self._late:
                # The worker has said that it goes offline, and events that come later make it look alive again.
                self._publish([orjson.dumps({"type": "worker-offline", "timestamp": time.time()})])
        finally:
            self._disconnect()

    def _publish(self, events: Sequence[bytes]) -> None:
        """Send events as one message. If that fails, they are lost, and the next ones wait a while."""
        if not events:
            return
        try:
            producer = self._producer or self._connect()
            self._send(producer, events)
        except Exception as error:
            # Whatever a transport raises when its broker is away.
            self._disconnect()
            self.dropped += len(events)
            if not self._broker_was_away:
                logger.warning("Events of steps cannot be sent; dropped until the broker is back: %s", error)
            self._broker_was_away = True
            wait_readable([self._ending], self._wait)
            self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
            return
        if self._broker_was_away:
            logger.info("Events of steps are sent again; %d were dropped", self.dropped)
        self._broker_was_away, self._wait = False, FIRST_WAIT_SECONDS
        self._late = self._host.stop.is_set()
        self.published += len(events)

    def _send(self, producer: Producer, events: Sequence[bytes]) -> None:
        # What only the worker knows is put behind what the executor said of the step.
        worker = {"hostname": self._host.hostname, "pid": self._host.pid, "utcoffset": utcoffset()}
        common = orjson.dumps(worker)[1:]
        clocks = enumerate(events, self._clocks(len(events)))
        body = b"[%b]" % b",".join(b'%b,"clock":%d,%b' % (event[:-1], clock, common) for clock, event in clocks)
        options: dict[str, Any] = {
            "routing_key": "task.multi",
            "exchange": producer.exchange.name,
            "declare": [producer.exchange],
            "delivery_mode": 1,
            "retry": False,
        }
        headers = {"hostname": self._host.hostname}
        if self._app.conf.event_serializer == "json":
            # Events repeat each other, so a tenth is left of them: the broker and its readers have less to move.
            producer.publish(
                zlib.compress(body, 1),
                content_type="application/json",
                content_encoding="utf-8",
                headers={**headers, "compression": "application/x-gzip"},  # kombu's name of it
                **options,
            )
        else:
            producer.publish(orjson.loads(body), serializer=self._app.conf.event_serializer, headers=headers, **options)

    def _clocks(self, count: int) -> int:
        """As many times of the app's logical clock, in a row; the first one."""
        clock = self._app.clock
        with _forking, clock.mutex:
            clock.value += count
            return int(clock.value) - count + 1

    # -- the connection -------------------------------------------------------------------------------------------

    def _connect(self) -> Producer:
        with _forking:
            connection = self._connection = self._app.connection_for_write()
            connection.ensure_connection(max_retries=1, interval_start=0.1)
            exchange = get_exchange(connection, name=self._app.conf.event_exchange)
            self._producer = Producer(connection, exchange=exchange, auto_declare=False)
        return self._producer

    def _disconnect(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forking.release)
