"""A workflow whose second step fails for good until somebody mends it: until a file is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasker import PermanentError, StepContext, workflow
from tests.e2e.workflows import NAMESPACE

breakable = workflow(NAMESPACE, "breakable", version="1.0.0")


@breakable.step
def take(ctx: StepContext) -> dict[str, Any]:
    return {"n": ctx.context["n"]}


@breakable.step
def charge(ctx: StepContext, take: dict[str, Any]) -> dict[str, Any]:
    if not Path(ctx.context["mended"]).exists():
        raise PermanentError("the gateway is gone", code="gateway_gone")
    return {"charged": take["n"] * 2}


@breakable.step
def thank(ctx: StepContext, charge: dict[str, Any]) -> dict[str, Any]:
    return {"thanked_for": charge["charged"]}
