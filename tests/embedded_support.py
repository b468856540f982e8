"""What the tests of the embedded server share: folders, processes that use a server, and waiting."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from tasker.database.embedded import EmbeddedServer
from tasker.database.embedded.directory import Directory
from tasker.database.embedded.postmaster import Postmaster
from tests.waiting import wait_until

FAST = {"fsync": "off"}

_USER = """
import os, sys
from pathlib import Path
from tasker.database.embedded import EmbeddedServer

folder, user = Path(sys.argv[1]), int(sys.argv[2])
if user:
    import psycopg, psutil, platformdirs, platformdirs.unix, concurrent, shutil, subprocess  # from root's own folders
    os.setgroups([]); os.setgid(user); os.setuid(user)
server = EmbeddedServer.start(folder, settings={"fsync": "off"})
print("started", flush=True)
for line in sys.stdin:
    {"ensure": server.ensure_running, "release": server.release}[line.strip()]()
    print("done", flush=True)
"""


@contextmanager
def server_folder(mode: int = 0o700) -> Iterator[Path]:
    """A folder for a server, of which nothing is left afterwards. In /tmp: root's other folders are root's alone."""
    root = Path(tempfile.mkdtemp(prefix="tasker-embedded-", dir="/tmp"))
    root.chmod(0o711)
    folder = root / "server"
    folder.mkdir(mode=mode)
    try:
        yield folder
    finally:
        Postmaster(Directory(folder)).stop()
        wait_until(lambda: not guardians(folder), "the guardian to end")
        shutil.rmtree(root)


def start(folder: Path) -> EmbeddedServer:
    return EmbeddedServer.start(folder, settings=FAST)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class User:
    """A process that uses the server in ``folder``; ``user`` is the user id to run as (root only)."""

    def __init__(self, folder: Path, *, user: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(folder), str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def started(self) -> User:
        assert self._answer() == "started"
        return self

    def ask(self, request: str) -> None:
        self.tell(request)
        assert self._answer() == "done"

    def tell(self, request: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()

    def told(self) -> None:
        assert self._answer() == "done"

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self._close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self._close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def users(folder: Path, number: int) -> Iterator[list[User]]:
    """That many processes, started at once; whichever is left at the end is killed."""
    made = [User(folder) for _ in range(number)]
    try:
        yield made
    finally:
        for user in made:
            user.kill()


def postmaster(folder: Path) -> int | None:
    return Postmaster(Directory(folder)).pid()


def lives(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(folder: Path) -> list[int]:
    """All processes of PostgreSQL on ``folder``."""
    return Postmaster(Directory(folder))._survivors()


def url_of(folder: Path) -> str:
    """The URL of a server that somebody else runs."""
    return EmbeddedServer(Directory(folder), settings={}, start_timeout_seconds=1).url


def all_gone(folder: Path) -> bool:
    return Postmaster(Directory(folder)).all_gone()


def kill_postmaster(folder: Path) -> int:
    pid = postmaster(folder)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: postmaster(folder) is None, "the postmaster to die")
    return pid


def processes_with_argument(argument: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if argument in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def guardians(folder: Path) -> list[int]:
    return [pid for pid in processes_with_argument(str(folder)) if "guardian_main" in " ".join(command_of(pid))]


def command_of(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def execute(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]
