"""Systems that fail now and then: here by arithmetic, so that each run of the demo meets the same outages."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from tasker import RetryableError, StepContext

Moment = Literal["before", "after"]


def share_of(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` alone, and on each of them."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def outage(order_id: str, step: str, attempt: int, rate: float) -> Moment | None:
    """Whether this attempt meets an outage, and when.

    Args:
        order_id: the order.
        step: the step.
        attempt: number of the attempt, from 1.
        rate: the share of attempts that fail.

    Returns:
        ``before`` the work is done; ``after`` it, when only the answer is lost, so that the next attempt finds it done.
    """
    share = share_of(order_id, step, attempt)
    if share >= rate:
        return None
    return "before" if share < rate / 2 else "after"


def strike(ctx: StepContext[Any], moment: Moment) -> None:
    """Fail, if an outage is due; the last attempt is spared, since the demo's systems always come back.

    The rate is the step's setting ``outage_rate``; without one nothing ever fails.

    Raises:
        RetryableError: an outage.
    """
    rate = float(ctx.settings.get("outage_rate", 0))
    if ctx.attempt < ctx.max_attempts and outage(ctx.context.order_id, ctx.step_name, ctx.attempt, rate) == moment:
        what = "did not answer" if moment == "before" else "was cut off before it confirmed"
        raise RetryableError(f"{ctx.settings.get('system', ctx.namespace)} {what}", code="outage")
