"""Two workers replaced one after the other under a steady stream of tasks, as a deploy does it.

Each is sent SIGTERM, and its successor is started once it has ended, as a service manager does it. No step may fail, no
attempt may be lost, no task may fail: else the program fails. What is told is how long a replacement takes, how many
steps were given back, and what those who wait for tasks see of it.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from benchmarks.engines.processes import ROOT
from benchmarks.engines.tasker_setup import CELERY_WORKER, NAMESPACE, environment, register, request
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN, database
from benchmarks.reading import percentile
from benchmarks.servers import Servers
from benchmarks.shapes import Runs
from tasker import Tasker

POOLS = ("prefork", "threads", "solo")
WORKERS, EXECUTORS = 2, 2
STEP_SECONDS = 0.02
TASKS_PER_SECOND = 10
"""Of four steps each: what one worker alone can just do, on the pool that does least (solo, one executor)."""

EVERY_SECONDS = 0.1
STEADY_SECONDS = 3.0
"""How long the stream is watched before the first replacement; as long as the load runs on between two."""

BETWEEN_SECONDS = 1.0
LONGEST_SECONDS = 120.0
RUNS = "runs"
"""The file to which handlers write that they ran."""

SERVING = "SELECT count(*) FROM tasker.executors WHERE worker = %s AND kind = 'step_executor' AND lost_at IS NULL"
ENDED = "SELECT extract(epoch FROM at) FROM tasker.workflow_step_transitions WHERE to_state = 'complete' ORDER BY at"
RELEASED = "SELECT extract(epoch FROM at) FROM tasker.workflow_step_transitions WHERE reason = 'released'"
LATENCIES = (
    "SELECT extract(epoch FROM created_at), extract(epoch FROM finished_at - created_at) FROM tasker.tasks ORDER BY 1"
)
UNLIKE = (
    "SELECT state, attempts, losses, count(*) FROM tasker.workflow_steps"
    " WHERE (state, attempts, losses) <> ('complete', 1, 0) GROUP BY 1, 2, 3"
)


class SomethingLost(RuntimeError):
    """A replacement of workers cost an attempt, or more."""


@dataclass(frozen=True)
class Replacement:
    """One worker's place taken by another, by the clock of this machine (seconds since 1970)."""

    told_at: float
    ended_at: float
    serving_at: float


@dataclass
class Rolled:
    """What one pool's rolling restart showed.

    Attributes:
        replacements: in their order.
        steady: from when to when the stream ran undisturbed.
        completed: when steps completed.
        released: when steps were given back.
        latencies: when tasks were created, and the seconds until each had finished.
    """

    replacements: list[Replacement] = field(default_factory=list)
    steady: tuple[float, float] = (0.0, 0.0)
    completed: list[float] = field(default_factory=list)
    released: list[float] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)

    def rate(self, begin: float, end: float) -> float:
        """Steps completed per second between these moments."""
        return sum(begin <= at < end for at in self.completed) / (end - begin)

    def dips(self) -> list[float]:
        """For each replacement, what was completed meanwhile, as a share of what is completed in peace."""
        peace = self.rate(*self.steady)
        return [self.rate(each.told_at, each.serving_at) / peace for each in self.replacements]

    def waits(self, *, replacing: bool) -> list[float]:
        """Seconds of the tasks that were created in peace, or while a worker was being replaced."""
        spans = [(each.told_at, each.serving_at) for each in self.replacements] if replacing else [self.steady]
        return [wait for created, wait in self.latencies if any(begin <= created < end for begin, end in spans)]


def measure(found: Servers, sizes: Sizes) -> Found:
    """Seconds, steps given back and dips of each pool."""
    figures: dict[str, list[float]] = {}
    details: dict[str, Any] = {}
    for pool in POOLS:
        with database(found.postgresql) as url, tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder:
            rolled = roll(url, Path(folder), pool=pool, restarts=sizes.restarts)
        each = rolled.replacements
        figures[f"rolling_restart_{pool}_end_s"] = [one.ended_at - one.told_at for one in each]
        figures[f"rolling_restart_{pool}_serving_s"] = [one.serving_at - one.told_at for one in each]
        figures[f"rolling_restart_{pool}_released"] = [
            float(sum(one.told_at <= at <= one.ended_at for at in rolled.released)) for one in each
        ]
        figures[f"rolling_restart_{pool}_share"] = rolled.dips()
        waits = {"peace": rolled.waits(replacing=False), "replacing": rolled.waits(replacing=True)}
        for when, seconds in waits.items():
            figures[f"rolling_restart_{pool}_p50_{when}_ms"] = [statistics.median(seconds) * 1000]
            figures[f"rolling_restart_{pool}_p99_{when}_ms"] = [percentile(seconds, 99) * 1000]
        details[pool] = {"tasks": len(rolled.latencies), "steps": len(rolled.completed)}
    return Found(figures, size=sizes.restarts, details=details)


