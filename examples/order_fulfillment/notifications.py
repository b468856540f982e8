"""Namespace ``notifications``: whoever wants to know is told, each by a step of its own."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from order_fulfillment.model import Order
from order_fulfillment.pricing import loyalty_points
from order_fulfillment.shop import Connection, once
from tasker import StepContext

WAREHOUSES = {"US": "newark@warehouse.example", "GB": "leeds@warehouse.example"}
MAIN_WAREHOUSE = "venlo@warehouse.example"


def send_email(ctx: StepContext[Order], ship_order: dict[str, Any]) -> dict[str, Any]:
    """The confirmation, with the tracking number."""
    customer = ctx.context.customer
    body = {"template": "shipped", "name": customer.name, **ship_order}
    return _queue(ctx, "email", customer.email, body)


def send_sms(ctx: StepContext[Order], ship_order: dict[str, Any]) -> dict[str, Any]:
    """A short message, to customers who gave a number."""
    text = f"Your order {ctx.context.order_id} is on its way: {ship_order['tracking_number']}"
    return _queue(ctx, "sms", ctx.context.customer.phone, {"text": text})


def notify_warehouse(ctx: StepContext[Order], ship_order: dict[str, Any]) -> dict[str, Any]:
    """The packing slip."""
    order = ctx.context
    body = {"pick": order.quantities, "parcels": ship_order["parcels"]}
    return _queue(ctx, "warehouse", WAREHOUSES.get(order.ship_to.country, MAIN_WAREHOUSE), body)


def award_loyalty(ctx: StepContext[Order]) -> dict[str, Any]:
    """Points for those who collect them. Adding them twice would be wrong, so it is the hard case of ``once``."""
    order = ctx.context

    def award(connection: Connection) -> dict[str, Any]:
        if not order.customer.loyalty:
            return {"points": 0}
        ((subtotal_cents,),) = connection.execute(
            "SELECT subtotal_cents FROM shop.orders WHERE order_id = %s", (order.order_id,)
        ).fetchall()
        points = loyalty_points(subtotal_cents)
        connection.execute(
            """INSERT INTO shop.loyalty_accounts AS account (customer_id, points) VALUES (%s, %s)
               ON CONFLICT (customer_id) DO UPDATE SET points = account.points + excluded.points""",
            (order.customer.customer_id, points),
        )
        return {"points": points}

    return once(ctx, award)


def _queue(ctx: StepContext[Order], channel: str, recipient: str | None, body: dict[str, Any]) -> dict[str, Any]:
    """Put a message into the outbox, if there is somebody to read it."""

    def queue(connection: Connection) -> dict[str, Any]:
        if recipient is not None:
            connection.execute(
                "INSERT INTO shop.outbox (order_id, channel, recipient, body) VALUES (%s, %s, %s, %s)",
                (ctx.context.order_id, channel, recipient, Jsonb(body)),
            )
        return {"channel": channel, "queued": recipient is not None}

    return once(ctx, queue)
