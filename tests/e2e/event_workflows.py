"""A workflow whose steps publish events, and a subscriber that writes down what it is told."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tasker import DomainEvent, Event, EventDraft, Retry, StepContext, subscribe, workflow
from tests.e2e.workflows import NAMESPACE

PAID = {"type": "object", "required": ["order"], "properties": {"order": {"type": "integer"}}}


def paid(draft: EventDraft) -> dict[str, Any]:
    """What an order's payment tells: no more than its number."""
    return {"order": draft.context["n"]}


telling = workflow(NAMESPACE, "telling", version="1.0.0", publishes=[Event(name="order.over", condition="always")])
"""Two steps, of which the first fails once."""


@telling.step(
    retry=Retry(max_attempts=10, backoff="none"),
    publishes=[
        Event(name="order.paid", schema=PAID, publisher=paid, delivery="broadcast"),
        Event(name="order.declined", condition="retryable_failure"),
    ],
)
def pay(ctx: StepContext) -> dict[str, Any]:
    if ctx.attempt == 1:
        raise ConnectionError("declined")
    time.sleep(0.02)
    return {"card": "secret"}


@telling.step(publishes=["order.sent"])
def send(ctx: StepContext, pay: dict[str, Any]) -> int:
    return int(ctx.context["n"])


@subscribe("order.*")
def write_down(event: DomainEvent) -> None:
    """Append the event's id and number to a file that all processes share."""
    file = Path(os.environ["EVENTS_FILE"])
    with file.open("a") as told:
        told.write(f"{event.name} {event.event_id}\n")
