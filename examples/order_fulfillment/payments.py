"""Namespace ``payments``: the card is charged, and the ledger says for what."""

from __future__ import annotations

from typing import Any

from order_fulfillment.model import Order
from order_fulfillment.refusals import Refused
from order_fulfillment.shop import Connection, once
from tasker import StepContext

DECLINED = {
    "tok_no_funds": "insufficient funds",
    "tok_expired": "the card has expired",
    "tok_stolen": "the card was reported stolen",
}
"""What the card network answers, by the beginning of the token, as test cards of real gateways do."""


def authorize(card: str, amount_cents: int) -> str:
    """Ask the card network.

    Returns:
        Its authorization code.

    Raises:
        Refused: ``card_declined``.
    """
    for prefix, reason in DECLINED.items():
        if card.startswith(prefix):
            raise Refused("card_declined", f"{amount_cents / 100:.2f} not charged: {reason}")
    return f"auth_{card.rpartition('_')[2]}_{amount_cents}"


def process_payment(ctx: StepContext[Order]) -> dict[str, Any]:
    """Charge the card and book it; a declined card gives the reserved goods back (``refusals.refuse``)."""
    order = ctx.context

    def charge(connection: Connection) -> dict[str, Any]:
        ((subtotal, shipping, tax, total),) = connection.execute(
            """SELECT subtotal_cents, shipping_cents, tax_cents, total_cents FROM shop.orders
                WHERE order_id = %s AND state = 'open'""",
            (order.order_id,),
        ).fetchall()
        authorization = authorize(order.card, total)
        entries = {"card_receivables": total, "sales": -subtotal, "shipping": -shipping, "tax": -tax}
        booked = {account: amount for account, amount in entries.items() if amount}
        ((transaction_id,),) = connection.execute(
            """WITH payment AS (
                   INSERT INTO shop.ledger_transactions (order_id, kind) VALUES (%s, 'payment')
                RETURNING transaction_id),
               entries AS (
                   INSERT INTO shop.ledger_entries (transaction_id, account, amount_cents)
                   SELECT transaction_id, account, amount_cents
                     FROM payment, unnest(%s::text[], %s::integer[]) AS e (account, amount_cents))
               SELECT transaction_id FROM payment""",
            (order.order_id, list(booked), list(booked.values())),
        ).fetchall()
        return {"transaction_id": transaction_id, "charged_cents": total, "authorization": authorization}

    return once(ctx, charge)
