"""An order as customers send it: the context of ``fulfillment/process_order``."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """Base of all parts of an order: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Customer(Part):
    """Who ordered.

    Attributes:
        phone: where messages go, if the customer wants any.
        loyalty: whether the customer collects points.
    """

    customer_id: str
    name: str
    email: str
    phone: str | None = None
    loyalty: bool = False


class Address(Part):
    """Where the order goes; ``country`` is its two letters (ISO 3166)."""

    street: str
    city: str
    postcode: str
    country: str


class Line(Part):
    """Some pieces of one product."""

    sku: str
    quantity: int = Field(ge=1)


class Order(Part):
    """One order.

    Attributes:
        order_id: given by the shop's front end; an order that is sent twice has the same.
        placed_at: ISO 8601, with a time zone.
        card: the token under which the payment gateway knows the card.
    """

    order_id: str
    placed_at: str
    customer: Customer
    ship_to: Address
    lines: tuple[Line, ...] = Field(min_length=1)
    card: str
    shipping: Literal["standard", "express"] = "standard"

    @property
    def quantities(self) -> dict[str, int]:
        """Pieces of each product, by sku in order: a product may stand on several lines."""
        counted: Counter[str] = Counter()
        for line in self.lines:
            counted[line.sku] += line.quantity
        return dict(sorted(counted.items()))
