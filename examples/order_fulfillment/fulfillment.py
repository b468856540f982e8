"""Namespace ``fulfillment``: an order is checked and priced at the beginning, shipped and closed at the end."""

from __future__ import annotations

from typing import Any

from order_fulfillment.model import Order
from order_fulfillment.outages import share_of
from order_fulfillment.pricing import Product, quote
from order_fulfillment.refusals import Refused
from order_fulfillment.shop import Connection, once
from tasker import StepContext

PARCEL_GRAMS = 10_000
EXPRESS_LIMIT_GRAMS = 30_000
CARRIERS = {"standard": "Postal Union", "express": "Swift Couriers"}


def validate_order(ctx: StepContext[Order]) -> dict[str, Any]:
    """Check the address and the products, and price the order."""
    order = ctx.context

    def validate(connection: Connection) -> dict[str, Any]:
        rows = connection.execute(
            "SELECT sku, unit_price_cents, weight_grams FROM shop.products WHERE sku = ANY(%s)",
            (list(order.quantities),),
        ).fetchall()
        priced = quote(order, {sku: Product(price, weight) for sku, price, weight in rows})
        connection.execute(
            """INSERT INTO shop.orders
                      (order_id, task_uuid, customer_id, subtotal_cents, shipping_cents, tax_cents, weight_grams)
               VALUES (%s, %s, %s, %s, %s, %s, %s)""",
            (
                order.order_id,
                ctx.task_uuid,
                order.customer.customer_id,
                priced.subtotal_cents,
                priced.shipping_cents,
                priced.tax_cents,
                priced.weight_grams,
            ),
        )
        return {"total_cents": priced.total_cents, "weight_grams": priced.weight_grams}

    return once(ctx, validate)


def ship_order(ctx: StepContext[Order]) -> dict[str, Any]:
    """Hand the reserved goods to a carrier; one that does not take them means a refund."""
    order = ctx.context

    def ship(connection: Connection) -> dict[str, Any]:
        rows = connection.execute(
            "SELECT weight_grams FROM shop.orders WHERE order_id = %s AND state = 'open'", (order.order_id,)
        ).fetchall()
        ((weight_grams,),) = rows
        if order.shipping == "express" and weight_grams > EXPRESS_LIMIT_GRAMS:
            limit = EXPRESS_LIMIT_GRAMS // 1000
            raise Refused("undeliverable", f"{weight_grams / 1000:g} kg, and couriers take {limit} kg at most")
        shipment = {
            "carrier": CARRIERS[order.shipping],
            "tracking_number": f"{order.ship_to.country}{int(share_of('tracking', order.order_id) * 1e12):012d}",
            "parcels": -(-weight_grams // PARCEL_GRAMS),
        }
        connection.execute(
            "UPDATE shop.reservations SET state = 'shipped' WHERE order_id = %s AND state = 'held'", (order.order_id,)
        )
        connection.execute(
            """INSERT INTO shop.shipments (order_id, carrier, tracking_number, parcels)
               VALUES (%(order_id)s, %(carrier)s, %(tracking_number)s, %(parcels)s)""",
            {"order_id": order.order_id, **shipment},
        )
        return shipment

    return once(ctx, ship)


def close_order(
    ctx: StepContext[Order],
    send_email: dict[str, Any],
    send_sms: dict[str, Any],
    notify_warehouse: dict[str, Any],
    award_loyalty: dict[str, Any],
) -> dict[str, Any]:
    """The join: everybody has been told, so the order is closed."""
    order = ctx.context
    told = [entry["channel"] for entry in (send_email, send_sms, notify_warehouse) if entry["queued"]]

    def close(connection: Connection) -> dict[str, Any]:
        ((total_cents,),) = connection.execute(
            """UPDATE shop.orders SET state = 'fulfilled', closed_at = now() WHERE order_id = %s AND state = 'open'
               RETURNING total_cents""",
            (order.order_id,),
        ).fetchall()
        return {"order_id": order.order_id, "total_cents": total_cents, "told": told, "points": award_loyalty["points"]}

    return once(ctx, close)
