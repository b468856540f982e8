"""One process's connections to the database: pools made on first use, never carried through a fork.

``Database`` costs nothing until it is asked for a connection. In a child process it forgets the parent's pools (without
closing them: the sockets are the parent's) and makes its own.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine, event
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.engine import URL, Engine

from tasker.config.sections import DatabaseSettings
from tasker.database.dsn import dsn_of, masked
from tasker.resilience.answer_timeout import AsyncTimedConnection, TimedConnection

Pool = ConnectionPool[TimedConnection[Any]]
AsyncPool = AsyncConnectionPool[AsyncTimedConnection[Any]]

ANSWER_MARGIN_SECONDS = 5.0
"""How long after the time-out of a statement the server may still say that it was cancelled."""

_PING_AFTER_SECONDS = 1.0
_ping_seconds = ContextVar("_ping_seconds", default=5.0)


class _Resources:
    """What one process holds for one ``Database``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: Pool | None = None
        self.engine: Engine | None = None
        self.async_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncPool] = weakref.WeakKeyDictionary()
        self.async_connections: weakref.WeakSet[AsyncTimedConnection[Any]] = weakref.WeakSet()
        self.offsets: weakref.WeakKeyDictionary[object, dt.timedelta] = weakref.WeakKeyDictionary()
        self.used_at: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()


