"""One connection of a worker's main process, for a thread beside its loop: nothing of it reaches a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tasker.database.connection import Database

CONNECT_SECONDS = 3
PATIENCE_SECONDS = 5.0
"""Silence that is borne: forks wait for such a thread, and so does all that the worker's main thread does."""

# A fork copies one thread, and whatever locks the others hold stay locked in the child for ever. So no fork happens
# while such a thread talks to the database, and none of what the libraries lock meanwhile is copied.
_talking = threading.Lock()


class SideConnection:
    """A connection that is made when it is needed, and again when it was lost; one thread at a time may use it.

    Args:
        database: makes the connection. Its pool has threads, and is not used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process made it, rather than inherited it by a fork."""
        return os.getpid() == self._pid

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, in autocommit, for the time of a block. No fork happens meanwhile.

        Raises:
            psycopg.OperationalError: the server cannot be reached, or does not answer.
        """
        with _talking:
            if self._connection is None or self._connection.closed:
                self._connection = self._database.connect(
                    connect_timeout=CONNECT_SECONDS, patience_seconds=PATIENCE_SECONDS
                )
            try:
                yield self._connection
            except psycopg.OperationalError:
                self._drop()
                raise

    def close(self) -> None:
        """Close it, if there is one."""
        with _talking:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


os.register_at_fork(before=_talking.acquire, after_in_parent=_talking.release, after_in_child=_talking.release)
