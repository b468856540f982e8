"""What must be true once all orders have ended, whatever failed in between; each check looks at the tables alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from order_fulfillment.model import Order
from order_fulfillment.pricing import loyalty_points
from order_fulfillment.submissions import NAMESPACE, WORKFLOW, Submissions

Connection = psycopg.Connection[Any]

OUR_TASKS = f"""SELECT task_uuid FROM tasker.tasks JOIN tasker.named_tasks USING (named_task_id)
                 WHERE namespace = '{NAMESPACE}' AND name = '{WORKFLOW}'"""
"""Others may use the same database."""

SEEN_AT_FIRST = ("invalid_address", "unknown_product")
"""Flaws that are found before anybody looks at the stock."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what must be true.
        ok: whether it is.
        detail: what was seen.
    """

    name: str
    ok: bool
    detail: str


def run_checks(connection: Connection, submissions: Submissions) -> list[Check]:
    """Look at everything, in one snapshot.

    Args:
        connection: to the database, in autocommit mode.
        submissions: what was sent.
    """
    checks: tuple[Callable[[Connection, Submissions], Check], ...] = (
        _all_ended,
        _each_order_once,
        _refused_rightly,
        _nothing_given_up,
        _stock_never_negative,
        _stock_adds_up,
        _refused_hold_nothing,
        _ledger_balanced,
        _ledger_matches_orders,
        _shipped_once,
        _told_once,
        _points_given_once,
        _engine_agrees,
    )
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return [check(connection, submissions) for check in checks]


def _all_ended(connection: Connection, submissions: Submissions) -> Check:
    """Every order is fulfilled or refused."""
    states = dict(connection.execute("SELECT state, count(*) FROM shop.orders GROUP BY state").fetchall())
    ended = states.get("fulfilled", 0) + states.get("refused", 0)
    wanted = len(submissions.order_ids)
    return Check("every order has ended", ended == wanted and "open" not in states, f"{ended:,} of {wanted:,}")


def _each_order_once(connection: Connection, submissions: Submissions) -> Check:
    """One task per order, however often it was sent."""
    ((tasks, orders),) = connection.execute(
        f"SELECT count(*), count(DISTINCT correlation_id) FROM tasker.tasks WHERE task_uuid IN ({OUR_TASKS})"
    ).fetchall()
    wanted = len(submissions.order_ids)
    detail = f"{len(submissions.sent):,} sent, {tasks:,} tasks for {orders:,} orders"
    return Check("an order sent twice is one task", tasks == orders == wanted, detail)


def _refused_rightly(connection: Connection, submissions: Submissions) -> Check:
    """Each order with a flaw was refused for it; without one, only where there was too little for all who wanted it."""
    received = dict(connection.execute("SELECT sku, received FROM shop.stock").fetchall())
    demand = submissions.demand()
    scarce = {sku for sku, wanted in demand.items() if wanted > received.get(sku, wanted)}
    may_lack = {order["order_id"] for order in submissions.sent for line in order["lines"] if line["sku"] in scarce}
    refusals = dict(connection.execute("SELECT order_id, refusal FROM shop.orders").fetchall())
    wrong = []
    for order_id in submissions.order_ids:
        flaw, refusal = submissions.flaws.get(order_id), refusals.get(order_id)
        # Goods are put aside before the card is asked, so what is scarce may be gone before another flaw shows.
        lacks = refusal == "out_of_stock" and order_id in may_lack and flaw not in SEEN_AT_FIRST
        if refusal != flaw and not lacks:
            wrong.append(f"{order_id}: {refusal or 'accepted'} instead of {flaw or 'accepted'}")
    detail = "; ".join(wrong[:3]) or f"{sum(refusal is not None for refusal in refusals.values()):,} refusals looked at"
    return Check("each refusal has its reason", not wrong, detail)


def _nothing_given_up(connection: Connection, submissions: Submissions) -> Check:
    """No task failed but by a refusal, and each refusal left its dead letter."""
    ((failed, refused, letters),) = connection.execute(
        f"""WITH ours AS ({OUR_TASKS})
            SELECT (SELECT count(*) FROM tasker.tasks JOIN ours USING (task_uuid) WHERE state <> 'complete'),
                   (SELECT count(*) FROM shop.orders WHERE state = 'refused'),
                   (SELECT count(*) FROM tasker.dead_letters JOIN ours USING (task_uuid) WHERE resolved_at IS NULL)"""
    ).fetchall()
    detail = f"{failed:,} tasks not complete, {refused:,} refusals, {letters:,} dead letters"
    return Check("no step gave up", failed == refused == letters, detail)


def _stock_never_negative(connection: Connection, _submissions: Submissions) -> Check:
    """The constraint is there and in force, and the lowest quantity is not below zero."""
    ((lowest, constraints),) = connection.execute(
        """SELECT (SELECT min(quantity) FROM shop.stock),
                  (SELECT count(*) FROM pg_constraint
                    WHERE conrelid = 'shop.stock'::regclass AND contype = 'c' AND convalidated
                      AND pg_get_constraintdef(oid) LIKE '%(quantity >= 0)%')"""
    ).fetchall()
    return Check("stock is never negative", lowest >= 0 and constraints == 1, f"lowest {lowest}, held by a constraint")


def _stock_adds_up(connection: Connection, _submissions: Submissions) -> Check:
    """What came in is there, or was shipped: nothing is taken or put back twice, nothing stays on hold."""
    ((received, left, shipped, held, wrong),) = connection.execute(
        """SELECT sum(received), sum(quantity), coalesce(sum(shipped), 0)::bigint, coalesce(sum(held), 0)::bigint,
                  count(*) FILTER (WHERE received <> quantity + coalesce(shipped, 0) + coalesce(held, 0))
             FROM shop.stock LEFT JOIN (
                  SELECT sku, sum(quantity) FILTER (WHERE state = 'shipped') AS shipped,
                         sum(quantity) FILTER (WHERE state = 'held') AS held
                    FROM shop.reservations GROUP BY sku) AS taken USING (sku)"""
    ).fetchall()
    detail = f"{received:,} received = {left:,} left + {shipped:,} shipped + {held:,} held"
    return Check("stock adds up, product by product", wrong == 0 and held == 0, detail)


def _refused_hold_nothing(connection: Connection, _submissions: Submissions) -> Check:
    """A refused order has no goods, no shipment, no message, and its money back."""
    ((reserved, shipped, told, owed, released, refunded),) = connection.execute(
        """WITH refused AS (SELECT order_id FROM shop.orders WHERE state = 'refused')
           SELECT (SELECT count(*) FROM shop.reservations JOIN refused USING (order_id) WHERE state <> 'released'),
                  (SELECT count(*) FROM shop.shipments JOIN refused USING (order_id)),
                  (SELECT count(*) FROM shop.outbox JOIN refused USING (order_id)),
                  (SELECT count(*) FROM (
                       SELECT 1 FROM shop.ledger_transactions JOIN shop.ledger_entries USING (transaction_id)
                         JOIN refused USING (order_id)
                        GROUP BY order_id, account HAVING sum(amount_cents) <> 0) AS owed),
                  (SELECT count(DISTINCT order_id) FROM shop.reservations WHERE state = 'released'),
                  (SELECT count(*) FROM shop.ledger_transactions WHERE kind = 'refund')"""
    ).fetchall()
    detail = f"{released:,} reservations released, {refunded:,} payments refunded"
    return Check("a refused order holds nothing", reserved == shipped == told == owed == 0, detail)


def _ledger_balanced(connection: Connection, _submissions: Submissions) -> Check:
    """Each transaction adds up to zero, and so do all."""
    ((transactions, unbalanced, total, debits),) = connection.execute(
        """SELECT count(*), count(*) FILTER (WHERE amount IS DISTINCT FROM 0), coalesce(sum(amount), 0)::bigint,
                  coalesce(sum(debit), 0)::bigint
             FROM shop.ledger_transactions LEFT JOIN (
                  SELECT transaction_id, sum(amount_cents) AS amount, sum(greatest(amount_cents, 0)) AS debit
                    FROM shop.ledger_entries GROUP BY transaction_id) AS entries USING (transaction_id)"""
    ).fetchall()
    detail = f"{transactions:,} transactions, debits {debits / 100:,.2f}, sum {total / 100:.2f}"
    return Check("the ledger is balanced", unbalanced == 0 and total == 0, detail)


def _ledger_matches_orders(connection: Connection, _submissions: Submissions) -> Check:
    """Each fulfilled order was paid once, in full, and is not refunded."""
    ((fulfilled, wrong, takings),) = connection.execute(
        """SELECT count(*), count(*) FILTER (WHERE charged IS DISTINCT FROM total_cents OR charges <> 1),
                  coalesce(sum(total_cents), 0)
             FROM shop.orders LEFT JOIN (
                  SELECT order_id, count(*) AS charges, sum(amount_cents) AS charged
                    FROM shop.ledger_transactions JOIN shop.ledger_entries USING (transaction_id)
                   WHERE account = 'card_receivables' GROUP BY order_id) AS paid USING (order_id)
            WHERE state = 'fulfilled'"""
    ).fetchall()
    return Check("each fulfilled order is paid once", wrong == 0, f"{fulfilled:,} orders, takings {takings / 100:,.2f}")


def _shipped_once(connection: Connection, submissions: Submissions) -> Check:
    """Each fulfilled order has one shipment, of the goods that it was sent with; nobody else has."""
    ((fulfilled, shipments, without),) = connection.execute(
        """SELECT count(*), (SELECT count(*) FROM shop.shipments), count(*) FILTER (WHERE shipments.order_id IS NULL)
             FROM shop.orders LEFT JOIN shop.shipments USING (order_id) WHERE state = 'fulfilled'"""
    ).fetchall()
    shipped: dict[str, dict[str, int]] = {}
    for order_id, sku, quantity in connection.execute(
        "SELECT order_id, sku, quantity FROM shop.reservations WHERE state = 'shipped' ORDER BY sku"
    ):
        shipped.setdefault(order_id, {})[sku] = quantity
    contents: dict[str, list[dict[str, int]]] = {}
    for order in submissions.sent:
        contents.setdefault(order["order_id"], []).append(Order.model_validate(order).quantities)
    wrong = [order_id for order_id, goods in shipped.items() if goods not in contents.get(order_id, [])]
    ok = fulfilled == shipments == len(shipped) and without == 0 and not wrong
    return Check("each fulfilled order is shipped once", ok, f"{shipments:,} shipments")


def _told_once(connection: Connection, submissions: Submissions) -> Check:
    """E-mail and packing slip for each fulfilled order, a short message for those who gave a number."""
    phones = {order["order_id"] for order in submissions.sent if order["customer"]["phone"]}
    counted: Counter[str] = Counter()
    wrong = 0
    for state, order_id, channels in connection.execute(
        """SELECT state, order_id, array_agg(channel ORDER BY channel) FILTER (WHERE channel IS NOT NULL)
             FROM shop.orders LEFT JOIN shop.outbox USING (order_id) GROUP BY order_id"""
    ):
        due = ["email", "sms", "warehouse"] if order_id in phones else ["email", "warehouse"]
        wrong += (channels or []) != (due if state == "fulfilled" else [])
        counted.update(channels or [])
    detail = ", ".join(f"{count:,} {channel}" for channel, count in sorted(counted.items()))
    return Check("each message is in the outbox once", wrong == 0, detail or "empty")


def _points_given_once(connection: Connection, submissions: Submissions) -> Check:
    """The points of all accounts are those of all fulfilled orders of members."""
    members = [order["order_id"] for order in submissions.sent if order["customer"]["loyalty"]]
    rows = connection.execute(
        "SELECT subtotal_cents FROM shop.orders WHERE state = 'fulfilled' AND order_id = ANY(%s)", (members,)
    ).fetchall()
    due = sum(loyalty_points(subtotal) for (subtotal,) in rows)
    ((given,),) = connection.execute("SELECT coalesce(sum(points), 0)::bigint FROM shop.loyalty_accounts").fetchall()
    return Check("loyalty points are given once", given == due, f"{given:,} points for {len(rows):,} orders")


def _engine_agrees(connection: Connection, _submissions: Submissions) -> Check:
    """The engine counts a step as complete exactly where the shop has done it, and has nothing left to do."""
    ((complete, done, refusals, live),) = connection.execute(
        f"""WITH ours AS (SELECT state FROM tasker.workflow_steps WHERE task_uuid IN ({OUR_TASKS}))
            SELECT (SELECT count(*) FROM ours WHERE state = 'complete'),
                   (SELECT count(*) FROM shop.steps_done WHERE outcome ? 'result'),
                   (SELECT count(*) FROM shop.steps_done WHERE outcome ? 'refused'),
                   (SELECT count(*) FROM ours WHERE state IN ('enqueued', 'in_progress', 'waiting_for_retry'))"""
    ).fetchall()
    detail = f"{complete:,} steps complete, {done:,} done, {refusals:,} refused, {live:,} under way"
    return Check("engine and shop agree", complete == done and live == 0, detail)