class Database:
    """The database of one process.

    Args:
        url: see ``tasker.database.dsn.dsn_of``.
        min_connections: connections kept open when idle.
        max_connections: most connections of the pool; the engine's pool and each event loop's have the same bound.
        acquire_timeout_seconds: longest wait for a free connection.
        idle_timeout_seconds: idle connections above the minimum are closed after this.
        max_lifetime_seconds: a connection is replaced at this age.
        connection_timeout_seconds: longest wait for a new connection.
        statement_timeout_ms: PostgreSQL cancels a statement after this; ``None`` leaves the server's own.
        answer_timeout_seconds: a connection on which the server says nothing for so long in the middle of a call is
            closed, and the call raises ``AnswerTimeout``; ``None``: a little longer than ``statement_timeout_ms``, and
            without that there is no end.
        application_name: as ``pg_stat_activity`` shows it.
        clock_offset: moves ``tasker.now()`` on all connections of this object; for tests.
        revive: called when no connection can be had or one was lost, before the error is raised; it may bring the
            server back (the embedded one), so that the caller's next attempt succeeds.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        min_connections: int = 0,
        max_connections: int = 5,
        acquire_timeout_seconds: float = 10.0,
        idle_timeout_seconds: float = 300.0,
        max_lifetime_seconds: float = 3600.0,
        connection_timeout_seconds: int = 10,
        statement_timeout_ms: int | None = 30_000,
        answer_timeout_seconds: float | None = None,
        application_name: str = "tasker",
        clock_offset: dt.timedelta = dt.timedelta(0),
        revive: Callable[[], object] | None = None,
    ) -> None:
        self.url = dsn_of(url)
        self.max_connections = max_connections
        self._min_connections = min(min_connections, max_connections)
        self._acquire_timeout_seconds = acquire_timeout_seconds
        self._idle_timeout_seconds = idle_timeout_seconds
        self._max_lifetime_seconds = max_lifetime_seconds
        self._clock_offset = clock_offset
        self._revive = revive
        if answer_timeout_seconds is None and statement_timeout_ms is not None:
            answer_timeout_seconds = statement_timeout_ms / 1000 + ANSWER_MARGIN_SECONDS
        self.answer_timeout_seconds = answer_timeout_seconds
        self._answer_margin_seconds = ANSWER_MARGIN_SECONDS
        if answer_timeout_seconds is not None and statement_timeout_ms is not None:
            self._answer_margin_seconds = max(0.0, answer_timeout_seconds - statement_timeout_ms / 1000)
        self._conninfo = _with_defaults(
            self.url,
            application_name=application_name,
            connect_timeout=max(2, connection_timeout_seconds),
            # For sockets that wait outside of our calls; it counts what was sent and not acknowledged.
            tcp_user_timeout=None if answer_timeout_seconds is None else round(answer_timeout_seconds * 1000),
            options=None if statement_timeout_ms is None else f"-c statement_timeout={statement_timeout_ms}",
        )
        self._own = _Resources()
        _databases.add(self)

    @classmethod
    def from_settings(
        cls,
        settings: DatabaseSettings,
        url: str | URL,
        *,
        application_name: str = "tasker",
        revive: Callable[[], object] | None = None,
    ) -> Database:
        """The database at ``url`` with the pool that ``settings`` describe."""
        pool = settings.pool
        return cls(
            url,
            min_connections=pool.min_connections,
            max_connections=pool.max_connections,
            acquire_timeout_seconds=pool.acquire_timeout_seconds,
            idle_timeout_seconds=pool.idle_timeout_seconds,
            max_lifetime_seconds=pool.max_lifetime_seconds,
            connection_timeout_seconds=settings.connection_timeout_seconds,
            statement_timeout_ms=settings.statement_timeout_ms,
            answer_timeout_seconds=settings.answer_timeout_seconds,
            application_name=application_name,
            revive=revive,
        )

    def __repr__(self) -> str:
        return f"Database({masked(self.url)!r})"

    # -- connections ------------------------------------------------------------------------------------------

    @contextmanager
    def connection(
        self, timeout_seconds: float | None = None, *, patience_seconds: float | None = None
    ) -> Iterator[TimedConnection[Any]]:
        """A connection of the pool, in autocommit mode, for the time of the block.

        Args:
            timeout_seconds: longest wait for a free one; the pool's own when ``None``.
            patience_seconds: longest wait for a free one, and longest silence of the server in the block, where less
                than the settings say.

        Raises:
            psycopg.OperationalError: the server cannot be reached (``psycopg_pool.PoolTimeout``: none became free), or
                does not answer (``AnswerTimeout``).
        """
        try:
            acquire = self.pool.connection(self._acquire_within(timeout_seconds, patience_seconds))
            with ExitStack() as stack:
                with _pinging_within(patience_seconds):
                    connection = stack.enter_context(acquire)
                stack.enter_context(connection.patience.at_most(patience_seconds))
                self._set_clock(connection)
                yield connection
        except psycopg.OperationalError as error:
            self._connection_lost(error)
            raise

    @asynccontextmanager
    async def aconnection(
        self, timeout_seconds: float | None = None, *, patience_seconds: float | None = None
    ) -> AsyncIterator[AsyncTimedConnection[Any]]:
        """As ``connection``, from a pool that belongs to the running event loop. Close it with ``aclose``."""
        try:
            pool = await self._async_pool()
            acquire = pool.connection(self._acquire_within(timeout_seconds, patience_seconds))
            async with AsyncExitStack() as stack:
                with _pinging_within(patience_seconds):
                    connection = await stack.enter_async_context(acquire)
                stack.enter_context(connection.patience.at_most(patience_seconds))
                if self._own.offsets.get(connection, _NO_OFFSET) != self._clock_offset:
                    await connection.execute(*_set_clock_statement(self._clock_offset))
                    self._own.offsets[connection] = self._clock_offset
                yield connection
        except psycopg.OperationalError as error:
            await asyncio.to_thread(self._connection_lost, error)
            raise

    def connect(
        self, *, autocommit: bool = True, patience_seconds: float | None = None, **overrides: Any
    ) -> TimedConnection[Any]:
        """A new connection outside the pool, for those who keep one (heartbeats, LISTEN) or need but one.

        Args:
            autocommit: whether each statement is a transaction of its own.
            patience_seconds: longest silence of the server, where less than ``answer_timeout_seconds``; connecting
                takes no longer either (2 s at least).
            overrides: connection parameters of libpq.
        """
        if patience_seconds is not None:
            given = float(conninfo.conninfo_to_dict(self._conninfo, **overrides)["connect_timeout"] or 0)
            if not 0 < given <= patience_seconds:
                overrides["connect_timeout"] = max(2, math.ceil(patience_seconds))
        try:
            connection = self._connect(autocommit=autocommit, **overrides)
        except psycopg.OperationalError as error:
            self._connection_lost(error)
            raise
        if patience_seconds is not None:
            connection.patience.seconds = min(connection.patience.seconds, patience_seconds)
        self._set_clock(connection)
        return connection

    def patience_with(self, statement_timeout_ms: int | None) -> float:
        """The longest silence, in seconds, in a call that PostgreSQL cancels after ``statement_timeout_ms``.

        Args:
            statement_timeout_ms: ``None``: the one that all connections have.
        """
        patience = math.inf if self.answer_timeout_seconds is None else self.answer_timeout_seconds
        if statement_timeout_ms is None:
            return patience
        return max(patience, statement_timeout_ms / 1000 + self._answer_margin_seconds)

    @property
    def pool(self) -> Pool:
        """The pool of psycopg connections; callers who move the clock take theirs from ``connection``."""
        own = self._own
        with own.lock:
            if own.pool is None:
                # A server that is not there shall be told at once and with its reason, not by the pool's time-out.
                psycopg.connect(self._conninfo).close()
                own.pool = ConnectionPool(
                    self._conninfo,
                    connection_class=TimedConnection[Any],
                    kwargs={"autocommit": True},
                    min_size=self._min_connections,
                    max_size=self.max_connections,
                    timeout=self._acquire_timeout_seconds,
                    max_idle=self._idle_timeout_seconds,
                    max_lifetime=self._max_lifetime_seconds,
                    configure=self._prepare,
                    check=self._check,
                    reset=self._remember_use,
                    num_workers=1,
                    name="tasker",
                    open=True,
                )
            return own.pool

    @property
    def engine(self) -> Engine:
        """A SQLAlchemy engine on the same database, for models and for those who write SQLAlchemy."""
        own = self._own
        with own.lock:
            if own.engine is None:
                own.engine = create_engine(
                    "postgresql+psycopg://",
                    creator=lambda: self._connect(autocommit=False),
                    pool_size=self.max_connections,
                    max_overflow=0,
                    pool_timeout=self._acquire_timeout_seconds,
                    pool_pre_ping=True,
                )
                event.listen(own.engine, "checkout", self._on_checkout)
            return own.engine

    # -- the clock of tests -----------------------------------------------------------------------------------

    @property
    def clock_offset(self) -> dt.timedelta:
        """How far ``tasker.now()`` is ahead of the server's clock on connections of this object."""
        return self._clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: dt.timedelta) -> None:
        """Connections take it over when they are next handed out."""
        self._clock_offset = offset

    # -- the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all connections made by this process; the object may be used again and then makes new ones."""
        own, self._own = self._own, _Resources()
        if own.pool is not None:
            own.pool.close()
        if own.engine is not None:
            own.engine.dispose()
        for connection in own.async_connections:
            # Their loop may be gone, so they cannot be awaited any more; this much is never wrong.
            connection.pgconn.finish()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and all that ``close`` closes."""
        pool = self._own.async_pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()
        await asyncio.to_thread(self.close)

    # -- inside -----------------------------------------------------------------------------------------------

    async def _async_pool(self) -> AsyncPool:
        own = self._own
        with own.lock:
            loop = asyncio.get_running_loop()
            pool = own.async_pools.get(loop)
            if pool is None:
                pool = AsyncConnectionPool(
                    self._conninfo,
                    connection_class=AsyncTimedConnection[Any],
                    kwargs={"autocommit": True},
                    min_size=0,
                    max_size=self.max_connections,
                    timeout=self._acquire_timeout_seconds,
                    max_idle=self._idle_timeout_seconds,
                    max_lifetime=self._max_lifetime_seconds,
                    configure=self._remember_async,
                    check=self._acheck,
                    num_workers=1,
                    name="tasker async",
                    open=False,
                )
                own.async_pools[loop] = pool
        if pool.closed:
            await (await psycopg.AsyncConnection.connect(self._conninfo)).close()
            await pool.open()
        return pool

    def _acquire_within(self, timeout_seconds: float | None, patience_seconds: float | None) -> float | None:
        if patience_seconds is None:
            return timeout_seconds
        return min(self._acquire_timeout_seconds if timeout_seconds is None else timeout_seconds, patience_seconds)

    def _connect(self, *, autocommit: bool = True, **overrides: Any) -> TimedConnection[Any]:
        connection = TimedConnection.connect(conninfo.make_conninfo(self._conninfo, **overrides), autocommit=autocommit)
        self._set_patience(connection)
        return connection

    def _set_patience(self, connection: TimedConnection[Any] | AsyncTimedConnection[Any]) -> None:
        connection.patience.seconds = self.patience_with(None)

    def _prepare(self, connection: TimedConnection[Any]) -> None:
        self._set_patience(connection)
        self._remember_use(connection)

    def _set_clock(self, connection: psycopg.Connection[Any]) -> None:
        if self._own.offsets.get(connection, _NO_OFFSET) != self._clock_offset:
            connection.execute(*_set_clock_statement(self._clock_offset))
            self._own.offsets[connection] = self._clock_offset

    def _on_checkout(self, connection: psycopg.Connection[Any], *_: object) -> None:
        if self._own.offsets.get(connection, _NO_OFFSET) != self._clock_offset:
            self._set_clock(connection)
            connection.commit()  # a setting made in a transaction that rolls back is lost

    def _check(self, connection: TimedConnection[Any]) -> None:
        """Ping a connection that has lain idle for a while: the server may have been restarted meanwhile."""
        own = self._own
        if time.monotonic() - own.used_at.get(connection, 0.0) > _PING_AFTER_SECONDS:
            try:
                with connection.patience.at_most(_ping_seconds.get()):
                    ConnectionPool.check_connection(connection)
            except psycopg.OperationalError as error:
                self._connection_lost(error)
                if own.pool is not None:
                    # What ended one ended, most of the time, all that lay idle with it; to try each would take long.
                    own.pool.drain()
                raise

    async def _acheck(self, connection: AsyncTimedConnection[Any]) -> None:
        try:
            with connection.patience.at_most(_ping_seconds.get()):
                await AsyncConnectionPool.check_connection(connection)
        except psycopg.OperationalError:
            pool = self._own.async_pools.get(asyncio.get_running_loop())
            if pool is not None:
                await pool.drain()
            raise

    def _remember_use(self, connection: TimedConnection[Any]) -> None:
        self._own.used_at[connection] = time.monotonic()

    async def _remember_async(self, connection: AsyncTimedConnection[Any]) -> None:
        self._own.async_connections.add(connection)
        self._set_patience(connection)

    def _forget_the_parents(self) -> None:
        _abandoned.append(self._own)
        self._own = _Resources()

    def _connection_lost(self, error: psycopg.OperationalError) -> None:
        """Give the server's keeper a chance to bring it back, where the error says that it may be gone."""
        if self._revive is not None and is_connection_lost(error):
            self._revive()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_abandoned: list[_Resources] = []
