"""One task of ten thousand steps, against as many steps in tasks of 2,002 and of four: what width costs for each step.

The engine of `benchmarks.engines.tasker`, bare, with one process for steps.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.engines.base import Place
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.meters import Meter
from benchmarks.program import Program
from benchmarks.servers import Servers
from benchmarks.shapes import shape_of

WARM_TASKS = {"linear4": 100, "wide2000": 1}
LONGEST_SECONDS = 600.0


def measure(found: Servers, sizes: Sizes) -> Found:
    """Steps per second of the first such task and of later ones; these against other shapes, and their CPU, too."""
    one = f"wide{sizes.steps_of_one - 2}"
    shapes = (one, *WARM_TASKS)
    rates: dict[str, list[float]] = {shape: [] for shape in shapes}
    costs: dict[str, list[float]] = {shape: [] for shape in shapes}
    with contextlib.ExitStack() as stack:
        url = found.postgresql.create()
        stack.callback(found.postgresql.drop, url)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-bench-"))
        place = Place(url, "", "", str(Path(folder) / "engine"), 1)
        program = stack.enter_context(Program("tasker-bare", place))
        program.start()
        first = _run(program, one, 1)["seconds"]
        for shape, tasks in WARM_TASKS.items():
            _run(program, shape, tasks)
        servers = {name: [pid] for name, pid in found.processes.items() if name == "PostgreSQL"}
        for number in range(sizes.rounds):
            turn = number % len(shapes)
            for shape in (*shapes[turn:], *shapes[:turn]):
                tasks = max(1, round(sizes.steps_of_one / shape_of(shape).steps))
                meter = Meter({"workers": program.workers, **servers})
                seconds = _run(program, shape, tasks)["seconds"]
                steps = tasks * shape_of(shape).steps
                costs[shape].append(1e6 * sum(meter.spent().values()) / steps)
                rates[shape].append(steps / seconds)
        program.stop()
    figures = {"large_task_cold": [sizes.steps_of_one / first], "large_task_rate": rates[one]}
    for shape in WARM_TASKS:
        figures[f"large_task_against_{shape}"] = _ratios(rates[one], rates[shape])
        figures[f"large_task_cpu_against_{shape}"] = _ratios(costs[one], costs[shape])
    return Found(figures, size=sizes.steps_of_one)


def _ratios(over: list[float], under: list[float]) -> list[float]:
    # A round so short that no CPU time was counted has none.
    return [one / other for one, other in zip(over, under, strict=True) if other]


def _run(program: Program, shape: str, tasks: int) -> Any:
    return program.ask(LONGEST_SECONDS + 30, do="throughput", shape=shape, tasks=tasks, timeout=LONGEST_SECONDS)
