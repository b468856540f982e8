"""The workflows of these tests, and their handlers: small sums, so that a wrong or doubled input shows in the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tasker import PermanentError, Retry, StepContext, workflow

NAMESPACE = "e2e"
OTHER_NAMESPACE = "e2e_other"

linear = workflow(NAMESPACE, "linear", version="1.0.0")


@linear.step
def first(ctx: StepContext) -> dict[str, Any]:
    return {"value": ctx.context["n"]}


@linear.step(namespace=OTHER_NAMESPACE)
def second(ctx: StepContext, first: dict[str, Any]) -> dict[str, Any]:
    return {"value": first["value"] + 1}


@linear.step
def third(ctx: StepContext, second: dict[str, Any]) -> dict[str, Any]:
    return {"value": second["value"] * 2}


@linear.step
def fourth(ctx: StepContext, third: dict[str, Any]) -> dict[str, Any]:
    return {"value": third["value"] - 1}


paced = workflow(NAMESPACE, "paced", version="1.0.0")
"""A chain of two whose steps take as long as the context says, or as long as a file is missing."""


def _pace(ctx: StepContext) -> None:
    gate = ctx.context.get("gate")
    if gate:
        (Path(gate).parent / f"{Path(gate).name}.reached").touch()
    deadline = time.monotonic() + 60
    while gate and not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(ctx.context.get("seconds", 0))


@paced.step
def begin(ctx: StepContext) -> dict[str, Any]:
    _pace(ctx)
    return {"value": ctx.context["n"]}


@paced.step
def end(ctx: StepContext, begin: dict[str, Any]) -> dict[str, Any]:
    time.sleep(ctx.context.get("seconds", 0))
    return {"value": begin["value"] + 1}


flaky = workflow(NAMESPACE, "flaky", version="1.0.0")


@flaky.step(retry=Retry(max_attempts=5, backoff="fixed", base_seconds=0.05))
def third_time_lucky(ctx: StepContext) -> dict[str, Any]:
    if ctx.attempt < 3:
        raise RuntimeError("not yet")
    return {"attempt": ctx.attempt}


hopeless = workflow(NAMESPACE, "hopeless", version="1.0.0")


@hopeless.step
def give_up(ctx: StepContext) -> None:
    raise PermanentError("it was never possible", code="no_hope")


charge = workflow(NAMESPACE, "charge", version="1.0.0")
"""A step that is an ordinary Celery task, between two that are not."""


@charge.step
def price(ctx: StepContext) -> dict[str, Any]:
    return {"amount": ctx.context["amount"]}


charge_card = charge.celery_step(
    "charge_card",
    task="tests.e2e.celery_tasks.charge_card",
    depends_on=[price],
    kwargs={"amount": {"$result": "price", "pointer": "/amount"}, "who": {"$context": "/who"}},
    queue="cards",
    timeout_seconds=20,
)


@charge.step(depends_on=[charge_card])
def thank(ctx: StepContext) -> dict[str, Any]:
    return {"receipt": ctx.results["charge_card"]["receipt"]}
