"""The worker's own row, and the news it brings back: namespaces that are new."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from tasker.database import coordination, functions
from tasker.database.calls import Call, run
from tasker.database.operational import judge_operational_state
from tasker.executors.wake import wait_readable
from tasker.hosting.host import WorkerHost
from tasker.hosting.side_connection import SideConnection
from tasker.hosting.sizing import WorkerSize

T = TypeVar("T")

logger = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 3000
LATE_BEATS = 3
"""A worker that has missed so many of its heartbeats is not there."""


class Registration:
    """Writes the worker's row from a thread of its main process, once per period, until the worker stops.

    Args:
        host: the worker.
        connection: this thread's.
        period_seconds: between two heartbeats.
        queues: the Celery queues consumed at present.
        size: what it can host.
        on_namespaces: called with the namespaces there are, after each heartbeat.
    """

    def __init__(
        self,
        host: WorkerHost,
        connection: SideConnection,
        *,
        period_seconds: float,
        queues: Callable[[], Sequence[str]],
        size: WorkerSize,
        on_namespaces: Callable[[Sequence[str]], None],
    ) -> None:
        self._host = host
        self._connection = connection
        self._period = period_seconds
        self._queues = queues
        self._size = size
        self._on_namespaces = on_namespaces
        self._told = False
        self._thread = threading.Thread(target=self._run, name="tasker-registration", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self, timeout_seconds: float = 5) -> None:
        """After the worker stopped: wait until its row is gone, and say so if it was the last."""
        self._thread.join(timeout_seconds)
        if not self._thread.is_alive():
            self._leave()
            self._connection.close()

    def _run(self) -> None:
        while True:
            try:
                self._beat()
                if not self._told:
                    # Nobody ticks yet where all had stopped.
                    self._call(judge_operational_state(within_seconds=LATE_BEATS * self._period))
                    self._told = True
            except (psycopg.Error, OSError) as error:
                self._connection.close()
                logger.warning("Worker %s could not register: %s", self._host.hostname, error)
            if wait_readable([self._host.stop], self._period):
                break
        try:
            self._call(coordination.deregister_worker(self._host.hostname, self._host.pid))
        except (psycopg.Error, OSError) as error:
            logger.info("Worker %s could not deregister: %s", self._host.hostname, error)
        self._leave()
        self._connection.close()

    def _leave(self) -> None:
        """The system ends if nobody else is there: said when the worker begins to stop, and when all has ended."""
        try:
            self._call(judge_operational_state(within_seconds=LATE_BEATS * self._period, leaving=True))
        except (psycopg.Error, OSError) as error:
            logger.info("Worker %s could not say that it leaves: %s", self._host.hostname, error)

    def _beat(self) -> None:
        namespaces = self._call(
            coordination.worker_heartbeat(
                hostname=self._host.hostname,
                pid=self._host.pid,
                pool=self._host.pool,
                concurrency=self._host.executor_slots + self._host.spare_slots,
                queues=self._queues(),
                **self._size.capacity(),
            )
        )
        self._on_namespaces(namespaces)

    def _call(self, call: Call[T]) -> T:
        with self._connection.connection() as connection, connection.transaction():
            timeout = f"{STATEMENT_TIMEOUT_MS}ms"
            run(connection, functions.set_local(statement_timeout=timeout, idle_in_transaction_session_timeout=timeout))
            return run(connection, call)
