"""A workflow declared at the top of a module, as users declare theirs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict

from tasker.errors import PermanentError
from tasker.handlers.context import StepContext
from tasker.handlers.hooks import TaskOutcome
from tasker.handlers.registry import handler
from tasker.handlers.step_handler import StepHandler
from tasker.workflows.declaration import workflow
from tasker.workflows.retry import Retry


class OrderRequest(BaseModel):
    """What an order looks like."""

    order_id: int
    placed_at: dt.datetime | None = None


class ValidatedOrder(BaseModel):
    """An order that is right."""

    model_config = ConfigDict(strict=True)

    order_id: int
    checked_at: dt.datetime


@dataclass
class Reservation:
    """Stock put aside."""

    reservation: str
    quantity: int = 1


class Shipment(TypedDict, total=False):
    """A parcel on its way."""

    tracking: str
    parcels: list[int]


orders = workflow(
    "fulfillment",
    "process_order",
    version="1.0.0",
    input_schema=OrderRequest,
    description="From an order to a parcel",
    system_dependency="warehouse",
)


@orders.step
def validate_order(ctx: StepContext[OrderRequest]) -> ValidatedOrder:
    """Refuse orders that cannot be right."""
    if ctx.context.order_id < 0:
        raise PermanentError("there is no such order", code="bad_order")
    return ValidatedOrder(order_id=ctx.context.order_id, checked_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))


@orders.step(
    retry=Retry(max_attempts=5, backoff="exponential", base_seconds=1, max_seconds=30),
    timeout_seconds=30,
    system_dependency=None,
    settings={"url": "${WAREHOUSE_URL:-http://localhost}"},
)
async def reserve_inventory(ctx: StepContext, validate_order: ValidatedOrder) -> Reservation:
    """Put stock aside."""
    return Reservation(f"{ctx.settings['url']}/{validate_order.order_id}")


@orders.step(namespace="shipping", depends_on=[validate_order])
def ship_order(ctx: StepContext, reserve_inventory: Reservation) -> Shipment:
    """Hand the parcel over."""
    return {"tracking": f"T-{reserve_inventory.reservation}", "parcels": [1]}


@orders.step(name="report")
def write_report(ctx: StepContext, ship_order: Shipment, validate_order):  # type: ignore[no-untyped-def]
    """Say what was done; nothing is known of the parameter without annotation, so it stays a JSON value."""
    return {"tracking": ship_order["tracking"], "order": validate_order["order_id"], "context": ctx.context.order_id}


receipt = orders.celery_step(
    "send_receipt",
    task="shop.tasks.send_receipt",
    depends_on=["ship_order", write_report],
    namespace="notifications",
    kwargs={"tracking": {"$result": "ship_order", "pointer": "/tracking"}, "order": {"$context": "/order_id"}},
    queue="mail",
)


@orders.on_complete
def tell_accounting(task: TaskOutcome) -> None:
    """Called once an order is done."""
    seen.append(task.task_uuid)


@orders.on_error
async def tell_support(task: TaskOutcome) -> None:
    """Called once an order failed."""
    seen.append(f"failed {task.task_uuid}")


seen: list[Any] = []


class ChargeCard(StepHandler):
    """A class handler, with a second method beside ``call``."""

    def call(self, ctx: StepContext[Any]) -> Any:
        """Charge."""
        return {"charged": ctx.context["amount"]}

    def refund(self, ctx: StepContext[Any], charge: Any) -> Any:
        """Give back."""
        return {"refunded": charge["charged"]}


class NeedsArguments(StepHandler):
    """A class that no executor can make."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, ctx: StepContext[Any]) -> Any:
        """Never called."""


@handler("announce")
def announce(ctx: StepContext[Any]) -> str:
    """Known to templates by a name of its own."""
    return "announced"


class NotAHandler:
    """Has nothing to call."""
