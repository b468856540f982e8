"""The handler of every step of every shape, as Tasker calls it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.shapes import SHAPES, Runs
from tasker import StepContext

runs = Runs(Path(os.environ.get("BENCH_RUNS", os.devnull)))


def step(ctx: StepContext) -> dict[str, Any]:
    """The value of this step, from its parents' and the task's number."""
    shape = SHAPES[ctx.task_name]
    n = ctx.context["n"]
    value = shape.value(ctx.step_name, n, (ctx.results[parent]["value"] for parent in shape.parents[ctx.step_name]))
    runs.add(n, shape.positions[ctx.step_name])
    return {"value": value}
