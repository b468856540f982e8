"""A workflow that fans out and joins, one branch of which is an ordinary Celery task."""

from __future__ import annotations

from typing import Any

from tasker import StepContext, workflow

fan = workflow("e2e", "fan", version="1.0.0")


@fan.step
def root(ctx: StepContext) -> dict[str, Any]:
    return {"value": ctx.context["n"]}


@fan.step
def doubled(ctx: StepContext, root: dict[str, Any]) -> dict[str, Any]:
    return {"value": 2 * root["value"]}


@fan.step(namespace="e2e_other")
def squared(ctx: StepContext, root: dict[str, Any]) -> dict[str, Any]:
    return {"value": root["value"] ** 2}


echoed = fan.celery_step(
    "echoed",
    task="tests.e2e.celery_tasks.echo",
    depends_on=[root],
    args=[{"$result": "root", "pointer": "/value"}],
    queue="plain",
    timeout_seconds=30,
)


@fan.step(depends_on=[doubled, squared, echoed])
def joined(ctx: StepContext) -> dict[str, Any]:
    results = ctx.results
    return {"value": results["doubled"]["value"] + results["squared"]["value"] + results["echoed"]}