"""Pools inherited through a fork: kept, because freeing them would say good-bye on sockets that the parent uses."""


def _after_fork_in_child() -> None:
    for database in _databases:
        database._forget_the_parents()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_connection_lost(error: BaseException) -> bool:
    """Whether ``error`` says that there is no connection (never made, lost, server going down), rather than a refusal.

    A statement that ended this way may have been carried out or not.
    """
    if isinstance(error, sqlalchemy_errors.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_connection_lost(error.orig))
    if isinstance(error, psycopg.errors.IdleInTransactionSessionTimeout):
        return True  # the server heard nothing of us for too long
    if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    # Class 08: connection exceptions; 57P01-57P03: shut down by an administrator, crashed, not accepting yet.
    return error.sqlstate is None or error.sqlstate.startswith("08") or error.sqlstate in ("57P01", "57P02", "57P03")


@contextmanager
def _pinging_within(seconds: float | None) -> Iterator[None]:
    """Where somebody has little time, give up idle connections that do not answer sooner."""
    token = _ping_seconds.set(_ping_seconds.get() if seconds is None else min(_ping_seconds.get(), seconds))
    try:
        yield
    finally:
        _ping_seconds.reset(token)


_NO_OFFSET = dt.timedelta(0)


def _set_clock_statement(offset: dt.timedelta) -> tuple[str, tuple[str]]:
    return "SELECT set_config('tasker.clock_offset', %s, false)", (f"{offset.total_seconds()} seconds",)


def _with_defaults(dsn: str, **defaults: Any) -> str:
    given = conninfo.conninfo_to_dict(dsn)
    options = [value for value in (defaults.pop("options"), given.pop("options", None)) if value]
    # What the address itself says comes last and therefore wins.
    merged = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, **defaults, **given}
    merged = {name: value for name, value in merged.items() if value is not None}
    return conninfo.make_conninfo("", **merged, **({"options": " ".join(map(str, options))} if options else {}))
