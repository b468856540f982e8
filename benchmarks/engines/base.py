"""What every engine under test is to the bench: a program of its own that speaks JSON lines.

``python -m benchmarks.engines.<module> <place.json>`` is started with the interpreter of that engine's environment,
reads one command a line from its standard input and answers one line each. It is the engine's *client*: it starts the
worker processes, submits, waits for results as a user's program would, and times that. So every engine is measured
from the same spot, and no engine's libraries meet another's.

Commands: ``{"do": "start"}``, ``{"do": "throughput", "shape": …, "tasks": N, "timeout": seconds}``, ``{"do":
"latency", "shape": …, "tasks": N}``, ``{"do": "pids"}``, ``{"do": "stop"}``. Numbers of tasks rise and never repeat
within a run, so that the records of handlers' runs (`benchmarks.shapes.Runs`) tell one command from another.
"""

from __future__ import annotations

import abc
import contextlib
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.shapes import SHAPES, Runs, Shape, WrongResult, shape_of


@dataclass(frozen=True)
class Place:
    """Where an engine runs."""

    database_url: str
    """An empty database of the run's durable PostgreSQL; the engine makes its own schema."""
    redis_url: str
    amqp_url: str
    folder: str
    """For logs, scratch and the records of handler runs; empty at the start."""
    workers: int = 2
    """Worker processes that run handlers."""

    @property
    def runs(self) -> Path:
        """The file of `Runs`: workers find it through the environment variable ``BENCH_RUNS``."""
        return Path(self.folder) / "runs"


class Engine(abc.ABC):
    """One engine: how to start it, submit tasks to it, and wait for them."""

    name: ClassVar[str]
    shapes: ClassVar[Sequence[str]] = tuple(SHAPES)
    """The shapes that it can run."""
    settles: ClassVar[float] = 0
    """Seconds after the warm-up until it has learned what it learns about its steps; the bench waits so long."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.runs = Runs(place.runs)
        self._next = 1

    @abc.abstractmethod
    def start(self) -> None:
        """Make the schema, start the workers, return once they take work."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End what `start` began; leave no process behind."""

    @abc.abstractmethod
    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[Any]:
        """Submit a task per number by the fastest way the engine's own documents show; return a handle each."""

    @abc.abstractmethod
    def wait(self, handles: Sequence[Any], timeout: float) -> Sequence[int]:
        """Wait until each task is final; the value of each one's last step, in the order of the handles.

        An engine whose client waits without getting values returns nothing, and reads them in `results`.

        :raises TimeoutError: when one is not final in time (seconds).
        """

    def results(self, shape: Shape, handles: Sequence[Any], waited: Sequence[int]) -> Sequence[int]:
        """The values, where `wait` did not bring them: part of a latency, not of a throughput."""
        return waited

    @abc.abstractmethod
    def pids(self) -> Sequence[int]:
        """The worker processes (roots; the bench follows their children)."""

    # -- what the bench asks ----------------------------------------------------------------------------------

    def throughput(self, shape: Shape, tasks: int, timeout: float = 600) -> dict[str, float]:
        """Submit ``tasks`` and wait until the last is final; then check the results.

        :returns: ``seconds`` from the first submission until the last is final, ``submitted`` until all were
            submitted, and ``client_cpu``, the seconds of CPU that this process took for it.
        """
        numbers = self._numbers(tasks)
        cpu, begun = time.process_time(), time.perf_counter()
        handles = self.submit(shape, numbers)
        submitted = time.perf_counter() - begun
        waited = self.wait(handles, timeout)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        self._verify(shape, numbers, self.results(shape, handles, waited))
        return {"seconds": seconds, "submitted": submitted, "client_cpu": cpu}

    def latency(self, shape: Shape, tasks: int, pause: float = 0.03) -> dict[str, list[float]]:
        """One task at a time on the idle engine, as its client sees them.

        :returns: ``seconds`` of each until its value is known, and ``final``, until it was known to be final.
        """
        seen, final = [], []
        for _ in range(tasks):
            (number,) = self._numbers(1)
            begun = time.perf_counter()
            handles = self.submit(shape, [number])
            waited = self.wait(handles, 60)
            final.append(time.perf_counter() - begun)
            values = self.results(shape, handles, waited)
            seen.append(time.perf_counter() - begun)
            self._verify(shape, [number], values)
            time.sleep(pause)
        return {"seconds": seen, "final": final}

    def _numbers(self, count: int) -> list[int]:
        first, self._next = self._next, self._next + count
        return list(range(first, first + count))

    def _verify(self, shape: Shape, numbers: Sequence[int], values: Sequence[int]) -> None:
        wrong = sum(1 for n, value in zip(numbers, values, strict=True) if value != shape.expected(n))
        if wrong:
            raise WrongResult(f"{self.name}, {shape.name}: {wrong} of {len(numbers)} tasks ended with a wrong value")
        self.runs.verify(shape, numbers)


def serve(engine_type: type[Engine]) -> None:
    """The program: commands in, answers out, until ``stop``, the end of input or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # in order: the workers end with it
    # Whatever a library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    place = Place(**json.loads(Path(sys.argv[1]).read_text()))
    engine = engine_type(place)
    with contextlib.ExitStack() as stack:
        for line in sys.stdin:
            command = json.loads(line)
            answer: Mapping[str, Any]
            try:
                match command["do"]:
                    case "start":
                        stack.callback(engine.stop)
                        engine.start()
                        answer = {"name": engine.name, "shapes": list(engine.shapes), "settles": engine.settles}
                    case "throughput":
                        answer = engine.throughput(
                            shape_of(command["shape"]), command["tasks"], command.get("timeout", 600)
                        )
                    case "latency":
                        answer = engine.latency(shape_of(command["shape"]), command["tasks"])
                    case "pids":
                        answer = {"pids": list(engine.pids())}
                    case "stop":
                        stack.close()
                        answer = {}
                    case unknown:
                        raise ValueError(f"no command {unknown!r}")
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
            if command["do"] == "stop":
                return
