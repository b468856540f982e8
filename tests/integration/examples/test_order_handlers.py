from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from order_fulfillment import fulfillment, inventory, notifications, payments, shop
from order_fulfillment.generate import orders
from order_fulfillment.model import Order
from tasker import PermanentError, RetryableError, StepContext

Handler = Callable[..., dict[str, Any]]
Rows = Callable[..., list[tuple[Any, ...]]]

HANDLERS: dict[str, Handler] = {
    "validate_order": fulfillment.validate_order,
    "reserve_inventory": inventory.reserve_inventory,
    "process_payment": payments.process_payment,
    "ship_order": fulfillment.ship_order,
    "send_email": notifications.send_email,
    "send_sms": notifications.send_sms,
    "notify_warehouse": notifications.notify_warehouse,
    "award_loyalty": notifications.award_loyalty,
    "close_order": fulfillment.close_order,
}
TOLD = ("send_email", "send_sms", "notify_warehouse", "award_loyalty")
DEPENDS_ON = {**dict.fromkeys(TOLD[:3], ("ship_order",)), "close_order": TOLD}


@pytest.fixture
def rows(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rows]:
    """A shop of three products on the test's database, and a look at its tables."""
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    shop.set_up(tasker_database_url)
    with closing(shop.connect(tasker_database_url)) as connection:
        connection.execute("TRUNCATE shop.products CASCADE")
        connection.execute("INSERT INTO shop.products VALUES ('MUG', 'Mug', 1250, 400), ('BELL', 'Bell', 4000, 16000)")
        connection.execute("INSERT INTO shop.stock VALUES ('MUG', 10, 10), ('BELL', 5, 5)")
        yield lambda query, *values: connection.execute(query, values).fetchall()
    shop.close()


def an_order(order_id: str = "SO-1", **changes: Any) -> Order:
    customer = {"customer_id": "C-1", "name": "Zoë", "email": "zoe@mail.example", "phone": "+31 6", "loyalty": True}
    sent = {
        **next(orders(1))[0],
        "order_id": order_id,
        "customer": customer,
        "ship_to": {"street": "Elm Street 1", "city": "Köln", "postcode": "50667", "country": "DE"},
        "lines": [{"sku": "MUG", "quantity": 2}],
        "card": "tok_visa_1234",
        "shipping": "standard",
    }
    return Order.model_validate({**sent, **changes})


