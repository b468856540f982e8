"""PostgreSQL servers for tests: one of the run's own, or one that is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tasker.database.embedded import EmbeddedServer
from tasker.database.embedded.locks import FileLock
from tasker.database.scratch import ScratchDatabases
from tasker.errors import EmbeddedServerError

SERVER_VARIABLE = "TASKER_TEST_DATABASE_URL"
"""Environment variable: tests use this server instead of an embedded one. Databases are made and dropped there."""

LOCAL_SERVER_VARIABLE = "TASKER_TEST_LOCAL_URL"
"""Environment variable: where ``any_server`` looks for a local server."""

LOCAL_SERVER_URL = "postgresql://postgres@127.0.0.1:5432/postgres"

_PREFIX = "tasker-test-"
_ABANDONED_AFTER_SECONDS = 600
# Nothing on this server outlives the run, so it need not survive a power cut; it does survive kill -9.
# With little of the log kept it fits into memory.
_THROWAWAY = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
# A database is some 700 files. In memory they cost 40 ms, on a disk that has seen many such runs up to a second.
_MEMORY = Path("/dev/shm")
_DISK = Path("/tmp")
_ROOM_BYTES = 4 * 2**30  # containers often have 64 MB there


@contextmanager
def embedded_databases() -> Iterator[ScratchDatabases]:
    """An embedded server with a folder of its own, stopped and removed at the end of the block.

    The folder is in memory (``/dev/shm``) where there is room for it, otherwise in ``/tmp``, whatever ``TMPDIR`` says:
    paths of unix sockets are short. Should this process be killed, the server still stops; the folder is removed by a
    later run.
    """
    for root in (_MEMORY, _DISK):
        _remove_abandoned(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY if _has_room(_MEMORY) else _DISK))
    try:
        with EmbeddedServer.start(folder, settings=_THROWAWAY) as server:
            # No clean-up of databases: they go with the folder.
            yield ScratchDatabases(server.database_url("postgres"))
    finally:
        shutil.rmtree(folder)


@contextmanager
def databases_at(url: str) -> Iterator[ScratchDatabases]:
    """The server at ``url``; the databases made there are dropped at the end of the block."""
    databases = ScratchDatabases(url)
    databases.drop_abandoned()
    try:
        yield databases
    finally:
        databases.close()


@contextmanager
def databases() -> Iterator[ScratchDatabases]:
    """The server that ``TASKER_TEST_DATABASE_URL`` names, else an embedded one."""
    url = os.environ.get(SERVER_VARIABLE)
    with databases_at(url) if url else embedded_databases() as found:
        yield found


def local_server_url() -> str:
    """Where a local server is expected."""
    return os.environ.get(LOCAL_SERVER_VARIABLE) or LOCAL_SERVER_URL


def why_not_local() -> str | None:
    """Why tests cannot use the local server, or ``None`` if they can."""
    try:
        psycopg.connect(local_server_url(), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        return str(error).strip()
    return None


def local_server_exists() -> bool:
    """Whether this machine has a local server, be it stopped, or closed to us."""
    if os.environ.get(LOCAL_SERVER_VARIABLE) or any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return True
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 5432), timeout=3):
        return True
    return False


def _has_room(root: Path) -> bool:
    try:
        return os.access(root, os.W_OK | os.X_OK) and shutil.disk_usage(root).free >= _ROOM_BYTES
    except OSError:
        return False


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        users = folder / "users.lock"
        try:
            old = time.time() - users.stat().st_mtime > _ABANDONED_AFTER_SECONDS
            if not old or folder.stat().st_uid != os.geteuid():
                continue
        except OSError:
            continue
        lock = FileLock(users)
        with contextlib.suppress(OSError, EmbeddedServerError):
            if lock.try_acquire():
                shutil.rmtree(folder, ignore_errors=True)
        lock.release()
