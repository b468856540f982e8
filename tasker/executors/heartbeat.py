"""The thread that says that executors live, whatever their handlers do meanwhile."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence

import psycopg

from tasker.database.connection import Database
from tasker.errors import TaskerError
from tasker.executors.base import RegisteredExecutor
from tasker.executors.link import Link
from tasker.resilience.circuits import Circuit
from tasker.resilience.reconnecting import GaveUp

logger = logging.getLogger(__name__)

SOONEST_SECONDS = 0.1
"""Shortest time between an early heartbeat and the one before it."""

CLOSE_SECONDS = 2.0
"""Longest wait for the thread to end; what keeps it is a server that cannot be reached."""


class Heartbeat:
    """One thread with one connection, for all executors of a loop. ``_state`` owns ``_soon`` and ``_closing``.

    Args:
        executors: for whom.
        database: where their rows are.
        circuit: guards connecting.
        interval_seconds: time between two heartbeats of one executor.
        patience_seconds: a server that says nothing for so long is asked again over another connection; ``None``: as
            long as any call waits.
    """

    def __init__(
        self,
        executors: Sequence[RegisteredExecutor],
        *,
        database: Database,
        circuit: Circuit,
        interval_seconds: float,
        patience_seconds: float | None = None,
    ) -> None:
        self._executors = executors
        self._interval = interval_seconds
        self._state = threading.Condition()
        self._soon = False
        self._closing = False
        patience = math.inf if patience_seconds is None else patience_seconds
        self._link = Link(
            database,
            name="tasker heartbeat",
            circuit=circuit,
            give_up=self._is_closing,
            sleep=self._sleep,
            patience=lambda: patience,
        )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tasker-heartbeat", daemon=True)
            self._thread.start()

    def soon(self) -> None:
        """Send the next heartbeat before its time. Safe from any thread."""
        with self._state:
            self._soon = True
            self._state.notify()

    def close(self) -> None:
        """End the thread and close the connection, within ``CLOSE_SECONDS``. Idempotent.

        A thread that waits for a connection meanwhile ends when that has come, or has failed to.
        """
        with self._state:
            self._closing = True
            self._state.notify()
        self._link.hurry()
        if self._thread is None:
            self._link.close()
            return
        # One that is known to wait in vain is not waited for.
        self._thread.join(0 if self._link.silent else CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("the heartbeat still waits for the database; its thread is left to end by itself")

    def _run(self) -> None:
        try:
            self._beat_until_closed()
        finally:
            self._link.close()

    def _beat_until_closed(self) -> None:
        while self._wait():
            for executor in self._executors:
                try:
                    executor.beat(self._link)
                except GaveUp:
                    return
                except (psycopg.Error, TaskerError):
                    # Not hearing from an executor once or twice is not a loss; the next one may pass.
                    logger.exception("a heartbeat failed")
                executor.look_after()

    def _wait(self) -> bool:
        """Wait for the next round; false when there is none."""
        with self._state:
            if not self._state.wait_for(lambda: self._soon or self._closing, self._interval):
                return True
            if self._closing:
                return False
            # Give others that are about to ask the chance to come along.
            self._state.wait_for(lambda: self._closing, min(SOONEST_SECONDS, self._interval))
            self._soon = False
            return not self._closing

    def _is_closing(self) -> bool:
        return self._closing

    def _sleep(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._closing, seconds)
