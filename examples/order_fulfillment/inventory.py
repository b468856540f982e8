"""Namespace ``inventory``: goods are put aside before anybody pays for them."""

from __future__ import annotations

from typing import Any

from order_fulfillment.model import Order
from order_fulfillment.refusals import Refused
from order_fulfillment.shop import Connection, once
from tasker import StepContext


def reserve_inventory(ctx: StepContext[Order]) -> dict[str, Any]:
    """Take all the goods of the order out of the stock, or none of them."""
    wanted = ctx.context.quantities

    def reserve(connection: Connection) -> dict[str, Any]:
        # Locked in the order of skus: two orders for the same goods wait for each other instead of in a circle.
        stock = dict(
            connection.execute(
                "SELECT sku, quantity FROM shop.stock WHERE sku = ANY(%s) ORDER BY sku FOR NO KEY UPDATE",
                (list(wanted),),
            ).fetchall()
        )
        missing = [f"{sku} ({stock[sku]} of {quantity})" for sku, quantity in wanted.items() if stock[sku] < quantity]
        if missing:
            raise Refused("out_of_stock", f"there is not enough of {', '.join(missing)}")
        connection.execute(
            """WITH wanted AS (SELECT * FROM unnest(%s::text[], %s::integer[]) AS w (sku, quantity)),
               taken AS (
                   UPDATE shop.stock SET quantity = stock.quantity - wanted.quantity FROM wanted
                    WHERE stock.sku = wanted.sku)
               INSERT INTO shop.reservations (order_id, sku, quantity) SELECT %s, sku, quantity FROM wanted""",
            (list(wanted), list(wanted.values()), ctx.context.order_id),
        )
        return {"reserved": wanted}

    return once(ctx, reserve)
