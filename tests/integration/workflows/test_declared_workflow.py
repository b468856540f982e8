"""A workflow declared in Python, run by the executors of this process."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from pydantic import BaseModel

from tasker import OrchestrationCore, PermanentError, Retry, StepContext, Tasker, TaskOutcome, workflow
from tasker.errors import ContextInvalid
from tasker.testing import run_until_idle
from tasker.workflows.declaration import Workflow


class OrderRequest(BaseModel):
    order_id: int
    amounts: list[int]


class Total(BaseModel):
    total: int


class Payment(BaseModel):
    id: uuid.UUID
    paid: int


def declared(seen: list[Any]) -> Workflow:
    """Typed steps, sync and async, with hooks that note what they are told."""
    orders = workflow("shop", "declared_orders", version="1.0.0", input_schema=OrderRequest)

    @orders.step
    def add_up(ctx: StepContext[OrderRequest]) -> Total:
        return Total(total=sum(ctx.context.amounts))

    @orders.step(settings={"note": "${NOTE_OF_THIS_TEST:-none}"})
    async def charge(ctx: StepContext[OrderRequest], add_up: Total) -> Payment:
        if ctx.context.order_id < 0:
            raise PermanentError("there is no such order", code="bad_order")
        seen.append((ctx.step_name, ctx.attempt, ctx.settings["note"], ctx.task_version))
        return Payment(id=uuid.UUID(int=ctx.context.order_id), paid=add_up.total)

    @orders.step(retry=Retry(max_attempts=1), depends_on=[add_up])
    def report(ctx: StepContext, charge: Payment):  # type: ignore[no-untyped-def]
        if charge.paid == 13:
            return {"paid": "unlucky"}
        return {"paid": charge.paid, "parents": sorted(ctx.results)}

    @orders.on_complete
    def tell(task: TaskOutcome) -> None:
        seen.append(("complete", task.state, task.results["report"]))

    @orders.on_error
    async def complain(task: TaskOutcome) -> None:
        seen.append(("error", task.errors["charge"]["type"]))

    return orders


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def tasker(tasker_core: OrchestrationCore, seen: list[Any]) -> Tasker:
    tasker_core.templates.register(declared(seen))
    return Tasker(tasker_core.database)


def test_results_reach_typed_parameters_and_hooks_are_told(
    tasker_core: OrchestrationCore, tasker: Tasker, seen: list[Any]
) -> None:
    handle = tasker.create("shop", "declared_orders", {"order_id": 7, "amounts": [1, 2, 3]})
    run_until_idle(tasker_core)
    assert handle.state == "complete"
    assert handle.results["charge"] == {"id": "00000000-0000-0000-0000-000000000007", "paid": 6}
    assert handle.results["report"] == {"paid": 6, "parents": ["add_up", "charge"]}
    assert seen == [("charge", 1, "none", "1.0.0"), ("complete", "complete", handle.results["report"])]


def test_a_permanent_error_ends_the_task_and_calls_the_error_hook(
    tasker_core: OrchestrationCore, tasker: Tasker, seen: list[Any]
) -> None:
    handle = tasker.create("shop", "declared_orders", {"order_id": -1, "amounts": []})
    run_until_idle(tasker_core)
    assert handle.state == "error"
    assert seen == [("error", "bad_order")]


def test_a_context_that_does_not_fit_the_model_creates_nothing(tasker: Tasker) -> None:
    with pytest.raises(ContextInvalid) as caught:
        tasker.create("shop", "declared_orders", {"order_id": "7", "amounts": []})
    assert 'order_id: "7" is not of type "integer"' in str(caught.value)
    assert tasker.list().tasks == ()
