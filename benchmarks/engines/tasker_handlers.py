"""The handlers of shapes as Tasker calls them: `step` of every engine's round, the others of single figures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.shapes import Runs, shape_of
from tasker import StepContext

runs = Runs(Path(os.environ.get("BENCH_RUNS", os.devnull)))


def step(ctx: StepContext) -> dict[str, Any]:
    """The value of this step, from its parents' and the task's number."""
    shape = shape_of(ctx.task_name)
    n = ctx.context["n"]
    value = shape.value(ctx.step_name, n, (ctx.results[parent]["value"] for parent in shape.parents[ctx.step_name]))
    runs.add(n, shape.positions[ctx.step_name])
    return {"value": value}


def paced(ctx: StepContext) -> dict[str, Any]:
    """As `step`, after so long as the task says."""
    time.sleep(ctx.context["seconds"])
    return step(ctx)


def times(ctx: StepContext) -> dict[str, float]:
    """When it was entered and left, by the clock that PostgreSQL on the same machine has (seconds since 1970)."""
    entered = time.time()
    return {"entered": entered, "left": time.time()}


def echo(ctx: StepContext) -> dict[str, Any]:
    """As `step`, and what the task carries."""
    return {**step(ctx), "carried": ctx.context["carried"]}