def run(order: Order, *steps: str, attempt: int = 1, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The results of these steps of the order, run in turn."""
    results: dict[str, Any] = {}
    for step in steps:
        arguments = {name: results[name] for name in DEPENDS_ON.get(step, ())}
        context = StepContext(context=order, step_name=step, attempt=attempt, max_attempts=5, settings=settings or {})
        results[step] = HANDLERS[step](context, **arguments)
    return results


def everything(rows: Rows) -> list[Any]:
    """All that steps may change, but the note of how often they ran."""
    tables = (
        "stock",
        "orders",
        "reservations",
        "ledger_transactions",
        "ledger_entries",
        "shipments",
        "outbox",
        "loyalty_accounts",
    )
    return [rows(f"SELECT * FROM shop.{table} ORDER BY 1, 2") for table in tables]


def test_an_order_is_fulfilled_from_stock_to_outbox(rows: Rows) -> None:
    results = run(an_order(), *HANDLERS)
    assert results["close_order"] == {
        "order_id": "SO-1",
        "total_cents": 3558,
        "told": ["email", "sms", "warehouse"],
        "points": 25,
    }
    assert rows("SELECT state, refusal, total_cents FROM shop.orders") == [("fulfilled", None, 3558)]
    assert rows("SELECT sku, received, quantity FROM shop.stock ORDER BY sku") == [("BELL", 5, 5), ("MUG", 10, 8)]
    assert rows("SELECT account, amount_cents FROM shop.ledger_entries ORDER BY account") == [
        ("card_receivables", 3558),
        ("sales", -2500),
        ("shipping", -490),
        ("tax", -568),
    ]
    assert rows("SELECT carrier, parcels FROM shop.shipments") == [("Postal Union", 1)]
    assert rows("SELECT channel, recipient FROM shop.outbox ORDER BY channel") == [
        ("email", "zoe@mail.example"),
        ("sms", "+31 6"),
        ("warehouse", "venlo@warehouse.example"),
    ]
    assert rows("SELECT points FROM shop.loyalty_accounts") == [(25,)]


@pytest.mark.parametrize("step", HANDLERS)
def test_a_step_that_runs_again_changes_nothing_and_returns_the_same(rows: Rows, step: str) -> None:
    results = run(an_order(), *HANDLERS)
    before = everything(rows)
    context = StepContext(context=an_order(), step_name=step)
    again = HANDLERS[step](context, **{name: results[name] for name in DEPENDS_ON.get(step, ())})
    assert again == results[step]
    assert everything(rows) == before
    assert rows("SELECT step FROM shop.steps_done WHERE runs = 2") == [(step,)]


def test_two_runs_of_one_step_at_once_do_its_work_once(rows: Rows) -> None:
    run(an_order(), "validate_order")
    answers: list[Any] = []

    def reserve() -> None:
        answers.append(run(an_order(), "reserve_inventory"))
        shop.close()

    threads = [threading.Thread(target=reserve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [{"reserve_inventory": {"reserved": {"MUG": 2}}}] * 6
    assert rows("SELECT quantity FROM shop.stock WHERE sku = 'MUG'") == [(8,)]


def test_customers_without_a_number_or_a_card_of_points_get_neither(rows: Rows) -> None:
    customer = {"customer_id": "C-2", "name": "Ada", "email": "ada@mail.example"}
    results = run(an_order(customer=customer), *HANDLERS)
    assert results["close_order"]["told"] == ["email", "warehouse"]
    assert results["close_order"]["points"] == 0
    assert rows("SELECT count(*) FROM shop.outbox WHERE channel = 'sms'") == [(0,)]
    assert rows("SELECT count(*) FROM shop.loyalty_accounts") == [(0,)]


def test_points_of_several_orders_add_up(rows: Rows) -> None:
    run(an_order("SO-1"), *HANDLERS)
    run(an_order("SO-2"), *HANDLERS)
    assert rows("SELECT customer_id, points FROM shop.loyalty_accounts") == [("C-1", 50)]


def refused(order: Order, *steps: str) -> PermanentError:
    """The refusal with which the last of these steps ends."""
    run(order, *steps[:-1])
    with pytest.raises(PermanentError) as error:
        run(order, steps[-1])
    return error.value


def test_an_invalid_order_is_closed_as_refused_before_it_has_a_price(rows: Rows) -> None:
    error = refused(an_order(lines=[{"sku": "VASE", "quantity": 1}]), "validate_order")
    assert (error.code, str(error)) == ("unknown_product", "the catalogue has no VASE")
    assert rows("SELECT state, refusal, total_cents FROM shop.orders") == [("refused", "unknown_product", None)]


def test_an_order_that_cannot_have_all_its_goods_gets_none(rows: Rows) -> None:
    order = an_order(lines=[{"sku": "BELL", "quantity": 1}, {"sku": "MUG", "quantity": 11}])
    error = refused(order, "validate_order", "reserve_inventory")
    assert (error.code, str(error)) == ("out_of_stock", "there is not enough of MUG (10 of 11)")
    assert rows("SELECT sku, quantity FROM shop.stock ORDER BY sku") == [("BELL", 5), ("MUG", 10)]
    assert rows("SELECT count(*) FROM shop.reservations") == [(0,)]


def test_a_declined_card_gives_the_reserved_goods_back(rows: Rows) -> None:
    error = refused(an_order(card="tok_no_funds_1"), "validate_order", "reserve_inventory", "process_payment")
    assert error.code == "card_declined"
    assert rows("SELECT quantity FROM shop.stock WHERE sku = 'MUG'") == [(10,)]
    assert rows("SELECT state FROM shop.reservations") == [("released",)]
    assert rows("SELECT count(*) FROM shop.ledger_transactions") == [(0,)]
    assert rows("SELECT state, refusal FROM shop.orders") == [("refused", "card_declined")]


def test_a_carrier_that_refuses_means_money_and_goods_back(rows: Rows) -> None:
    order = an_order(lines=[{"sku": "BELL", "quantity": 2}], shipping="express")
    error = refused(order, "validate_order", "reserve_inventory", "process_payment", "ship_order")
    assert (error.code, str(error)) == ("undeliverable", "32 kg, and couriers take 30 kg at most")
    assert rows("SELECT quantity FROM shop.stock WHERE sku = 'BELL'") == [(5,)]
    assert rows("SELECT kind FROM shop.ledger_transactions ORDER BY kind") == [("payment",), ("refund",)]
    assert rows("SELECT account FROM shop.ledger_entries GROUP BY account HAVING sum(amount_cents) <> 0") == []
    assert rows("SELECT count(*) FROM shop.shipments") == [(0,)]


def test_a_refusal_that_is_met_again_is_the_same_and_gives_nothing_back_twice(rows: Rows) -> None:
    order = an_order(lines=[{"sku": "BELL", "quantity": 2}], shipping="express")
    first = refused(order, "validate_order", "reserve_inventory", "process_payment", "ship_order")
    before = everything(rows)
    again = refused(order, "ship_order")
    assert (again.code, str(again)) == (first.code, str(first))
    assert everything(rows) == before


def test_an_outage_before_the_work_leaves_nothing_and_one_after_it_is_found_done(rows: Rows) -> None:
    met = set()
    for number in range(8):
        order = an_order(f"SO-{number}")
        with pytest.raises(RetryableError):
            run(order, "validate_order", settings={"outage_rate": 1})
        (done,) = rows("SELECT count(*) FROM shop.steps_done WHERE order_id = %s", order.order_id)
        run(order, "validate_order", attempt=2)
        (outcome,) = rows("SELECT runs FROM shop.steps_done WHERE order_id = %s", order.order_id)
        assert outcome == ((2,) if done == (1,) else (1,))
        met.add(done)
    assert met == {(0,), (1,)}


def test_a_step_whose_connection_is_lost_is_done_by_its_next_attempt(rows: Rows) -> None:
    run(an_order(), "validate_order")
    rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
         "AND application_name = 'shop' AND pid <> pg_backend_pid()")  # fmt: skip
    with pytest.raises(psycopg.OperationalError):
        run(an_order(), "reserve_inventory")
    assert run(an_order(), "reserve_inventory") == {"reserve_inventory": {"reserved": {"MUG": 2}}}
    assert rows("SELECT quantity FROM shop.stock WHERE sku = 'MUG'") == [(8,)]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE shop.stock SET quantity = quantity - 100 WHERE sku = 'MUG'", "stock_quantity_check"),
        ("UPDATE shop.ledger_entries SET amount_cents = amount_cents + 1 WHERE account = 'sales'", "does not balance"),
        ("UPDATE shop.orders SET state = 'refused'", "orders_check"),
    ],
)
def test_the_database_itself_refuses_what_must_never_be(rows: Rows, statement: str, why: str) -> None:
    run(an_order(), *HANDLERS)
    before = everything(rows)
    with pytest.raises(psycopg.errors.CheckViolation, match=why):
        rows(f"{statement} RETURNING 1")
    assert everything(rows) == before
