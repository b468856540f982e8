"""The embedded server as its users see it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tasker.database.embedded.directory import PORT, Directory, default_data_directory
from tasker.database.embedded.guardian import ensure_guardian
from tasker.database.embedded.installation import Installation, system_user
from tasker.database.embedded.locks import FileLock, exclusive, is_free
from tasker.database.embedded.postmaster import Postmaster
from tasker.errors import EmbeddedServerError

DATABASE = "tasker"

_START_TIMEOUT_SECONDS = 300.0
_CONNECT_TIMEOUT_SECONDS = 10
_START_ATTEMPTS = 3  # a server may be killed while it starts
_logger = logging.getLogger(__name__)
_open_servers: set[EmbeddedServer] = set()


class EmbeddedServer:
    """This process's share in an embedded PostgreSQL; made by ``start``.

    All processes of one user that start a server on the same directory share one. It stops when the last of them
    calls ``release``, ends, or is killed. Forked children share their parent's hold on it without doing anything.

    Safe to use from several threads.
    """

    def __init__(self, directory: Directory, *, settings: Mapping[str, str], start_timeout_seconds: float) -> None:
        self._directory = directory
        self._postmaster = Postmaster(directory)
        self._settings = dict(settings)
        self._start_timeout_seconds = start_timeout_seconds
        self._users = FileLock(directory.users_lock, inherited=True)
        self._mutex = threading.Lock()

    @classmethod
    def start(
        cls,
        data_directory: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        start_timeout_seconds: float = _START_TIMEOUT_SECONDS,
    ) -> EmbeddedServer:
        """Use the server on ``data_directory``, starting it if it does not run.

        Args:
            data_directory: its folder; ``None``: the user's own (``default_data_directory``).
            settings: server settings over Tasker's own; they count for the process that really starts the server.
            start_timeout_seconds: how long to wait for a server that starts, crash recovery included.

        Returns:
            A share in the running server; give it back by ``release()`` or by leaving a ``with`` block.

        Raises:
            EmbeddedServerError: it cannot be started or reached; the message has the end of its log.
        """
        directory = Directory(data_directory or default_data_directory())
        server = cls(directory, settings=settings or {}, start_timeout_seconds=start_timeout_seconds)
        try:
            server.ensure_running()
        except BaseException:
            server._users.give_up()  # no stop here: whatever started is found by the next starter
            raise
        _open_servers.add(server)
        return server

    @property
    def data_directory(self) -> Path:
        """The server's folder."""
        return self._directory.base

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._directory.log

    @property
    def url(self) -> str:
        """The libpq URL of the database ``tasker``, over the unix socket. Restarts do not change it."""
        return self.database_url(DATABASE)

    def database_url(self, database: str) -> str:
        """The libpq URL of another database of this server."""
        # The port is said, because PGPORT would count otherwise.
        host = quote(str(self._directory.socket_directory), safe="/")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port={PORT}"

    def is_running(self) -> bool:
        """Whether the server accepts connections now."""
        return self._postmaster.is_ready()

    def ensure_running(self) -> None:
        """See that the server runs; start it again if it died. To be called after a connection was refused.

        Raises:
            EmbeddedServerError: it cannot be started or reached.
        """
        self._directory.prepare()
        self._hold()
        try:
            if not self._answers():
                with exclusive(
                    self._directory.start_lock,
                    timeout_seconds=self._start_timeout_seconds,
                    purpose="the server is being started",
                ):
                    self._revive()
            ensure_guardian(self._directory)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot run the embedded PostgreSQL in {self._directory.base}: {error}",
                hint="see that the folder is writable and its disk not full, or set DATABASE_URL",
            ) from error

    def release(self) -> None:
        """Give the share back; the last one stops the server and waits until it has stopped. Twice is once."""
        _open_servers.discard(self)
        with self._mutex:
            self._users.give_up()
        if not self._directory.users_lock.exists():
            return
        # Whoever can lock the file alone is the last: parents and children that share our lock are counted, too.
        last = FileLock(self._directory.users_lock)
        while not last.try_acquire():
            if is_free(self._directory.users_lock):
                return  # not alone: there are others, and they use it
            time.sleep(0.005)  # somebody else was told of the end first (the guardian, as a rule) and stops it
        try:
            self._postmaster.stop()
        finally:
            last.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _hold(self) -> None:
        """Share ``users.lock``; anew if this process lost it (a daemon closes all files that it inherited)."""
        with self._mutex:
            if not self._users.is_held():
                self._users.give_up()
                self._users.acquire(
                    shared=True, timeout_seconds=self._start_timeout_seconds, purpose="the server is being stopped"
                )

    # -- bringing it up; start.lock is held ----------------------------------------------------------------------

    def _revive(self) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        starts = 0
        while True:
            lock = FileLock(self._directory.server_lock)
            if lock.try_acquire():
                if starts == _START_ATTEMPTS:
                    lock.release()
                    raise EmbeddedServerError(self._log_says("did not start"))
                starts += 1
                self._start(lock, deadline)
            elif self._accepts_connections():
                # Nobody else makes the database, so it must be seen after a start; a server that ran already may have
                # no connection left for us, which is for the caller's own attempt to say.
                if self._ensure_database() or not starts:
                    return
            elif self._postmaster.pid() is None:
                self._postmaster.end_orphans()
            elif self._postmaster.is_ready() and not self._directory.socket.exists():
                self._replace_unreachable()
            # A start, a stop or a recovery goes on.
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    self._log_says(f"accepts no connections after {self._start_timeout_seconds:g} s")
                )
            time.sleep(0.01)

    def _log_says(self, what: str) -> str:
        return (
            f"the embedded PostgreSQL in {self._directory.base} {what}; its log ({self._directory.log}) ends:\n"
            f"{self._postmaster.log_tail()}"
        )

    def _replace_unreachable(self) -> None:
        """Stop a server that lives but whose socket is gone, so that it is started anew."""
        socket = self._directory.socket
        # Seen from the server's own file system, where Linux shows it: two processes whose /tmp is not the same would
        # otherwise stop each other's server for ever.
        if Path(f"/proc/{self._postmaster.pid()}/root{socket}").exists():
            raise EmbeddedServerError(
                f"the embedded PostgreSQL in {self._directory.base} listens on {socket}, which this process cannot "
                "see: its /tmp is another one",
                hint="give the data a folder with a shorter path, so that the socket lies in it",
            )
        _logger.warning("the socket of the embedded PostgreSQL in %s was removed: restarting", self._directory.base)
        self._postmaster.stop()

    def _start(self, lock: FileLock, deadline: float) -> None:
        try:
            # Before the server, so that it is never left alone, whenever we die.
            ensure_guardian(self._directory)
            user = self._directory.cluster_owner() or system_user()
            self._directory.open_to(user)
            binaries = Installation.find().reachable_by(user, self._directory.base / "postgresql")
            self._postmaster.launch(lock, binaries, user, self._settings)
        except BaseException:
            lock.give_up()
            raise
        if self._postmaster.wait_until_ready(deadline):
            _logger.info("started the embedded PostgreSQL in %s", self._directory.base)

    def _answers(self) -> bool:
        """Whether the database can be used; it is made last, so it stands for a complete start."""
        import psycopg  # here: the guardian imports this package and needs no driver

        if not self._directory.socket.exists():
            return False
        try:
            psycopg.connect(self.url, connect_timeout=_CONNECT_TIMEOUT_SECONDS).close()
        except psycopg.OperationalError:
            return False
        return True

    def _accepts_connections(self) -> bool:
        """Whether the server takes connections at all, be it that none is left for us."""
        from psycopg.pq import PGconn, Ping

        conninfo = f"{self.database_url('postgres')}&connect_timeout={_CONNECT_TIMEOUT_SECONDS}"
        return bool(PGconn.ping(conninfo.encode()) == Ping.OK)

    def _ensure_database(self) -> bool:
        """Make the database unless it is there; whether that could be seen to."""
        import psycopg
        from psycopg import sql

        try:
            with psycopg.connect(
                self.database_url("postgres"), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS
            ) as connection:
                exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if exists is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.Error as error:
            if error.sqlstate is None:
                return False  # no connection, or it was lost
            raise EmbeddedServerError(self._log_says(f"cannot make the database '{DATABASE}': {error}")) from error
        return True


def _after_fork_in_child() -> None:
    for server in _open_servers:
        server._mutex = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _release_all() -> None:
    for server in list(_open_servers):
        server.release()
