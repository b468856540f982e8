"""The server's processes: making the cluster, starting, finding and stopping them.

``server.lock`` says whether any of them lives. Whoever starts PostgreSQL takes it and lets the new process inherit
it; every backend shares the open file, so the lock becomes free in the moment when the *last* process of the server
is gone, however it died. A postmaster killed by ``kill -9`` leaves backends behind that still hold shared memory and
may still write: nothing is started until they are gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import psutil

from tasker.database.embedded.directory import PORT, Directory
from tasker.database.embedded.installation import POSTGRES_MAJOR, Installation, SystemUser
from tasker.database.embedded.locks import FileLock, is_free
from tasker.errors import EmbeddedServerError

SETTINGS: Mapping[str, str] = {
    # The owner's alone: no TCP, and a socket that only its owner may open, in a folder that only they may enter.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # `tasker up` on one machine: a few processes with a pool each, and their LISTEN connections.
    "max_connections": "200",
    "shared_buffers": "128MB",
    # Durable: what was committed survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Many small commits: fewer checkpoints, each of which makes full page images again.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Queue tables turn over quickly.
    "autovacuum_naptime": "15s",
    "log_checkpoints": "off",
}
"""Settings of the embedded server, given at every start."""

_LOG_BYTES = 10 * 1024 * 1024
_PROGRAMS = frozenset({"postgres", "initdb"})
# How long orphans get to leave by themselves; a backend without postmaster ends at its next wait.
_GRACE_SECONDS = 0.5
_QUIT_SECONDS = 5.0


class Postmaster:
    """The server's processes on one directory. No method takes a lock against other starters: callers hold one."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    # -- looking --------------------------------------------------------------------------------------------------

    def pid(self) -> int | None:
        """Process id of the living postmaster, or ``None``.

        The id in ``postmaster.pid`` alone proves nothing: after a crash it may be another program's by now.
        """
        lines = self._pid_file()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        return pid if self._is_ours(pid) else None

    def is_ready(self) -> bool:
        """Whether the postmaster lives and says that it accepts connections."""
        lines = self._pid_file()
        return len(lines) >= 8 and lines[7].strip() == "ready" and self.pid() is not None

    def all_gone(self) -> bool:
        """Whether no process of the server lives."""
        return is_free(self.directory.server_lock)

    def log_tail(self, *, after: int = 0, lines: int = 15) -> str:
        """The end of the server's log, from byte ``after`` on."""
        try:
            with self.directory.log.open("rb") as log:
                log.seek(max(after, log.seek(0, os.SEEK_END) - 8192))
                text = log.read().decode(errors="replace").strip()
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"

    def _pid_file(self) -> list[str]:
        try:
            return (self.directory.cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _is_ours(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            # Every process of a server has its data as working folder, from the first moment.
            return (
                process.name() in _PROGRAMS
                and process.status() != psutil.STATUS_ZOMBIE
                and Path(process.cwd()).is_relative_to(self.directory.base.resolve())
            )
        except (psutil.Error, OSError):
            return False

    def _survivors(self) -> list[int]:
        return [pid for pid in psutil.pids() if self._is_ours(pid)]

    # -- starting -------------------------------------------------------------------------------------------------

    def launch(
        self, lock: FileLock, installation: Installation, user: SystemUser | None, settings: Mapping[str, str]
    ) -> None:
        """Start the postmaster, which holds ``lock`` from then on; the cluster is made first if there is none.

        Args:
            lock: ``server.lock``, held; given up by this process in any case.
            installation: the binaries.
            user: as whom to run them.
            settings: server settings over ``SETTINGS``.

        Raises:
            EmbeddedServerError: the cluster cannot be made, is of another version, or is in use by a server that
                was not started here.
        """
        try:
            self._rotate_log()
            with self.directory.log.open("ab") as log:
                merged = {**SETTINGS, **settings}
                self._ensure_cluster(lock, installation, user, log, durable=merged["fsync"] != "off")
                self._clear_stale_files()
                merged |= {"unix_socket_directories": str(self.directory.socket_directory), "port": str(PORT)}
                options = [word for name, value in merged.items() for word in ("-c", f"{name}={value}")]
                # Through a shell that ends at once: the postmaster shall be no child of a Python process, whose pools
                # wait for any child, and where it would stay a zombie when it dies. Not through pg_ctl: that waits
                # in steps of 100 ms, and puts the paths into a shell command without quoting all there is to quote.
                postgres: list[str | Path] = [installation.bin / "postgres", "-D", self.directory.cluster, *options]
                self._run(
                    ["/bin/sh", "-c", '"$@" &', "sh", *postgres],
                    cwd=self.directory.cluster,
                    lock=lock,
                    user=user,
                    log=log,
                )
        finally:
            lock.give_up()

    def wait_until_ready(self, deadline: float) -> bool:
        """Wait for the postmaster just launched, through crash recovery if need be, until ``time.monotonic()`` says so.

        Returns:
            Whether it is ready; if not, it has ended, or the time is over.
        """
        while not self.is_ready():
            if self.all_gone() or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _ensure_cluster(
        self, lock: FileLock, installation: Installation, user: SystemUser | None, log: IO[bytes], *, durable: bool
    ) -> None:
        cluster = self.directory.cluster
        if cluster.exists():
            try:
                version = (cluster / "PG_VERSION").read_text().strip()
            except OSError:
                version = "unknown"
            if version != str(POSTGRES_MAJOR):
                raise EmbeddedServerError(
                    f"{cluster} holds data of PostgreSQL version '{version}', the embedded one is {POSTGRES_MAJOR}",
                    hint="move the folder away, or set DATABASE_URL to a server of that version",
                )
            return
        # Made aside and moved into place when complete: a half-made cluster is never taken for a whole one.
        staging = self.directory.base / "data.new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        if user is not None:
            os.chown(staging, user.uid, user.gid)
        self._run(
            [
                *(installation.bin / "initdb", "-D", staging, "--username=postgres"),
                *("--auth-local=trust", "--auth-host=reject"),
                # The same order of text on every machine, whatever locales it has.
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *(() if durable else ("--no-sync",)),
            ],
            cwd=staging,
            lock=lock,
            user=user,
            log=log,
        )
        staging.rename(cluster)
        _sync_folder(self.directory.base)

    def _clear_stale_files(self) -> None:
        """Remove the lock files of a server that died.

        PostgreSQL believes them if *any* process has the id in them, and then refuses to start. ``server.lock``,
        which we hold, knows better, except for a server that somebody started by hand.
        """
        survivors = self._survivors()
        if survivors:
            raise EmbeddedServerError(
                f"another PostgreSQL, not started by Tasker, runs on {self.directory.cluster} (processes {survivors})",
                hint=f"stop it: pg_ctl -D '{self.directory.cluster}' stop",
            )
        socket = self.directory.socket
        for path in (self.directory.cluster / "postmaster.pid", socket, Path(f"{socket}.lock")):
            path.unlink(missing_ok=True)

    def _rotate_log(self) -> None:
        log = self.directory.log
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_BYTES:
                log.replace(log.with_name("server.log.1"))

    def _run(
        self, command: list[str | Path], *, cwd: Path, lock: FileLock, user: SystemUser | None, log: IO[bytes]
    ) -> None:
        start = log.seek(0, os.SEEK_END)
        try:
            subprocess.run(
                command,
                cwd=cwd,
                # Nothing of the caller's: PGPORT, PGDATA and the like would change what is started.
                env={
                    "PATH": "/usr/bin:/bin",
                    "LC_ALL": "C",
                    "TZ": "UTC",
                    **{name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal is not for PostgreSQL
                check=True,
                **({} if user is None else user.process_arguments()),
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedServerError(
                f"{Path(command[0]).name} failed for the embedded PostgreSQL in {self.directory.base}: {error}; its "
                f"log ({self.directory.log}) ends:\n{self.log_tail(after=start)}"
            ) from error

    # -- ending ---------------------------------------------------------------------------------------------------

    def stop(self, *, timeout_seconds: float = 60.0) -> None:
        """Stop the server, whatever state it is in: cleanly if it does so in time, else by force.

        Raises:
            EmbeddedServerError: processes of it remain all the same.
        """
        pid = self.pid()
        # A server that somebody started by hand on the data does not hold the lock, and is not ours to stop.
        if pid is not None and not self.all_gone():
            _signal(pid, signal.SIGINT)  # "fast": ends sessions, writes a checkpoint
            self._wait_gone(timeout_seconds, lambda: self.pid() is None)
        self.end_orphans()
        self.directory.remove_outside_socket_directory()

    def end_orphans(self) -> None:
        """Wait for processes left without a postmaster, then end them.

        Raises:
            EmbeddedServerError: some remain.
        """
        if self._wait_gone(_GRACE_SECONDS):
            return
        # What a postmaster does to its backends after a crash: QUIT, and KILL five seconds later. What they had
        # not committed is rolled back by crash recovery.
        for number, seconds in ((signal.SIGQUIT, _QUIT_SECONDS), (signal.SIGKILL, _QUIT_SECONDS)):
            survivors = self._survivors()
            for pid in survivors:
                _signal(pid, number)
            if self._wait_gone(seconds if survivors else _GRACE_SECONDS):
                return
        survivors = self._survivors()
        raise EmbeddedServerError(
            f"processes {survivors} of the embedded PostgreSQL in {self.directory.base} do not end"
            if survivors
            else f"a process that cannot be seen from here (in another container, on another host) runs the embedded "
            f"PostgreSQL in {self.directory.base}"
        )

    def _wait_gone(self, timeout_seconds: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while not self.all_gone():
            if time.monotonic() > deadline or give_up():
                return self.all_gone()
            time.sleep(0.005)
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