def roll(url: str, folder: Path, *, pool: str, restarts: int, steady_seconds: float = STEADY_SECONDS) -> Rolled:
    """Replace two workers in turn, under load.

    Args:
        url: a database in which the shape is registered.
        folder: for logs.
        pool: Celery's pool.
        restarts: how many replacements.
        steady_seconds: how long the load is watched in peace before the first.

    Raises:
        SomethingLost: a step or a task failed, or an attempt was spent in vain.
        WrongResult: a handler ran more than once, or not at all.
    """
    register(url, CHAIN, handler="paced")
    rolled = Rolled()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Tasker(url))
        looking = stack.enter_context(psycopg.connect(url, autocommit=True))
        workers = [stack.enter_context(_Worker(url, folder, f"rolling{n}", pool)) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_until_serving(looking)
        stream = stack.enter_context(_Stream(client))
        time.sleep(steady_seconds)  # until the averages of how long steps take are known
        began = time.time()
        time.sleep(steady_seconds)
        rolled.steady = began, time.time()
        for worker in itertools.islice(itertools.cycle(workers), restarts):
            told_at = time.time()
            worker.end()
            ended_at = time.time()
            worker.start()
            worker.wait_until_serving(looking)
            rolled.replacements.append(Replacement(told_at, ended_at, time.time()))
            time.sleep(BETWEEN_SECONDS)
        created = stream.end()
        states = {each.state for each in client.wait_all(created, LONGEST_SECONDS).values()}
        unlike = looking.execute(UNLIKE.encode()).fetchall()
        if states != {"complete"} or unlike:
            raise SomethingLost(
                f"{pool}: tasks ended as {sorted(states)}; steps (state, attempts, losses, n): {unlike}"
            )
        Runs(folder / RUNS).verify(CHAIN, range(len(created)))
        rolled.completed = [float(at) for (at,) in looking.execute(ENDED.encode())]
        rolled.released = [float(at) for (at,) in looking.execute(RELEASED.encode())]
        rolled.latencies = [(float(at), float(wait)) for at, wait in looking.execute(LATENCIES.encode())]
    return rolled


class _Stream:
    """A thread that creates tasks, as many each second."""

    def __init__(self, client: Tasker) -> None:
        self._client = client
        self._created: list[UUID] = []
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> _Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def end(self) -> Sequence[UUID]:
        """Create no more; all that were created."""
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._created

    def _run(self) -> None:
        at_once = round(TASKS_PER_SECOND * EVERY_SECONDS)
        began = time.monotonic()
        for turn in itertools.count(1):
            try:
                for _ in range(at_once):
                    asked = request(CHAIN, len(self._created))
                    context = {**asked["context"], "seconds": STEP_SECONDS}
                    self._created.append(self._client.create(NAMESPACE, CHAIN.name, context).task_uuid)
            except Exception as error:
                self._error = error
                return
            if self._over.wait(max(0.0, began + turn * EVERY_SECONDS - time.monotonic())):
                return


class _Worker:
    """One place for a Celery worker, and whoever holds it at present."""

    def __init__(self, url: str, folder: Path, name: str, pool: str) -> None:
        self._url = url
        self._log = folder / f"{name}.log"
        self._name = f"{name}@bench"
        self._command = [*CELERY_WORKER, "-Q", NAMESPACE, "-P", pool, "-c", str(EXECUTORS), "-n", self._name]
        self._executors = 1 if pool == "solo" else EXECUTORS
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment(self._url, BENCH_RUNS=str(self._log.parent / RUNS)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self) -> None:
        """SIGTERM, and wait until it has ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(LONGEST_SECONDS)
        self._process = None
        if code:
            raise SomethingLost(f"{self._name} ended with {code}:\n{self._tail()}")

    def wait_until_serving(self, looking: psycopg.Connection[Any]) -> None:
        """Wait until all its executors are registered."""
        for _ in _looks(f"{self._name} is at work", self._tail):
            row = looking.execute(SERVING.encode(), [self._name]).fetchone()
            if row is not None and row[0] == self._executors:
                return

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _looks(what: str, log: Any) -> Iterator[None]:
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.01)
    raise TimeoutError(f"{what}: not within {LONGEST_SECONDS:.0f} s\n{log()}")
