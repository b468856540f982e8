from __future__ import annotations

from collections import Counter

import pytest

from order_fulfillment.generate import FLAWS, ORDERS, files, orders
from order_fulfillment.model import Order
from order_fulfillment.refusals import REFUSALS
from order_fulfillment.submissions import TEMPLATE, read_submissions
from tasker.config.settings import Settings
from tasker.handlers.checks import check_handlers
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.loading import load_template
from tasker.workflows.schemas import compile_schema


def test_the_generator_makes_the_shipped_files() -> None:
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m order_fulfillment.generate"


def test_a_thousand_orders_are_shipped_and_some_were_sent_twice_and_changed() -> None:
    shipped = read_submissions()
    assert len(shipped.order_ids) == ORDERS == 1000
    assert shipped.repeats >= 20
    contents: dict[str, list[object]] = {}
    for order in shipped.sent:
        contents.setdefault(order["order_id"], []).append(order)
    assert any(len(sent) == 2 and sent[0] == sent[1] for sent in contents.values())
    assert any(len(sent) == 2 and sent[0] != sent[1] for sent in contents.values())


def test_every_flaw_there_is_occurs() -> None:
    counted = Counter(read_submissions().flaws.values())
    assert set(counted) == {flaw for flaw, _ in FLAWS} == set(REFUSALS)
    assert min(counted.values()) >= 5


def test_more_goods_are_wanted_than_there_are_of_some_products_only() -> None:
    from order_fulfillment.generate import products

    demand = read_submissions().demand()
    stock = {product["sku"]: product["stock"] for product in products()}
    short = {sku for sku, wanted in demand.items() if 0 < stock.get(sku, 0) < wanted}
    assert 1 <= len(short) <= 10


@pytest.mark.parametrize("count", [1, 40, 999])
def test_fewer_orders_are_the_first_of_the_file_with_all_their_repeats(count: int) -> None:
    shipped, some = read_submissions(), read_submissions(count)
    assert some.order_ids == shipped.order_ids[:count]
    assert [order for order in shipped.sent if order["order_id"] in some.order_ids] == list(some.sent)
    assert some.flaws.items() <= shipped.flaws.items()


def test_more_orders_than_the_file_has_begin_with_those_of_the_file() -> None:
    assert read_submissions(1200).order_ids[:1000] == read_submissions().order_ids
    assert len(read_submissions(1200).order_ids) == 1200


def test_every_order_fits_the_templates_input_schema_and_the_handlers_model() -> None:
    schema = load_template(TEMPLATE).input_schema
    assert schema is not None
    compiled = compile_schema(schema)
    for order, _ in orders(ORDERS):
        assert compiled.explain(order) is None
        Order.model_validate(order)


def test_a_product_on_two_lines_is_counted_together() -> None:
    order, _ = next(orders(1))
    lines = [{"sku": "B", "quantity": 2}, {"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 3}]
    assert list(Order.model_validate({**order, "lines": lines}).quantities.items()) == [("A", 1), ("B", 5)]


def test_the_template_is_the_graph_that_its_readme_draws() -> None:
    template = load_template(TEMPLATE)
    graph = {step.name: (step.namespace or template.namespace_name, step.depends_on) for step in template.steps}
    told = ("send_email", "send_sms", "notify_warehouse", "award_loyalty")
    assert graph == {
        "validate_order": ("fulfillment", ()),
        "reserve_inventory": ("inventory", ("validate_order",)),
        "process_payment": ("payments", ("reserve_inventory",)),
        "ship_order": ("fulfillment", ("process_payment",)),
        **dict.fromkeys(told, ("notifications", ("ship_order",))),
        "close_order": ("fulfillment", told),
    }


def test_every_handler_of_the_template_can_be_called() -> None:
    settings = Settings.model_validate({"engine": {"handler_modules": ("order_fulfillment",)}})
    assert list(check_handlers(load_template(TEMPLATE), HandlerRegistry(settings))) == []
