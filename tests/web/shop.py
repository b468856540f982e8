"""A small shop whose orders are seen in a browser: one that goes well, one that needs a second attempt, one refused."""

from __future__ import annotations

import time
from typing import Any

from tasker import PermanentError, Retry, StepContext, workflow

orders = workflow("shop", "process_order", version="1.0.0")


@orders.step
def validate_order(ctx: StepContext) -> dict[str, Any]:
    return {"order": ctx.context["order"], "items": 2}


@orders.step(retry=Retry(max_attempts=3, backoff="fixed", base_seconds=0.05))
def reserve_inventory(ctx: StepContext, validate_order: dict[str, Any]) -> dict[str, Any]:
    if ctx.context.get("busy") and ctx.attempt == 1:
        raise ConnectionError("the warehouse does not answer")
    time.sleep(0.02)
    return {"reserved": validate_order["items"]}


@orders.step(depends_on=[reserve_inventory])
def charge_card(ctx: StepContext) -> dict[str, Any]:
    if ctx.context.get("card") == "expired":
        raise PermanentError("the card has expired", code="card_declined")
    time.sleep(0.05)
    return {"receipt": f"R-{ctx.context['order']}"}


@orders.step(depends_on=[charge_card])
def send_receipt(ctx: StepContext) -> dict[str, Any]:
    return {"sent": True}
