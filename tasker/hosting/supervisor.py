"""Several processes as one, most of them Celery's: started together, restarted when they die, stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
"""Restarts of a process that keeps dying are at most this far apart."""

STEADY_SECONDS = 30.0
"""A process that lived for so long died of something new."""

LOOK_SECONDS = 0.1

CELERY = "celery.bin.celery:main"


@dataclass(frozen=True)
class Program:
    """One process to keep running.

    Attributes:
        name: what people call it.
        arguments: what follows ``celery -A app`` on its command line; of another program, all arguments.
        entry: what it runs, as ``module:function``.
        attempts: starts in a row after which it is given up; ``None``: never.
        stop_signal: what it is sent to end.
    """

    name: str
    arguments: tuple[str, ...]
    entry: str = CELERY
    attempts: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass
class _Running:
    program: Program
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    starts: int = 0
    given_up: bool = field(default=False)


Said = Callable[[str, str], None]
"""Takes the name of a program and one line that it said."""


class Supervisor:
    """Runs processes until it is stopped. All methods are called from one thread, but ``stop``.

    Each process is in a session of its own, so that Ctrl-C in a terminal reaches this one alone, and ends when this one
    dies.

    Args:
        programs: what to run.
        said: called with each line that one of them prints, from threads of its own.
        event: called with each thing that happens to one of them.
        app: the Celery app.
        env: their environment; this process's own when ``None``.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        said: Said,
        event: Said,
        app: str = "tasker",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._app = app
        self._env = {**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"}
        self._said = said
        self._event = event
        self._running = [_Running(program) for program in programs]
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start all."""
        for running in self._running:
            self._start(running)

    def watch(self) -> None:
        """Restart what dies, until ``stop``."""
        while not self._stopping.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Restart what died since the last look, as soon as its pause is over."""
        for running in self._running:
            if running.process is not None and running.process.poll() is not None:
                self._died(running)
            if running.process is None and not running.given_up and time.monotonic() >= running.start_at:
                self._start(running)

    def stop(self) -> None:
        """Have ``watch`` return; from any thread, or a signal handler."""
        self._stopping.set()

    def end(self, timeout_seconds: float) -> bool:
        """Stop all processes in order, and kill those that take longer.

        Returns:
            Whether all ended by themselves.
        """
        alive = [running.process for running in self._running if running.process is not None]
        for running in self._running:
            if running.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(running.program.stop_signal)
        deadline = time.monotonic() + timeout_seconds
        late = [process for process in alive if not _ended(process, deadline - time.monotonic())]
        self.kill()
        return not late

    def kill(self) -> None:
        """End whatever still runs, at once."""
        for running in self._running:
            if running.process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
            if running.reader is not None:
                running.reader.join(1)

    def pid_of(self, name: str) -> int | None:
        """The process id of a program that runs."""
        for running in self._running:
            if running.program.name == name and running.process is not None:
                return running.process.pid
        return None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _start(self, running: _Running) -> None:
        running.starts += 1
        running.started_at = time.monotonic()
        program = running.program
        arguments = ("-A", self._app, *program.arguments) if program.entry == CELERY else program.arguments
        process = running.process = subprocess.Popen(
            [sys.executable, "-m", "tasker.hosting.child", str(os.getpid()), program.entry, *arguments],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        running.reader = threading.Thread(target=self._read, args=(running.program.name, process), daemon=True)
        running.reader.start()

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._said(name, line.rstrip("\n"))

    def _died(self, running: _Running) -> None:
        assert running.process is not None
        code, running.process = running.process.returncode, None
        if time.monotonic() - running.started_at >= STEADY_SECONDS:
            running.starts = 1
        why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if running.program.attempts is not None and running.starts >= running.program.attempts:
            running.given_up = True
            self._event(running.program.name, f"{why}; it is not started again")
            return
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (running.starts - 1), LONGEST_PAUSE_SECONDS)
        running.start_at = time.monotonic() + pause
        self._event(running.program.name, f"{why}; it is started again in {pause:.0f} s")


def _ended(process: subprocess.Popen[str], timeout_seconds: float) -> bool:
    try:
        process.wait(max(0.0, timeout_seconds))
    except subprocess.TimeoutExpired:
        return False
    return True
