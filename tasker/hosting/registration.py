"""The worker's own row, and the news it brings back: namespaces that are new."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from tasker.database import coordination, functions
from tasker.database.calls import Call, run
from tasker.database.connection import Database
from tasker.executors.wake import wait_readable
from tasker.hosting.host import WorkerHost

T = TypeVar("T")

logger = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 3000
PATIENCE_SECONDS = 5.0
"""Silence that is borne: forks wait for this thread, and so do all that the worker's main thread does."""

# A fork copies one thread, and whatever locks the others hold stay locked in the child for ever. So no fork happens
# while this thread talks to the database, and none of what the libraries lock meanwhile is copied.
_talking = threading.Lock()


class Registration:
    """Writes the worker's row from a thread of its main process, once per period, until the worker stops.

    Args:
        host: the worker.
        database: makes the connection.
        period_seconds: between two heartbeats.
        queues: the Celery queues consumed at present.
        on_namespaces: called with the namespaces there are, after each heartbeat.
    """

    def __init__(
        self,
        host: WorkerHost,
        database: Database,
        *,
        period_seconds: float,
        queues: Callable[[], Sequence[str]],
        on_namespaces: Callable[[Sequence[str]], None],
    ) -> None:
        self._host = host
        self._database = database
        self._period = period_seconds
        self._queues = queues
        self._on_namespaces = on_namespaces
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="tasker-registration", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self, timeout_seconds: float = 5) -> None:
        """After the worker stopped: wait until its row is gone."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except (psycopg.Error, OSError) as error:
                self._drop()
                logger.warning("Worker %s could not register: %s", self._host.hostname, error)
            if wait_readable([self._host.stop], self._period):
                break
        try:
            self._call(coordination.deregister_worker(self._host.hostname, self._host.pid))
        except (psycopg.Error, OSError) as error:
            logger.info("Worker %s could not deregister: %s", self._host.hostname, error)
        self._drop()

    def _beat(self) -> None:
        namespaces = self._call(
            coordination.worker_heartbeat(
                hostname=self._host.hostname,
                pid=self._host.pid,
                pool=self._host.pool,
                concurrency=self._host.slots + self._host.spare_slots,
                queues=self._queues(),
            )
        )
        self._on_namespaces(namespaces)

    def _call(self, call: Call[T]) -> T:
        with _talking:
            if self._connection is None or self._connection.closed:
                self._connection = self._database.connect(
                    application_name="tasker worker", connect_timeout=3, patience_seconds=PATIENCE_SECONDS
                )
            with self._connection.transaction():
                run(self._connection, functions.set_local(statement_timeout=f"{STATEMENT_TIMEOUT_MS}ms"))
                return run(self._connection, call)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with _talking:
                connection.close()


os.register_at_fork(before=_talking.acquire, after_in_parent=_talking.release, after_in_child=_talking.release)
