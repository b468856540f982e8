"""What is run in a soak: small steps that add up numbers. Workers import this module.

Chains, fans, steps that fail before they succeed, steps of tenants that share a limit and have priorities, and a few
that fail for good.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks import mixing
from tasker import Concurrency, PermanentError, Retry, StepContext, workflow
from tasker.workflows.declaration import Workflow

NAMESPACE = "soak"
STEP_SECONDS = 0.002
FLAKY_FAILURES = 3
"""The step ``moody`` fails at n modulo this many first attempts."""

TENANTS = 5
FAN_WIDTH = 6

_declare = partial(workflow, NAMESPACE, version="1.0.0")


def _add_up(ctx: StepContext) -> dict[str, Any]:
    time.sleep(STEP_SECONDS)
    return {"value": ctx.context["n"] + sum(result["value"] for result in ctx.results.values())}


chain = _declare("chain")
chain.step(name="first")(_add_up)
chain.step(name="second", depends_on=["first"])(_add_up)
chain.step(name="third", depends_on=["second"])(_add_up)
chain.step(name="fourth", depends_on=["third"])(_add_up)

fan = _declare("fan")
_blades = [f"blade{number}" for number in range(FAN_WIDTH)]
fan.step(name="spread")(_add_up)
for _blade in _blades:
    fan.step(name=_blade, depends_on=["spread"])(_add_up)
fan.step(name="gather", depends_on=_blades)(_add_up)

flaky = _declare("flaky")


@flaky.step(retry=Retry(max_attempts=FLAKY_FAILURES, backoff="fixed", base_seconds=0.2))
def moody(ctx: StepContext) -> dict[str, Any]:
    """Succeeds in the end."""
    if ctx.attempt <= ctx.context["n"] % FLAKY_FAILURES:
        raise RuntimeError("not yet")
    return _add_up(ctx)


flaky.step(name="calm", depends_on=[moody])(_add_up)

limited = _declare("limited", concurrency=Concurrency(key="/tenant", max_steps=2))
limited.step(name="one")(_add_up)
limited.step(name="two", depends_on=["one"])(_add_up)
limited.step(name="three", depends_on=["two"])(_add_up)

doomed = _declare("doomed")
doomed.step(name="fine")(_add_up)


@doomed.step(depends_on=["fine"])
def refuse(ctx: StepContext) -> dict[str, Any]:
    """Becomes a dead letter."""
    raise PermanentError("never")


WORKFLOWS: dict[str, Workflow] = {found.name: found for found in (chain, fan, flaky, limited, doomed)}
_SHARES = {"chain": 55, "fan": 15, "flaky": 15, "limited": 13, "doomed": 2}


def shape_of(n: int) -> str:
    """Which workflow task number ``n`` is of: always the same, mixed evenly, in those shares of a hundred."""
    return mixing.shape_of(n, _SHARES)


def end_of(n: int) -> str:
    """The state in which task number ``n`` has to end."""
    return "error" if shape_of(n) == doomed.name else "complete"


def context_of(n: int) -> dict[str, Any]:
    """What task number ``n`` is started with."""
    return {"n": n, "tenant": f"tenant {n % TENANTS}", "note": "a small order, as most of them are"}


def priority_of(n: int) -> int:
    """Tasks of tenants have priorities: before, with and after the others."""
    return n % 3 - 1 if shape_of(n) == limited.name else 0
