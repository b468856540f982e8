"""Writes the shipped data: products, orders as they were sent, and what must become of those with a flaw.

Deterministic: the same orders on each machine and Python, and the first 1,000 of 5,000 are the 1,000 shipped ones. Only
``Random.random()`` is used, whose sequence Python promises to keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]

SEED = "tasker/1"
ORDERS = 1000
FIRST_ORDER = 100_001
DATA = Path(__file__).parent / "data"

FLAWS = (
    ("invalid_address", 0.016),
    ("unknown_product", 0.014),
    ("out_of_stock", 0.024),
    ("card_declined", 0.030),
    ("undeliverable", 0.010),
)
"""Why an order must be refused, and the share of orders with that flaw."""

REPEATED = 0.025
"""Share of orders that are sent again: an impatient customer, a front end that retries."""

CHANGED = 0.2
"""Share of those that are sent again with another content."""

SCARCE = 0.06
"""Share of orders that want something of which there is too little for all who do."""

MATERIALS = ("Oak", "Linen", "Copper", "Slate", "Wool", "Glass", "Bamboo", "Steel", "Cork", "Clay")
LIGHT = ("Mug", "Tray", "Lamp", "Throw", "Clock", "Bowl", "Board", "Vase", "Basket")
HEAVY = ("Planter", "Stool", "Dumbbell")
FIRST_NAMES = ("Ada", "Björn", "Chloé", "Dmitri", "Elif", "Grace", "Hiro", "Inés", "Liam", "Maeve", "Noor", "Søren")
LAST_NAMES = ("Bakker", "Clarke", "Dubois", "García", "Huber", "Ivanova", "Kaya", "Nguyen", "O’Neill", "Schäfer")
STREETS = ("Mill Lane", "Station Road", "Kerkstraat", "Hauptstraße", "Rue des Lilas", "Storgatan", "Elm Street")
CITIES = {
    "AT": ("Wien", "Graz", "Linz"),
    "DE": ("Berlin", "Köln", "Leipzig", "München"),
    "FR": ("Lyon", "Nantes", "Lille"),
    "GB": ("Leeds", "Bristol", "York"),
    "NL": ("Utrecht", "Delft", "Groningen"),
    "SE": ("Malmö", "Uppsala"),
    "US": ("Portland", "Austin", "Madison"),
}
FIVE = "#####"
POSTCODES = {"AT": "1###", "DE": FIVE, "FR": FIVE, "GB": "LS# #@@", "NL": "3### @@", "SE": "### ##", "US": FIVE}


class Dice(Random):
    """Draws by ``random()`` alone."""

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1."""
        return int(self.random() * limit)

    def pick(self, entries: Sequence[T]) -> T:
        """One of ``entries``."""
        return entries[self.below(len(entries))]

    def popular(self, entries: Sequence[T]) -> T:
        """One of ``entries``, the first ones far more often than the last."""
        return entries[int(self.random() ** 2 * len(entries))]

    def filled(self, pattern: str) -> str:
        """``pattern`` with a digit for each # (the first from 1 on) and a letter for each @."""
        text = ""
        for place in pattern:
            if place == "#":
                place = str(self.below(10)) if text else str(1 + self.below(9))
            elif place == "@":
                place = self.pick("ABCDEFGHJKLMNPRSTUVWXY")
            text += place
        return text


def products() -> list[Json]:
    """The catalogue with the stock: of a few products nothing, of a few hardly anything."""
    found = []
    for number, (kind, material) in enumerate((kind, material) for kind in (*LIGHT, *HEAVY) for material in MATERIALS):
        dice = Dice(f"{SEED}/product/{number}")
        heavy = kind in HEAVY
        stock = 1200 + 10 * dice.below(180)
        if number % 20 == 7:
            stock = 0
        elif number % 20 == 13:
            stock = 4 + dice.below(6)
        found.append(
            {
                "sku": f"{kind[:3].upper()}-{material[:3].upper()}-{number:03d}",
                "name": f"{material} {kind}",
                "unit_price_cents": (2900 if heavy else 700) + 50 * dice.below(120),
                "weight_grams": 6000 + 500 * dice.below(8) if heavy else 150 + 50 * dice.below(30),
                "stock": stock,
            }
        )
    return found


@dataclass(frozen=True)
class Shelves:
    """The products, by what can be expected of them."""

    weights: dict[str, int]
    light: tuple[str, ...]
    heavy: tuple[str, ...]
    scarce: tuple[str, ...]
    sold_out: tuple[str, ...]

    @classmethod
    def of(cls, catalogue: Sequence[Json]) -> Shelves:
        """Sort ``catalogue``."""
        weights = {product["sku"]: product["weight_grams"] for product in catalogue}
        plenty = [product["sku"] for product in catalogue if product["stock"] >= 100]
        return cls(
            weights,
            tuple(sku for sku in plenty if weights[sku] < 6000),
            tuple(sku for sku in plenty if weights[sku] >= 6000),
            tuple(product["sku"] for product in catalogue if 0 < product["stock"] < 100),
            tuple(product["sku"] for product in catalogue if product["stock"] == 0),
        )


