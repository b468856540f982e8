"""Measuring: rounds in which each engine has its turn, in an empty database, with all that it costs.

A *session* is one engine in one round: start, warm up, a throughput for each shape, latencies, stop. What it found are
*samples*, plain dicts, which `benchmarks.report` reads from the run's JSON.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engines.base import Place
from benchmarks.engines.environments import EnvironmentFailed
from benchmarks.engines.registry import ENGINES
from benchmarks.meters import Meter, Peak
from benchmarks.plan import LEAST_TASKS, Plan
from benchmarks.program import EngineFailed, Program
from benchmarks.servers import Servers
from benchmarks.shapes import SHAPES

TRIAL_TASKS = 5
WARM_TASKS = 100
"""So often each engine has run each step before anything is timed, where that is bearable."""

LATENCY_SECONDS = 300.0


@dataclass
class Measured:
    """What a run found.

    Attributes:
        samples: see the module.
        sizes: tasks of a throughput, by engine and shape.
        failed: engines that failed, each with why; they are not measured any more.
        left_out: by engine and shape, why it was not measured.
        rounds: how many were measured.
    """

    samples: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    rounds: int = 0


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def measure(engines: Sequence[str], plan: Plan, servers: Servers, workers: int) -> Measured:
    """Measure each engine once a round; another one begins each round."""
    measured = Measured()
    since, longest = time.monotonic(), 0.0
    for number in range(plan.rounds):
        started = time.monotonic()
        if plan.budget is not None and started - since + longest > plan.budget:
            say(f"{number} of {plan.rounds} rounds: another would take longer than the {plan.budget:g} s there are")
            break
        turn = number % len(engines)
        for engine in (*engines[turn:], *engines[:turn]):
            if engine in measured.failed:
                continue
            begun = time.monotonic()
            try:
                _Session(engine, number, plan, servers, workers, measured, engines).run()
            except (EngineFailed, EnvironmentFailed) as error:
                measured.failed[engine] = str(error)
                say(f"round {number + 1}, {engine} FAILED: {error}")
            else:
                say(f"round {number + 1}, {engine}: {time.monotonic() - begun:.0f} s")
        measured.rounds += 1
        longest = max(longest, time.monotonic() - started)
    return measured


class _Session:
    """One engine in one round."""

    def __init__(
        self,
        engine: str,
        number: int,
        plan: Plan,
        servers: Servers,
        workers: int,
        measured: Measured,
        engines: Sequence[str],
    ) -> None:
        self.engine = engine
        self.number = number
        self.plan = plan
        self.servers = servers
        self.workers = workers
        self.measured = measured
        self.sizes = measured.sizes.setdefault(engine, {})
        self.left_out = measured.left_out.setdefault(engine, {})
        self.shapes = plan.shapes_of(engine, engines)
        entry = ENGINES[engine]
        used = {"PostgreSQL": entry.postgresql, "Redis": entry.redis, "RabbitMQ": entry.rabbitmq}
        self.groups = {name: [pid] for name, pid in servers.processes.items() if used[name]}
        self.steps = 0

    def run(self) -> None:
        """All of it."""
        with self._place() as place, Program(self.engine, place) as program:
            program.start()
            rows = self.servers.postgresql.rows_written(place.database_url)
            self.peak = Peak(program.workers)
            shapes = [shape for shape in self.shapes if shape in program.shapes]
            if not shapes:
                raise EngineFailed(f"{self.engine} runs none of {', '.join(self.shapes)}")
            self._warm_up(program, shapes)
            for shape in shapes:
                if shape in self.sizes:
                    self._throughput(program, shape, self.sizes[shape])
            if self.number == 0 and ENGINES[self.engine].postgresql:
                self._count_statements(program, shapes[0])
            self._latency(program)
            if ENGINES[self.engine].postgresql:
                program.stop()
                rows = self.servers.postgresql.rows_written(place.database_url) - rows
                self._add(mode="rows", rows=rows, steps=self.steps)
            else:
                program.stop()

    @contextlib.contextmanager
    def _place(self) -> Iterator[Place]:
        with tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder:
            url = self.servers.postgresql.create()
            try:
                engine = str(Path(folder) / "engine")
                yield Place(url, self.servers.redis_url, self.servers.amqp_url, engine, self.workers)
            finally:
                self.servers.postgresql.drop(url)

    # -- parts ------------------------------------------------------------------------------------------------

    def _warm_up(self, program: Program, shapes: Sequence[str]) -> None:
        """Have all code loaded, all plans made and all steps known; in the first round, find the sizes."""
        first, *others = shapes
        rate = self._warm(program, first, TRIAL_TASKS)
        for shape in others:
            expected = SHAPES[shape].steps / rate
            if shape not in self.sizes and expected > self.plan.longest:
                self.left_out.setdefault(shape, f"one task would take about {expected:.0f} s")
            elif shape not in self.left_out:
                self._warm(program, shape, 1)
        time.sleep(program.settles)
        for shape in shapes:
            if shape not in self.sizes and shape not in self.left_out:
                self.sizes[shape] = self._find_size(program, shape, TRIAL_TASKS if shape == first else 1)

    def _warm(self, program: Program, shape: str, tasks: int) -> float:
        """Run `WARM_TASKS`, or for half of the longest time; steps per second of the last of them."""
        done, begun = 0, time.monotonic()
        while True:
            rate = tasks * SHAPES[shape].steps / self._ask(program, shape, tasks)["seconds"]
            done += tasks
            left = self.plan.longest / 2 - (time.monotonic() - begun)
            if done >= WARM_TASKS or left <= 0:
                return rate
            tasks = max(1, min(2 * tasks, WARM_TASKS - done, int(left * rate / SHAPES[shape].steps)))

    def _find_size(self, program: Program, shape: str, tasks: int) -> int:
        """The number of tasks that fills the time, found by more and more of them."""
        while (seconds := self._ask(program, shape, tasks)["seconds"]) < self.plan.seconds / 4:
            tasks = min(tasks * 8, math.ceil(tasks * self.plan.seconds / 3 / seconds))
        return self._size(tasks, seconds)

    def _size(self, tasks: int, seconds: float) -> int:
        """How many tasks fill the time, where so many took so long."""
        most = self.plan.longest * tasks / seconds
        return max(1, round(min(max(self.plan.seconds * tasks / seconds, LEAST_TASKS), most)))

    def _throughput(self, program: Program, shape: str, tasks: int) -> None:
        written = self.servers.postgresql.written()
        meter = Meter({"workers": program.workers, **self.groups})
        with self.peak.watching():
            answer = self._ask(program, shape, tasks)
        spent = meter.spent()
        commits, wal = (now - then for now, then in zip(self.servers.postgresql.written(), written, strict=True))
        found: dict[str, Any] = {
            "mode": "throughput",
            "shape": shape,
            "tasks": tasks,
            "steps": tasks * SHAPES[shape].steps,
            "seconds": answer["seconds"],
            "submitted": answer["submitted"],
            "cpu": {**spent, "client": answer["client_cpu"]},
            "memory": [self.peak.bytes[root] for root in program.workers],
        }
        if ENGINES[self.engine].postgresql:
            found |= {"commits": commits, "wal_bytes": wal}
        self._add(**found)

    def _count_statements(self, program: Program, shape: str) -> None:
        """In a run of its own: logging each statement takes time."""
        tasks = max(1, self.sizes[shape] // 4)
        with self.servers.postgresql.counting_statements() as counted:
            self._ask(program, shape, tasks)
        if counted:
            steps = tasks * SHAPES[shape].steps
            self._add(mode="statements", shape=shape, statements=counted.total(), steps=steps)

    def _latency(self, program: Program) -> None:
        count = self.plan.latencies_of(self.engine)
        if count:
            for tasks in (3, count):  # the first few find nothing ready
                answer = program.ask(LATENCY_SECONDS, do="latency", shape="linear4", tasks=tasks)
                self.steps += tasks * SHAPES["linear4"].steps
            self._add(mode="latency", shape="linear4", seconds=answer["seconds"], final=answer["final"])

    def _ask(self, program: Program, shape: str, tasks: int) -> Mapping[str, float]:
        timeout = max(60.0, 10 * self.plan.seconds, 3 * self.plan.longest)
        answer = program.ask(timeout + 30, do="throughput", shape=shape, tasks=tasks, timeout=timeout)
        self.steps += tasks * SHAPES[shape].steps
        return answer

    def _add(self, **found: Any) -> None:
        self.measured.samples.append({"engine": self.engine, "round": self.number, **found})
