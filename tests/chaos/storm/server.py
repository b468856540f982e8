"""A PostgreSQL of the storm's own, on a disk of its own where that can be had: to be killed, stopped and filled up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tasker.database.embedded import EmbeddedServer
from tasker.database.embedded.directory import Directory
from tasker.database.embedded.postmaster import Postmaster
from tasker.database.scratch import ScratchDatabases
from tasker.errors import EmbeddedServerError
from tests.embedded_support import guardians, postmaster, processes_of
from tests.waiting import wait_until

DISK_MEGABYTES = 640
_LARGEST_FILE = 1 << 20
_REVIVAL_SECONDS = 60.0
_SETTINGS = {
    "max_connections": "150",
    # Little is kept for later, so that a disk can be filled.
    "max_wal_size": "96MB",
    "min_wal_size": "32MB",
    "checkpoint_timeout": "30s",
}


class StormServer:
    """The server, and what can be done to it.

    Args:
        folder: its own.
        has_disk: whether ``folder`` is the top of a small file system of its own.
    """

    def __init__(self, folder: Path, *, has_disk: bool) -> None:
        self.folder = folder / "server"
        self.has_disk = has_disk
        self._ballast = folder / "ballast"
        # What is killed here loses nothing that reached the kernel; a page may be torn, so full_page_writes stays.
        self._embedded = EmbeddedServer.start(self.folder, settings={**_SETTINGS, "fsync": "off"})
        self.databases = ScratchDatabases(self._embedded.database_url("postgres"))

    @property
    def socket(self) -> Path:
        """The server's unix socket."""
        return Directory(self.folder).socket

    def revive(self) -> None:
        """See that it runs, and takes connections; may have to wait for room on its disk."""
        deadline = time.monotonic() + _REVIVAL_SECONDS
        while True:
            try:
                return self._embedded.ensure_running()
            except EmbeddedServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9 of the postmaster, if it lives."""
        self._signal(signal.SIGKILL)

    def stop_at_once(self) -> None:
        """An immediate shutdown: no checkpoint, no good-bye."""
        self._signal(signal.SIGQUIT)

    def _signal(self, number: int) -> None:
        pid = postmaster(self.folder)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            wait_until(lambda: postmaster(self.folder) != pid, "the server to be gone")

    # -- the disk -------------------------------------------------------------------------------------------------

    @property
    def way_to_fill(self) -> str:
        """How ``fill`` works here."""
        return "a small file system, filled up" if self.has_disk else "a limit on the size of files"

    def fill(self) -> None:
        """Leave no room on the disk.

        Without a disk of its own, by a limit on the server's files: no table or index that is longer can grow. Other
        programs on the machine never notice either.
        """
        if not self.has_disk:
            self._limit_files(str(_LARGEST_FILE))
            return
        # Written, not only reserved; the last bytes one by one, until there is no page left.
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(1 << 16))

    def make_room(self) -> None:
        """Undo ``fill``."""
        if self.has_disk:
            self._ballast.unlink(missing_ok=True)
        else:
            self._limit_files("unlimited")

    def _limit_files(self, size: str) -> None:
        # The postmaster first: those that it starts meanwhile inherit its limit.
        first = [pid for pid in [postmaster(self.folder)] if pid is not None]
        for pid in [*first, *processes_of(self.folder)]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                # As the server's user, since root may be forbidden what one may do to one's own processes.
                user, group = psutil.Process(pid).uids().real, psutil.Process(pid).gids().real
                command = ["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"]
                done = subprocess.run(command, user=user, group=group, capture_output=True, text=True)
                if done.returncode and psutil.pid_exists(pid):
                    raise RuntimeError(f"the files of PostgreSQL cannot be limited: {done.stderr}")

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop it."""
        self.make_room()
        self._embedded.release()
        Postmaster(Directory(self.folder)).stop()
        wait_until(lambda: not guardians(self.folder) and not processes_of(self.folder), "the server to be gone")


@contextmanager
def storm_server(*, own_disk: bool = True) -> Iterator[StormServer]:
    """A server; nothing of it is left afterwards.

    Args:
        own_disk: give it a small file system of its own, where mounting is permitted.
    """
    folder = Path(tempfile.mkdtemp(prefix="tasker-chaos-", dir="/tmp"))
    has_disk = own_disk and _mount(folder)
    try:
        # The embedded server of root runs as another user.
        folder.chmod(0o711)
        server = StormServer(folder, has_disk=has_disk)
        try:
            yield server
        finally:
            server.close()
    finally:
        if has_disk:
            _unmount(folder)
        shutil.rmtree(folder)


def _mount(folder: Path) -> bool:
    options = f"size={DISK_MEGABYTES}m,mode=711"
    command = ["mount", "-t", "tmpfs", "-o", options, "tasker-chaos", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _unmount(folder: Path) -> None:
    # A process that is about to end may still have a file open there.
    wait_until(lambda: subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0, "unmounting")
