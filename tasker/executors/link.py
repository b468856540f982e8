"""A dedicated connection that is opened on first use and again when it was lost, and the calls made over it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from tasker.database import functions, work
from tasker.database.calls import Call, run
from tasker.database.connection import Database, is_connection_lost
from tasker.errors import CircuitOpen, EmbeddedServerError, TaskerError
from tasker.resilience.answer_timeout import AnswerTimeout, TimedConnection
from tasker.resilience.circuits import Circuit
from tasker.resilience.reconnecting import GaveUp, retry_connection

T = TypeVar("T")

logger = logging.getLogger(__name__)

HURRIED_SECONDS = 1.0
"""How long a database may be silent for somebody who only wants to end."""

# Reached, but refused for good: waiting does not help, a person has to look.
_HOPELESS_CLASSES = ("28", "3D")
# The statement was rolled back through no fault of its own: serialization, deadlock, lock timeout, out of resources,
# cancelled by the statement timeout.
_TRANSIENT = ("40001", "40P01", "55P03", "57014")
_TRANSIENT_CLASSES = ("53",)
_CANCELLED = "57014"
# Trying again costs as long again.
_SILENCE = (AnswerTimeout, psycopg.errors.ConnectionTimeout)


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of ``error``, or of what it was raised from."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate
    cause = error.__cause__
    return cause.sqlstate if isinstance(cause, psycopg.Error) else None


def is_transient(error: BaseException) -> bool:
    """Whether the server rolled the statement back for a reason that passes."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate is not None and (sqlstate in _TRANSIENT or sqlstate[:2] in _TRANSIENT_CLASSES)


def is_hopeless(error: BaseException) -> bool:
    """Whether connecting again cannot help: wrong password, no such database."""
    sqlstate = sqlstate_of(error)
    return sqlstate is not None and sqlstate[:2] in _HOPELESS_CLASSES


def _endless() -> float:
    return math.inf