def customer(number: int) -> tuple[Json, Json]:
    """A customer and the address."""
    dice = Dice(f"{SEED}/customer/{number}")
    first, last = dice.pick(FIRST_NAMES), dice.pick(LAST_NAMES)
    country = dice.pick(tuple(CITIES))
    person: Json = {
        "customer_id": f"C-{number:05d}",
        "name": f"{first} {last}",
        "email": f"customer{number:05d}@mail.example",
        "phone": dice.filled("+00 ### ######") if dice.random() < 0.55 else None,
        "loyalty": dice.random() < 0.4,
    }
    address = {
        "street": f"{dice.pick(STREETS)} {1 + dice.below(180)}",
        "city": dice.pick(CITIES[country]),
        "postcode": dice.filled(POSTCODES[country]),
        "country": country,
    }
    return person, address


def order(number: int, placed_at: datetime, shelves: Shelves) -> tuple[Json, str | None]:
    """The order of that number (from 0), and its flaw, if it has one."""
    dice = Dice(f"{SEED}/order/{number}")
    flaw = _flaw(dice.random())
    person, address = customer(1 + dice.below(700))
    lines: list[Json] = [
        {"sku": dice.popular(shelves.light), "quantity": 1 + dice.below(3)} for _ in range(1 + dice.below(4))
    ]
    if dice.random() < 0.15:
        lines.append({"sku": dice.popular(shelves.heavy), "quantity": 1 + dice.below(2)})
    if dice.random() < SCARCE:
        lines.append({"sku": dice.pick(shelves.scarce), "quantity": 1 + dice.below(2)})
    shipping = "express" if dice.random() < 0.25 else "standard"
    card = f"{dice.pick(('tok_visa', 'tok_mastercard', 'tok_amex'))}_{dice.filled('####')}"

    match flaw:
        case "invalid_address":
            address = {**address, **dice.pick(({"postcode": "unknown"}, {"country": "ZZ"}, {"city": " "}))}
        case "unknown_product":
            lines[0] = {**lines[0], "sku": f"{lines[0]['sku'][:-3]}{900 + dice.below(100)}"}
        case "out_of_stock":
            lines.append({"sku": dice.pick(shelves.sold_out), "quantity": 1})
        case "card_declined":
            card = f"{dice.pick(('tok_no_funds', 'tok_expired', 'tok_stolen'))}_{dice.filled('####')}"
        case "undeliverable":
            lines.append({"sku": dice.pick(shelves.heavy), "quantity": 6 + dice.below(3)})
            shipping = "express"
    weight = sum(shelves.weights.get(line["sku"], 0) * line["quantity"] for line in lines)
    if flaw != "undeliverable" and weight > 30_000:
        shipping = "standard"
    sent = {
        "order_id": f"SO-{FIRST_ORDER + number}",
        "placed_at": placed_at.isoformat(),
        "customer": person,
        "ship_to": address,
        "lines": lines,
        "card": card,
        "shipping": shipping,
    }
    return sent, flaw


def orders(count: int) -> Iterator[tuple[Json, str | None]]:
    """What the front end sent: ``count`` orders, and between them those that it sent again; each with its flaw."""
    shelves = Shelves.of(products())
    moment = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    again: list[tuple[int, Json, str | None]] = []
    for number in range(count):
        dice = Dice(f"{SEED}/sending/{number}")
        moment += timedelta(seconds=5 + dice.below(80))
        sent, flaw = order(number, moment, shelves)
        yield sent, flaw
        if dice.random() < REPEATED:
            repeat = sent
            if dice.random() < CHANGED:
                first, *others = sent["lines"]
                repeat = {**sent, "lines": [{**first, "quantity": first["quantity"] + 1}, *others]}
            again.append((number + 1 + dice.below(5), repeat, flaw))
        for entry in [entry for entry in again if entry[0] <= number]:
            again.remove(entry)
            yield entry[1], entry[2]
    for _, repeat, flaw in again:
        yield repeat, flaw


def _flaw(share: float) -> str | None:
    for flaw, rate in FLAWS:
        if share < rate:
            return flaw
        share -= rate
    return None


def files() -> dict[Path, str]:
    """The shipped files and what is in them."""
    sent = list(orders(ORDERS))
    flaws = {entry["order_id"]: flaw for entry, flaw in sent if flaw is not None}
    return {
        DATA / "products.jsonl": _lines(products()),
        DATA / "orders.jsonl": _lines(entry for entry, _ in sent),
        DATA / "flaws.jsonl": _lines({"order_id": order_id, "refusal": flaw} for order_id, flaw in flaws.items()),
    }


def _lines(entries: Sequence[Json] | Iterator[Json]) -> str:
    return "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {text.count(chr(10))} lines")
