"""What happens to an order once it is committed: a workflow declared in Python."""

from __future__ import annotations

from pydantic import BaseModel

from tasker import StepContext, workflow


class Placed(BaseModel):
    """The context of the workflow: an order that was placed."""

    order_id: int
    customer: str
    item: str
    price_cents: int


class Packed(BaseModel):
    """What packing comes to."""

    parcel: str


placed = workflow("web_shop", "deliver", version="1.0.0", input_schema=Placed)


@placed.step
def pack(ctx: StepContext[Placed]) -> Packed:
    """Pack the item."""
    return Packed(parcel=f"P-{ctx.context.order_id:06d}")


@placed.step
def announce(ctx: StepContext[Placed], pack: Packed) -> dict[str, str]:
    """Tell the customer; the parameter ``pack`` makes it wait for that step."""
    return {"to": ctx.context.customer, "text": f"{ctx.context.item} is on its way in {pack.parcel}"}
