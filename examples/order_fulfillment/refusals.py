"""Orders that the shop turns down, and how everything done for them so far is taken back."""

from __future__ import annotations

from typing import Any

import psycopg

from order_fulfillment.model import Order

REFUSALS = ("invalid_address", "unknown_product", "out_of_stock", "card_declined", "undeliverable")


class Refused(Exception):
    """The order is refused, for good.

    Args:
        code: one of ``REFUSALS``.
        message: why, for the customer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def refuse(connection: psycopg.Connection[Any], order: Order, task_uuid: str, code: str) -> None:
    """Close ``order`` as refused: what was reserved goes back to the stock, what was paid to the card.

    One transaction with the step that refuses, so that no refused order ever holds stock or money.
    """
    # Locked in the same order as reserve_inventory does, so that the two never wait for each other.
    connection.execute(
        """SELECT 1 FROM shop.stock JOIN shop.reservations USING (sku)
            WHERE order_id = %s AND state = 'held' ORDER BY sku FOR NO KEY UPDATE OF stock""",
        (order.order_id,),
    )
    connection.execute(
        """WITH released AS (
               UPDATE shop.reservations SET state = 'released' WHERE order_id = %s AND state = 'held'
            RETURNING sku, quantity)
           UPDATE shop.stock SET quantity = stock.quantity + released.quantity FROM released
            WHERE stock.sku = released.sku""",
        (order.order_id,),
    )
    connection.execute(
        """WITH paid AS (
               SELECT transaction_id FROM shop.ledger_transactions WHERE order_id = %(order)s AND kind = 'payment'),
           refund AS (
               INSERT INTO shop.ledger_transactions (order_id, kind) SELECT %(order)s, 'refund' FROM paid
            RETURNING transaction_id)
           INSERT INTO shop.ledger_entries (transaction_id, account, amount_cents)
           SELECT refund.transaction_id, account, -amount_cents
             FROM refund, paid JOIN shop.ledger_entries USING (transaction_id)""",
        {"order": order.order_id},
    )
    connection.execute(
        """INSERT INTO shop.orders (order_id, task_uuid, customer_id, state, refusal, closed_at)
           VALUES (%s, %s, %s, 'refused', %s, now())
           ON CONFLICT (order_id) DO UPDATE
              SET state = 'refused', refusal = excluded.refusal, closed_at = excluded.closed_at""",
        (order.order_id, task_uuid, order.customer.customer_id, code),
    )
