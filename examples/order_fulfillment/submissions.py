"""The orders as they arrive: the shipped file, or as many more as are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from order_fulfillment.generate import ORDERS, orders

NAMESPACE = "fulfillment"
WORKFLOW = "process_order"
HERE = Path(__file__).parent
TEMPLATE = HERE / "process_order.yaml"


@dataclass(frozen=True)
class Submissions:
    """What the front end sent.

    Attributes:
        sent: the orders, some of them twice.
        flaws: why an order must be refused, by its id; orders without a flaw are absent.
    """

    sent: tuple[dict[str, Any], ...]
    flaws: dict[str, str]

    @property
    def order_ids(self) -> tuple[str, ...]:
        """The orders, each once, in the order they came."""
        return tuple(dict.fromkeys(order["order_id"] for order in self.sent))

    @property
    def repeats(self) -> int:
        """How many were sent again."""
        return len(self.sent) - len(self.order_ids)

    def demand(self) -> dict[str, int]:
        """The pieces of each product that are wanted by any content that an order was sent with, at most."""
        wanted: dict[str, dict[str, int]] = {}
        for order in self.sent:
            of_order: dict[str, int] = {}
            for line in order["lines"]:
                of_order[line["sku"]] = of_order.get(line["sku"], 0) + line["quantity"]
            most = wanted.setdefault(order["order_id"], {})
            for sku, quantity in of_order.items():
                most[sku] = max(quantity, most.get(sku, 0))
        demand: dict[str, int] = {}
        for of_order in wanted.values():
            for sku, quantity in of_order.items():
                demand[sku] = demand.get(sku, 0) + quantity
        return demand

    def requests(self) -> Iterator[dict[str, Any]]:
        """What to give to ``Tasker.create_many``: the order's id is the identity key."""
        for order in self.sent:
            yield {
                "namespace": NAMESPACE,
                "name": WORKFLOW,
                "context": order,
                "identity_key": order["order_id"],
                "correlation_id": order["order_id"],
                "tags": [order["shipping"]],
                "source_system": "shop",
            }


def read_submissions(count: int = ORDERS) -> Submissions:
    """The first ``count`` orders, and whatever of them was sent again."""
    if count > ORDERS:
        generated = list(orders(count))
        flaws = {order["order_id"]: flaw for order, flaw in generated if flaw is not None}
        return Submissions(tuple(order for order, _ in generated), flaws)
    taken: set[str] = set()
    sent = []
    for order in _lines(HERE / "data" / "orders.jsonl"):
        if len(taken) < count:
            taken.add(order["order_id"])
        if order["order_id"] in taken:
            sent.append(order)
    refusals = {entry["order_id"]: entry["refusal"] for entry in _lines(HERE / "data" / "flaws.jsonl")}
    return Submissions(tuple(sent), {order_id: refusals[order_id] for order_id in taken & refusals.keys()})


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
