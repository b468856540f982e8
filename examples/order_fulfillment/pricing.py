"""Where the shop delivers, and what an order costs: whole cents, no database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from order_fulfillment.model import Address, Order
from order_fulfillment.refusals import Refused

FREE_SHIPPING_FROM_CENTS = 10_000
POINTS_PER_CENTS = 100
"""One loyalty point for each unit of the currency."""


@dataclass(frozen=True)
class Country:
    """A country that the shop delivers to.

    Attributes:
        postcode: what a postcode looks like there.
        tax_percent: sales tax on goods and shipping.
        standard_cents: price of standard shipping.
        express_cents: price of express shipping.
    """

    postcode: re.Pattern[str]
    tax_percent: int
    standard_cents: int
    express_cents: int


COUNTRIES: Mapping[str, Country] = {
    "AT": Country(re.compile(r"[1-9]\d{3}"), 20, 590, 1290),
    "DE": Country(re.compile(r"\d{5}"), 19, 490, 990),
    "FR": Country(re.compile(r"\d{5}"), 20, 690, 1490),
    "GB": Country(re.compile(r"[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}"), 20, 890, 1990),
    "NL": Country(re.compile(r"[1-9]\d{3} [A-Z]{2}"), 21, 590, 1190),
    "SE": Country(re.compile(r"\d{3} \d{2}"), 25, 790, 1690),
    "US": Country(re.compile(r"\d{5}(-\d{4})?"), 0, 1490, 2990),
}


@dataclass(frozen=True)
class Product:
    """What the catalogue says of a product."""

    unit_price_cents: int
    weight_grams: int


@dataclass(frozen=True)
class Quote:
    """What an order costs and weighs."""

    subtotal_cents: int
    shipping_cents: int
    tax_cents: int
    weight_grams: int

    @property
    def total_cents(self) -> int:
        """What the customer pays."""
        return self.subtotal_cents + self.shipping_cents + self.tax_cents


def check_address(address: Address) -> Country:
    """The country of ``address``.

    Raises:
        Refused: ``invalid_address``: nobody could deliver there.
    """
    country = COUNTRIES.get(address.country)
    if country is None:
        raise Refused("invalid_address", f"the shop does not deliver to {address.country!r}")
    if not country.postcode.fullmatch(address.postcode):
        raise Refused("invalid_address", f"{address.postcode!r} is no postcode of {address.country}")
    if not address.street.strip() or not address.city.strip():
        raise Refused("invalid_address", "street and city are needed")
    return country


def quote(order: Order, catalogue: Mapping[str, Product]) -> Quote:
    """Price ``order``.

    Args:
        order: the order.
        catalogue: the products it names, as far as they exist.

    Raises:
        Refused: ``invalid_address`` or ``unknown_product``.
    """
    country = check_address(order.ship_to)
    unknown = [sku for sku in order.quantities if sku not in catalogue]
    if unknown:
        raise Refused("unknown_product", f"the catalogue has no {', '.join(unknown)}")
    bought = [(catalogue[sku], quantity) for sku, quantity in order.quantities.items()]
    subtotal = sum(product.unit_price_cents * quantity for product, quantity in bought)
    if order.shipping == "express":
        shipping = country.express_cents
    else:
        shipping = 0 if subtotal >= FREE_SHIPPING_FROM_CENTS else country.standard_cents
    tax = ((subtotal + shipping) * country.tax_percent + 50) // 100  # half a cent goes up
    weight = sum(product.weight_grams * quantity for product, quantity in bought)
    return Quote(subtotal, shipping, tax, weight)


def loyalty_points(subtotal_cents: int) -> int:
    """Points for goods of this price."""
    return subtotal_cents // POINTS_PER_CENTS
