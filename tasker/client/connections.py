"""Where a client's calls go: the caller's transaction, a SQLAlchemy engine, or connections of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import URL, Engine

from tasker.config.settings import Settings
from tasker.database.calls import AsyncTarget, Target, aexecute, execute
from tasker.database.connection import Database
from tasker.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tasker.client.operations import Operation
    from tasker.database.embedded import EmbeddedServer

T = TypeVar("T")


class Connections:
    """The connections of one client, made on first use.

    Args:
        source: a URL, a ``Database``, a SQLAlchemy engine (sync or async), or ``None`` for what the settings say: a
            URL, or the embedded server.
        settings: ``None``: the defaults where ``source`` is given, else loaded on first use.
    """

    def __init__(self, source: str | URL | Database | Engine | AsyncEngine | None, settings: Settings | None) -> None:
        self._settings = Settings() if settings is None and source is not None else settings
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._owned = not isinstance(source, Database)
        self._server: EmbeddedServer | None = None
        self._engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self._url: str | URL | None = None
        extension = sys.modules.get("sqlalchemy.ext.asyncio")  # whoever passes an AsyncEngine has imported it
        if isinstance(source, Database):
            self._database = source
        elif isinstance(source, Engine):
            self._engine = source
            self._url = source.url
        elif extension is not None and isinstance(source, extension.AsyncEngine):
            self._async_engine = source
            self._url = source.url
        elif source is None or isinstance(source, (str, URL)):
            self._url = source
        else:
            raise ConfigurationError(
                f"a client is made of an address, an engine or a Database, not of a {type(source).__name__}",
                hint="for work inside a transaction, pass connection= to the method instead",
            )

    @property
    def settings(self) -> Settings:
        """The settings, loaded now if they were not given."""
        if self._settings is None:
            from tasker.config.manager import ConfigManager

            self._settings = ConfigManager.load()
        return self._settings

    @property
    def database(self) -> Database:
        """The client's own database object, made now if need be.

        Raises:
            EmbeddedServerError: the settings name no database, and the embedded server cannot be started.
        """
        with self._lock:
            if self._database is None:
                self._database = self._open()
            return self._database

    def drive(
        self, operation: Operation[T], connection: Target | None = None, *, patience_seconds: float | None = None
    ) -> T:
        """Carry out ``operation`` on the caller's ``connection``, or on one of the client's own.

        ``patience_seconds``: longest silence of the server on a connection of the client's own ``Database``, where less
        than the settings say.
        """
        with self._target(connection, patience_seconds) as target:
            return drive(operation, target)

    async def adrive(
        self, operation: Operation[T], connection: AsyncTarget | None = None, *, patience_seconds: float | None = None
    ) -> T:
        """As ``drive``, on an async connection."""
        async with self._async_target(connection, patience_seconds) as target:
            return await adrive(operation, target)

    def close(self) -> None:
        """Close what the client opened; what it was given stays open."""
        with self._lock:
            database, self._database = (self._database, None) if self._owned else (None, self._database)
            server, self._server = self._server, None
        if database is not None:
            database.close()
        if server is not None:
            server.release()

    async def aclose(self) -> None:
        """As ``close``, with the connections of the running event loop."""
        if self._owned and self._database is not None:
            await self._database.aclose()
        self.close()

    @contextmanager
    def _target(self, connection: Target | None, patience_seconds: float | None) -> Iterator[Target]:
        if connection is not None:
            yield connection
        elif self._engine is not None:
            with self._engine.begin() as made:
                yield made
        else:
            with self.database.connection(patience_seconds=patience_seconds) as own:
                yield own

    @asynccontextmanager
    async def _async_target(
        self, connection: AsyncTarget | None, patience_seconds: float | None
    ) -> AsyncIterator[AsyncTarget]:
        if connection is not None:
            yield connection
        elif self._async_engine is not None:
            async with self._async_engine.begin() as made:
                yield made
        else:
            # Making it may start a server, or migrate: nothing for the event loop.
            database = self._database
            if database is None:
                database = await asyncio.to_thread(lambda: self.database)
            async with database.aconnection(patience_seconds=patience_seconds) as own:
                yield own

    def _open(self) -> Database:
        if self._url is not None:
            return Database(self._url, application_name="tasker client")
        settings = self.settings
        url = settings.database.url
        revive = None
        if url is None:
            from tasker.database.embedded import EmbeddedServer

            self._server = EmbeddedServer.start()
            url, revive = self._server.url, self._server.ensure_running
        if settings.database.migrate_on_start:
            from tasker.database.migrations import ensure

            ensure(url, allowed=True)
        return Database.from_settings(settings.database, url, application_name="tasker client", revive=revive)


def drive(operation: Operation[T], target: Target) -> T:
    """Execute the calls that ``operation`` yields, one after the other, and return what it returns."""
    try:
        call = next(operation)
        while True:
            call = operation.send(execute(target, call))
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        operation.close()


async def adrive(operation: Operation[T], target: AsyncTarget) -> T:
    """As ``drive``, on an async connection."""
    try:
        call = next(operation)
        while True:
            call = operation.send(await aexecute(target, call))
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        operation.close()
