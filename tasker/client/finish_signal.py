"""A process's ear for finished tasks: one channel, one row in ``waiters``, however many waits there are.

``complete_steps`` names the channels of waiters, and executors notify them after their commit. A notification says only
that *some* task finished; who waits looks again. Without LISTEN (a pooler, an engine with an address of its own)
nothing is lost: polling stands behind it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from tasker.client.connections import Connections
from tasker.database import functions
from tasker.errors import TaskerError
from tasker.messaging.listener import Listener, Subscription

logger = logging.getLogger(__name__)

_ROW_LIVES_SECONDS = 60
_RENEW_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0


class FinishSignal:
    """Tells callbacks that tasks may have finished.

    Args:
        connections: the client's.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._own = _Ear()

    @contextmanager
    def heard_by(self, callback: Callable[[], object], patience_seconds: float | None = None) -> Iterator[None]:
        """Call ``callback``, on another thread, whenever a task may have finished, until the block is left."""
        ear = self._ear()
        ear.callbacks[callback] = None
        try:
            self.keep_alive(patience_seconds)
            yield
        finally:
            del ear.callbacks[callback]

    def keep_alive(self, patience_seconds: float | None = None) -> None:
        """See that the process listens and that its row lives on; cheap when they do. Waits call it each round.

        Args:
            patience_seconds: longest silence of the server; never more than a few seconds, as other waits stand behind.
        """
        ear = self._ear()
        if time.monotonic() < ear.renew_at or not self._connections.settings.pgmq.notify_enabled:
            return
        with ear.lock:
            if time.monotonic() < ear.renew_at:
                return
            ear.renew_at = time.monotonic() + _RENEW_SECONDS
            try:
                database = self._connections.database
                if ear.listener is None:
                    seconds = self._connections.settings.database.answer_timeout_seconds
                    ear.listener = Listener(database.url, answer_timeout_seconds=seconds)
                    ear.subscription = ear.listener.subscribe(ear.channel, ear.hear)
                # After LISTEN: whatever finishes from now on is notified to somebody who hears it.
                patience = min(_PATIENCE_SECONDS, patience_seconds or _PATIENCE_SECONDS)
                with database.connection(patience_seconds=patience) as connection:
                    functions.run(connection, functions.add_waiter(ear.channel, _ROW_LIVES_SECONDS))
            except (psycopg.OperationalError, TaskerError) as error:
                logger.debug("no notification of finished tasks, only polling: %s", error)

    def close(self) -> None:
        """Stop listening. The row is deleted, or expires by itself if that fails."""
        ear, self._own = self._own, _Ear()
        if ear.pid != os.getpid() or ear.listener is None:
            return
        if ear.subscription is not None:
            ear.subscription.close()
        ear.listener.close()
        try:
            with self._connections.database.connection(patience_seconds=_PATIENCE_SECONDS) as connection:
                functions.run(connection, functions.remove_waiter(ear.channel))
        except (psycopg.OperationalError, TaskerError) as error:
            logger.debug("the waiter %s is left to expire: %s", ear.channel, error)

    def _ear(self) -> _Ear:
        if self._own.pid != os.getpid():
            self._own = _Ear()
        return self._own


class _Ear:
    """What one process listens with."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.channel = f"tasker_wait_{uuid.uuid4().hex}"
        # A dict, because adding and removing a key is atomic, and the listener's thread copies it in one step.
        self.callbacks: dict[Callable[[], object], None] = {}
        self.listener: Listener | None = None
        self.subscription: Subscription | None = None
        self.renew_at = 0.0

    def hear(self) -> None:
        """Called by the listener's thread."""
        for callback in tuple(self.callbacks):
            callback()
