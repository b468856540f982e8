"""The workflow that the figures are about: a chain of four steps, each building on its parent's result."""

from __future__ import annotations

from typing import Any

from tasker import StepContext, workflow

linear4 = workflow("bench", "linear4", version="1.0.0")


@linear4.step
def one(ctx: StepContext) -> dict[str, Any]:
    """The number that the task brought."""
    return {"value": ctx.context["n"]}


@linear4.step
def two(ctx: StepContext, one: dict[str, Any]) -> dict[str, Any]:
    """Plus one."""
    return {"value": one["value"] + 1}


@linear4.step
def three(ctx: StepContext, two: dict[str, Any]) -> dict[str, Any]:
    """Doubled."""
    return {"value": two["value"] * 2}


@linear4.step
def four(ctx: StepContext, three: dict[str, Any]) -> dict[str, Any]:
    """Minus one: 2 n + 1 in all."""
    return {"value": three["value"] - 1}