class Link:
    """One connection for one thread at a time; its owner sees to that, ``close`` alone may come from anywhere.

    Args:
        database: where to connect.
        name: what the connection is for, as seen in ``pg_stat_activity`` and in the log.
        circuit: guards connecting.
        give_up: asked between attempts to reconnect.
        sleep: waits between attempts, and returns early when it is worth asking ``give_up``.
        patience: how many seconds of silence to bear at present, where less than ``database`` says; asked again and
            again during a call. 0: make no call any more.
    """

    def __init__(
        self,
        database: Database,
        *,
        name: str,
        circuit: Circuit,
        give_up: Callable[[], bool],
        sleep: Callable[[float], None],
        patience: Callable[[], float] = _endless,
    ) -> None:
        self._database = database
        self._name = name
        self._circuit = circuit
        self._give_up = give_up
        self._sleep = sleep
        self._patience = patience
        self._hurried = False
        self._silent = False  # whether the last call found nobody who answers
        self.in_call = False
        """Whether its owner waits for an answer, or for a connection."""

        self._lock = threading.Lock()  # owns the members below, never held during a call
        self._connection: TimedConnection[Any] | None = None
        self._clock_offset = database.clock_offset
        self._statement_timeout_ms: int | None = None
        self._closed = False

    def call(
        self,
        call: Call[T],
        *,
        lock_timeout_ms: int | None = None,
        statement_timeout_ms: int | None = None,
        transient: bool = True,
        give_up: Callable[[], bool] | None = None,
    ) -> T:
        """The answer to ``call``, however often the connection is lost meanwhile, or the server does not answer.

        The call is repeated as it is, so it must be one that the SQL core recognizes when it comes again.

        Args:
            call: what to call.
            lock_timeout_ms: longest wait for a lock, where the call waits for some.
            statement_timeout_ms: PostgreSQL cancels the call after this, and it fails; ``None`` leaves it to the
                settings of the database, and a call that was cancelled is repeated.
            transient: also repeat what the server rolled back for a passing reason (deadlock, timeout).
            give_up: another question than the link's own.

        Raises:
            GaveUp: ``give_up`` said so before a connection was there, or there is no patience left.
            TaskerError: refused by the SQL core.
            psycopg.Error: refused by PostgreSQL.
        """
        self.in_call = True
        try:
            return self._call(call, lock_timeout_ms, statement_timeout_ms, transient, give_up or self._give_up)
        finally:
            self.in_call = False

    def _call(
        self,
        call: Call[T],
        lock_timeout_ms: int | None,
        statement_timeout_ms: int | None,
        transient: bool,
        give_up: Callable[[], bool],
    ) -> T:
        def attempt() -> T:
            if self._at_present() <= 0 or (self._silent and give_up()):
                raise GaveUp(f"{self._name}: there is no time for another call")
            try:
                answer = self._run(call, lock_timeout_ms, statement_timeout_ms)
            except _SILENCE as error:
                self._silent = True
                if give_up():
                    raise GaveUp(f"{self._name}: the database does not answer") from error
                raise
            self._silent = False
            return answer

        def is_lost(error: BaseException) -> bool:
            if transient and is_transient(error):
                return statement_timeout_ms is None or sqlstate_of(error) != _CANCELLED
            if isinstance(error, EmbeddedServerError | CircuitOpen):
                return True  # it may still be recovering from a crash; others found it away
            return is_connection_lost(error) and not is_hopeless(error)

        try:
            return attempt()
        except Exception as error:
            if not is_lost(error):
                raise
            logger.info("%s: %s: %s", self._name, type(error).__name__, error)
        return retry_connection(attempt, is_lost=is_lost, give_up=give_up, sleep=self._sleep, what=self._name)

    @property
    def silent(self) -> bool:
        """Whether the last call found nobody who answers."""
        return self._silent

    def hurry(self) -> None:
        """Wait ``HURRIED_SECONDS`` for an answer at most, also the one that is waited for now. From any thread."""
        self._hurried = True

    def break_off(self) -> None:
        """Have the call that is waited for fail as if the network had: it is repeated over another connection.

        From any thread, unlike ``drop``, which must not free what another one uses.
        """
        with self._lock:
            connection = self._connection
            if connection is None or connection.closed:
                return
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def close(self) -> None:
        """Close for good."""
        with self._lock:
            self._closed = True
        self.drop()

    def _run(self, call: Call[T], lock_timeout_ms: int | None, statement_timeout_ms: int | None) -> T:
        connection = self._open()
        connection.patience.seconds = self._database.patience_with(statement_timeout_ms)
        try:
            if statement_timeout_ms is not None and statement_timeout_ms != self._statement_timeout_ms:
                run(connection, work.set_statement_timeout(statement_timeout_ms))
                self._statement_timeout_ms = statement_timeout_ms
            if lock_timeout_ms is None:
                return run(connection, call)
            with connection.transaction():
                run(connection, functions.set_local(lock_timeout=f"{lock_timeout_ms}ms", **self._abandonment()))
                return run(connection, call)
        except TaskerError:
            raise
        except BaseException:
            # Unusable, or interrupted with an answer still on its way: the next call needs a clean one.
            if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self.drop()
            raise

    def _at_present(self) -> float:
        patience = self._patience()
        return min(patience, HURRIED_SECONDS) if self._hurried else patience

    def _abandonment(self) -> dict[str, str]:
        """For a transaction: if this side is not heard of any more, nobody shall wait long for the locks it holds."""
        seconds = self._database.answer_timeout_seconds
        return {} if seconds is None else {"idle_in_transaction_session_timeout": f"{seconds * 1000:.0f}ms"}

    def _open(self) -> TimedConnection[Any]:
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            connection = self._connection
            moved = self._clock_offset != self._database.clock_offset
        if connection is not None and not connection.closed and not moved:
            return connection
        self.drop()
        offset = self._database.clock_offset
        patience = self._at_present()
        connection = self._circuit.call(
            self._database.connect,
            patience_seconds=None if math.isinf(patience) else patience,
            application_name=self._name,
        )
        connection.patience.at_present = self._at_present
        with self._lock:
            self._connection, self._clock_offset, self._statement_timeout_ms = connection, offset, None
            closed = self._closed
        if closed:  # while it was being opened
            self.drop()
            raise RuntimeError(f"{self._name} is closed")
        return connection
