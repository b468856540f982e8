from __future__ import annotations

from typing import Any, get_args

import pytest

from order_fulfillment.generate import orders
from order_fulfillment.model import Order
from order_fulfillment.outages import Moment, outage, strike
from order_fulfillment.payments import authorize
from order_fulfillment.pricing import Product, Quote, loyalty_points, quote
from order_fulfillment.refusals import Refused
from tasker import RetryableError, StepContext

CATALOGUE = {"MUG": Product(unit_price_cents=1250, weight_grams=400), "BELL": Product(4000, 16_000)}


def an_order(**changes: Any) -> Order:
    address = {"street": "Elm Street 1", "city": "Köln", "postcode": "50667", "country": "DE"}
    sent = {**next(orders(1))[0], "ship_to": address, "lines": [{"sku": "MUG", "quantity": 2}], "shipping": "standard"}
    return Order.model_validate({**sent, **changes})


def test_an_order_costs_its_goods_its_shipping_and_the_countrys_tax() -> None:
    priced = quote(an_order(), CATALOGUE)
    assert priced == Quote(subtotal_cents=2500, shipping_cents=490, tax_cents=568, weight_grams=800)
    assert priced.total_cents == 3558


def test_half_a_cent_of_tax_goes_up() -> None:
    # 19 % of 50.50 are 9.595
    catalogue = {"MUG": Product(4560, 100)}
    assert quote(an_order(lines=[{"sku": "MUG", "quantity": 1}]), catalogue).tax_cents == 960


def test_large_orders_ship_free_unless_they_are_in_a_hurry() -> None:
    lines = [{"sku": "BELL", "quantity": 3}]
    assert quote(an_order(lines=lines), CATALOGUE).shipping_cents == 0
    assert quote(an_order(lines=lines, shipping="express"), CATALOGUE).shipping_cents == 990


@pytest.mark.parametrize(
    ("country", "postcode"),
    [("AT", "1010"), ("DE", "01067"), ("FR", "75001"), ("GB", "LS1 4AP"), ("NL", "1012 AB"), ("SE", "111 22"),
     ("US", "97201"), ("US", "97201-1234")],
)  # fmt: skip
def test_postcodes_of_each_country_are_known(country: str, postcode: str) -> None:
    address = {"street": "Elm Street 1", "city": "X", "postcode": postcode, "country": country}
    assert quote(an_order(ship_to=address), CATALOGUE).total_cents > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"postcode": "1234"}, "'1234' is no postcode of DE"),
        ({"country": "ZZ"}, "does not deliver to 'ZZ'"),
        ({"street": " "}, "street and city"),
    ],
)
def test_an_order_to_nowhere_is_refused(change: dict[str, str], why: str) -> None:
    order = an_order()
    with pytest.raises(Refused, match=why) as refused:
        quote(an_order(ship_to={**order.ship_to.model_dump(), **change}), CATALOGUE)
    assert refused.value.code == "invalid_address"


def test_an_order_for_something_unknown_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="the catalogue has no VASE") as refused:
        quote(an_order(lines=[{"sku": "MUG", "quantity": 1}, {"sku": "VASE", "quantity": 1}]), CATALOGUE)
    assert refused.value.code == "unknown_product"


@pytest.mark.parametrize("card", ["tok_no_funds_1234", "tok_expired_1234", "tok_stolen_1234"])
def test_a_declined_card_is_a_refusal(card: str) -> None:
    with pytest.raises(Refused) as refused:
        authorize(card, 3558)
    assert refused.value.code == "card_declined"
    assert authorize("tok_visa_1234", 3558) == "auth_1234_3558"


def test_points_are_given_for_whole_units() -> None:
    assert [loyalty_points(cents) for cents in (99, 100, 2599)] == [0, 1, 25]


def test_outages_are_the_same_in_each_run_and_as_frequent_as_their_rate() -> None:
    met = [outage(f"SO-{number}", "process_payment", 1, 0.1) for number in range(5000)]
    assert met == [outage(f"SO-{number}", "process_payment", 1, 0.1) for number in range(5000)]
    assert 400 < len([moment for moment in met if moment]) < 600
    assert 200 < met.count("before") < 300
    assert outage("SO-1", "ship_order", 1, 0.0) is None


def test_an_outage_is_retryable_and_says_whose_it_is() -> None:
    context = a_context(outage_rate="1", system="the bank")
    with pytest.raises(RetryableError, match="the bank") as error:
        strike(context, moments_of(context)[0])
    assert error.value.code == "outage"


def test_an_attempt_meets_one_outage_at_most_and_the_last_attempt_none() -> None:
    context = a_context(outage_rate="1")
    assert len(moments_of(context)) == 1
    context.attempt = context.max_attempts
    assert moments_of(context) == []


def test_without_a_rate_nothing_fails() -> None:
    assert moments_of(a_context()) == []


def a_context(**settings: str) -> StepContext[Order]:
    return StepContext(context=an_order(), settings=settings, attempt=1, max_attempts=3)


def moments_of(context: StepContext[Order]) -> list[Moment]:
    """When an outage strikes this attempt."""
    moments: list[Moment] = []
    for moment in get_args(Moment):
        try:
            strike(context, moment)
        except RetryableError:
            moments.append(moment)
    return moments
