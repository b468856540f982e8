"""The workflows of a storm. Each step's value is the sum of its parents' and of the task's number, plus one.

So a step that ran on wrong, missing or doubled input shows in the values. Workers import this module.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import mixing
from tasker import PermanentError, Retry, StepContext, workflow
from tasker.handlers.hooks import TaskOutcome
from tasker.workflows.declaration import Workflow
from tests.chaos.storm import effects

NAMESPACE = "chaos"
QUEUE = "chaos_queue"
VERSION = "1.0.0"

FLAKY_FAILURES = 3
"""The step ``moody`` fails in this many ways: at n modulo this many first attempts."""

_declare = partial(workflow, NAMESPACE, version=VERSION)


def fence_of(ctx: StepContext) -> int:
    """The fence of the claim under which the handler runs; handlers of users have no need of it."""
    fence = ctx.cancellation.args[0].fence  # type: ignore[attr-defined]
    assert isinstance(fence, int)
    return fence


def value_of(n: int, parents: Mapping[str, Mapping[str, Any]]) -> int:
    """The value that a step has to come to."""
    return n + 1 + sum(int(parent["value"]) for parent in parents.values())


def _work(ctx: StepContext, seconds: float = 0.0) -> dict[str, Any]:
    fence = fence_of(ctx)
    effects.write("begin", ctx.task_uuid, ctx.step_name, fence)
    if seconds:
        time.sleep(seconds)
    result = {"value": value_of(ctx.context["n"], ctx.results), "fence": fence}
    effects.write("end", ctx.task_uuid, ctx.step_name, fence)
    return result


async def _work_async(ctx: StepContext, seconds: float) -> dict[str, Any]:
    fence = fence_of(ctx)
    effects.write("begin", ctx.task_uuid, ctx.step_name, fence)
    await asyncio.sleep(seconds)
    result = {"value": value_of(ctx.context["n"], ctx.results), "fence": fence}
    effects.write("end", ctx.task_uuid, ctx.step_name, fence)
    return result


# -- shapes -----------------------------------------------------------------------------------------------------------

chain = _declare("chain")


@chain.step
def c1(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@chain.step(depends_on=[c1])
def c2(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx, 0.01)


@chain.step(depends_on=[c2])
def c3(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@chain.step(depends_on=[c3])
def c4(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


diamond = _declare("diamond")


@diamond.step
def top(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@diamond.step(depends_on=[top])
def left(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@diamond.step(depends_on=[top])
async def right(ctx: StepContext) -> dict[str, Any]:
    return await _work_async(ctx, random.uniform(0.05, 0.3))


@diamond.step(depends_on=[left, right])
def bottom(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


fan = _declare("fan")
FAN_WIDTH = 6


@fan.step
def spread(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


def blade(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx, 0.008)


for _number in range(FAN_WIDTH):
    fan.step(name=f"blade{_number}", depends_on=[spread])(blade)


@fan.step(depends_on=[f"blade{number}" for number in range(FAN_WIDTH)])
def gather(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


# -- tempers ----------------------------------------------------------------------------------------------------------

flaky = _declare("flaky")


@flaky.step(retry=Retry(max_attempts=FLAKY_FAILURES + 1, backoff="fixed", base_seconds=0.1))
def moody(ctx: StepContext) -> dict[str, Any]:
    if ctx.attempt <= ctx.context["n"] % FLAKY_FAILURES:
        effects.write("begin", ctx.task_uuid, ctx.step_name, fence_of(ctx))
        raise RuntimeError("not yet")
    return _work(ctx)


@flaky.step(depends_on=[moody])
def calm(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


once = _declare("once")


@once.step
def before(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@once.step(depends_on=[before], retry=Retry(retryable=False))
def only_once(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx, 0.06)


@once.step(depends_on=[only_once])
def after(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


slow = _declare("slow")


@slow.step
def long_sleep(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx, random.uniform(0.1, 0.4))


@slow.step(depends_on=[long_sleep])
async def long_wait(ctx: StepContext) -> dict[str, Any]:
    return await _work_async(ctx, random.uniform(0.2, 1.0))


hooked = _declare("hooked")


@hooked.step
def sole(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@hooked.on_complete
def told(task: TaskOutcome) -> None:
    effects.write("hook", str(task.task_uuid), "told", task.finish_no)


doomed = _declare("doomed")


@doomed.step
def fine(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


@doomed.step(depends_on=[fine])
def refuse(ctx: StepContext) -> dict[str, Any]:
    effects.write("begin", ctx.task_uuid, ctx.step_name, fence_of(ctx))
    raise PermanentError("never")


@doomed.step(depends_on=[refuse])
def never(ctx: StepContext) -> dict[str, Any]:
    return _work(ctx)


WORKFLOWS: dict[str, Workflow] = {
    found.name: found for found in (chain, diamond, fan, flaky, once, slow, hooked, doomed)
}

_SHARES = {"chain": 26, "diamond": 18, "fan": 10, "flaky": 12, "once": 14, "slow": 9, "hooked": 7, "doomed": 4}


def shape_of(n: int) -> str:
    """Which workflow task number ``n`` is of: always the same, mixed evenly, in those shares of a hundred."""
    return mixing.shape_of(n, _SHARES)
