"""One engine on two databases of the same server, turn by turn: a small one, and one in which something is large.

Both get the same tasks, from the same program (`benchmarks.engines.tasker`, bare, one process for steps): so many that
they fill a time, then some one at a time. Every result is checked. In the next round the other one begins. A ratio is
formed within each round. When the rounds are over, one executor works in both with PostgreSQL's own counters on, which
says what has become dearer.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.engines.base import Place
from benchmarks.engines.tasker_setup import LEARNED_SECONDS, environment
from benchmarks.figures.watching import settle, watch
from benchmarks.inside import CHAIN, database
from benchmarks.meters import Meter
from benchmarks.program import Program
from benchmarks.reading import percentile
from benchmarks.servers import Servers
from tasker.config.manager import ConfigManager
from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore

Sample = dict[str, Any]
Lay = Callable[[str], AbstractContextManager[None]]
"""Makes a database large, before the engine starts; the block ends when all is measured."""

SMALL, LARGE = "small", "large"
WARM_TASKS = 100
TICKS = 10
TICK_PERIOD_SECONDS = 0.1
TABLES = """
    SELECT s.relname, s.n_dead_tup, pg_table_size(s.relid) + pg_indexes_size(s.relid)
    FROM pg_stat_user_tables AS s
    WHERE (s.schemaname, s.relname) IN (('tasker', 'workflow_steps'), ('tasker', 'tasks'), ('tasker', 'step_claims'),
                                        ('tasker', 'executors'), ('pgmq', 'q_bench_queue'))
"""


@dataclass
class Side:
    """One of the two.

    Attributes:
        name: small or large.
        url: its database.
        program: the engine that works there.
    """

    name: str
    url: str
    program: Program

    def backends(self) -> list[int]:
        """The server's processes that work for it."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            ).fetchall()
        return [pid for (pid,) in rows]

    def tables(self) -> dict[str, dict[str, int]]:
        """Dead rows, as the server estimates them, and bytes of the tables that are updated most."""
        with psycopg.connect(self.url) as connection:
            return {name: {"dead": dead, "bytes": size} for name, dead, size in connection.execute(TABLES)}


@dataclass(frozen=True)
class Turns:
    """A figure of both sides, by round."""

    small: dict[int, float]
    large: dict[int, float]

    @classmethod
    def of(cls, samples: Iterable[Sample], figure: Callable[[Sample], float]) -> Turns:
        """The figure of each sample."""
        found = cls({}, {})
        for sample in samples:
            (found.small if sample["side"] == SMALL else found.large)[sample["round"]] = figure(sample)
        return found

    @property
    def ratios(self) -> list[float]:
        """Large against small, formed within each round; a round so short that no CPU time was counted has none."""
        return [self.large[number] / small for number, small in sorted(self.small.items()) if small]


@dataclass(frozen=True)
class Pair:
    """What was found.

    Attributes:
        samples: one for each side and round: side, round, steps, seconds, cpu (of workers and backends, seconds),
            latencies (seconds), at (seconds since the first round began), tables.
        watched: by side, what `benchmarks.figures.watching.watch` found, and `ticks`, milliseconds.
        laid_seconds: how long it took to make the one large.
        bytes: size of the large database then.
    """

    samples: list[Sample]
    watched: dict[str, dict[str, Any]]
    laid_seconds: float
    bytes: int


def measure_pair(
    found: Servers,
    lay: Lay,
    *,
    rounds: int,
    seconds: float,
    latencies: int,
    until_seconds: float = 0.0,
) -> Pair:
    """Measure both, in turn.

    Args:
        found: the server.
        lay: what makes one large.
        rounds: how many.
        seconds: how long a throughput takes, roughly.
        latencies: tasks one at a time, in each round and side.
        until_seconds: begin rounds until so much time is over, even beyond ``rounds``.
    """
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(database(found.postgresql)) for name in (SMALL, LARGE)}
        begun = time.monotonic()
        stack.enter_context(lay(urls[LARGE]))
        laid_seconds = time.monotonic() - begun
        for url in urls.values():
            settle(url)
        size = found.postgresql.size(urls[LARGE])
        with contextlib.ExitStack() as engines:
            sides = [Side(name, url, engines.enter_context(_engine(url))) for name, url in urls.items()]
            samples = _rounds(found, sides, rounds, seconds, latencies, until_seconds)
            for side in sides:
                side.program.stop()
        tasks = max(WARM_TASKS, samples[0]["steps"] // CHAIN.steps // 2)
        seen = {name: {**watch(url, tasks), "ticks": _ticks(url)} for name, url in urls.items()}
    return Pair(samples, seen, laid_seconds, size)


@contextlib.contextmanager
def _engine(url: str) -> Iterator[Program]:
    with tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder:
        with Program("tasker-bare", Place(url, "", "", str(Path(folder) / "engine"), 1)) as program:
            program.start()
            yield program


def _rounds(
    found: Servers, sides: list[Side], rounds: int, seconds: float, latencies: int, until_seconds: float
) -> list[Sample]:
    rate = 0.0
    for side in sides:
        for tasks in (WARM_TASKS // 10, WARM_TASKS, WARM_TASKS):
            rate = tasks / _throughput(side, tasks)["seconds"]
        side.program.ask(60, do="latency", shape=CHAIN.name, tasks=3)
    time.sleep(LEARNED_SECONDS)
    # A hundred tasks are hardly more than a start; the trial finds how many really fill the time.
    trial = max(WARM_TASKS, round(seconds / 4 * rate))
    tasks = max(WARM_TASKS, round(seconds * trial / _throughput(sides[0], trial)["seconds"]))
    _throughput(sides[1], trial)
    samples: list[Sample] = []
    begun, number = time.monotonic(), 0
    while number < rounds or time.monotonic() - begun < until_seconds:
        for side in sides if number % 2 == 0 else sides[::-1]:
            at = time.monotonic() - begun
            groups = {"workers": side.program.workers}
            if "PostgreSQL" in found.processes:
                groups["PostgreSQL"] = side.backends()
            meter = Meter(groups)
            answer = _throughput(side, tasks)
            spent = meter.spent()
            one_by_one = side.program.ask(600, do="latency", shape=CHAIN.name, tasks=latencies)["seconds"]
            samples.append(
                {
                    "side": side.name,
                    "round": number,
                    "at": at,
                    "steps": tasks * CHAIN.steps,
                    "seconds": answer["seconds"],
                    "cpu": spent,
                    "p50": percentile(one_by_one, 50),
                    "p99": percentile(one_by_one, 99),
                    "tables": side.tables(),
                }
            )
        number += 1
    return samples


def _throughput(side: Side, tasks: int) -> Any:
    return side.program.ask(630, do="throughput", shape=CHAIN.name, tasks=tasks, timeout=600)


def _ticks(url: str) -> list[float]:
    """Milliseconds of ticks of the coordinator."""
    period = {"TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": str(TICK_PERIOD_SECONDS)}
    settings = ConfigManager.load(environ=environment(url, **period))
    taken: list[float] = []
    with OrchestrationCore.from_settings(settings, database_url=url) as core:
        coordinator = Coordinator(core)
        while len(taken) < TICKS:
            begun = time.perf_counter()
            report = coordinator.tick()
            if report.problems:
                raise RuntimeError(f"a tick failed: {report.problems}")
            if report.ticked:
                taken.append((time.perf_counter() - begun) * 1000)
            time.sleep(TICK_PERIOD_SECONDS / 2)
    return taken[1:]  # the first one has connections to make
