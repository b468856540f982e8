"""The worker processes of a peer: started in groups of their own, and never left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.engines.base import Place
from benchmarks.shapes import Runs

ROOT = Path(__file__).parents[2]
READY = b"ready for work"
"""What a worker program of ours writes to its log once it takes work."""


@functools.cache
def runs_here() -> Runs:
    """In a worker: the records of handlers' runs, where `Workers` says that they are."""
    return Runs(Path(os.environ["BENCH_RUNS"]))


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """For a library that waits without a limit: a `TimeoutError` in the main thread once the time is up."""

    def up(*_: object) -> None:
        raise TimeoutError(f"not final after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class StartFailed(Exception):
    """A worker ended, or did not come up in time; carries the end of its log."""


class Workers:
    """Processes that one engine starts. Each leads a process group, so that its own children end with it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    @property
    def pids(self) -> list[int]:
        """The processes started here."""
        return [process.pid for process, _ in self._started]

    @property
    def ended(self) -> dict[str, int]:
        """The exit codes of those that have ended by themselves, by name."""
        codes = {log.stem: process.poll() for process, log in self._started}
        return {name: code for name, code in codes.items() if code is not None}

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process, with ``BENCH_RUNS`` set and its output in ``<name>.log`` of the place's folder."""
        log = Path(self._place.folder) / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, "BENCH_RUNS": str(self._place.runs), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((process, log))

    def start_python(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a module of ours with the interpreter of the engine's environment."""
        self.start(name, [sys.executable, "-m", module, *arguments], environment)

    def until(self, ready: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait until ``ready``.

        :raises StartFailed: when a process ended meanwhile, or it took too long (seconds).
        """
        deadline = time.monotonic() + timeout
        while not ready():
            for process, log in self._started:
                if process.poll() is not None:
                    raise StartFailed(f"{what}: a process ended with {process.returncode}:\n{_end(log)}")
            if time.monotonic() > deadline:
                logs = "\n".join(_end(log) for _, log in self._started)
                raise StartFailed(f"{what}: not within {timeout:.0f} s:\n{logs}")
            time.sleep(0.05)

    def all_wrote(self, word: bytes, what: str, timeout: float = 60) -> None:
        """Wait until each process has written ``word`` to its log."""
        self._until_written([log for _, log in self._started], word, what, timeout)

    def all_ready(self, what: str, timeout: float = 60) -> None:
        """Wait until each process named ``worker…`` has written `READY` to its log."""
        logs = [log for _, log in self._started if log.name.startswith("worker")]
        self._until_written(logs, READY, what, timeout)

    def _until_written(self, logs: Sequence[Path], word: bytes, what: str, timeout: float) -> None:
        self.until(lambda: all(word in log.read_bytes() for log in logs), what, timeout)

    def stop(self, grace: float = 10) -> None:
        """Ask each process to end; after ``grace`` seconds, end it and all of its group."""
        for process, _ in self._started:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + grace
        for process, _ in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process, _ in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started.clear()


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
