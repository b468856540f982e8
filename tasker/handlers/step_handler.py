"""The class that handlers with state or helpers of their own derive from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tasker.handlers.context import StepContext


class StepHandler(ABC):
    """A handler as a class: ``handler: {callable: "shop.payments.ChargeCard"}`` calls ``ChargeCard().call(ctx)``.

    One instance is made per process and step, without arguments, and serves all attempts, several at once where the
    executor runs threads or coroutines: keep what belongs to one attempt in local variables. ``call`` may be
    ``async def``, and may take results of earlier steps as typed parameters, as functions do.
    """

    @abstractmethod
    def call(self, ctx: StepContext[Any]) -> Any:
        """Run one attempt.

        Args:
            ctx: the attempt.

        Returns:
            The step's result, a JSON value or something with a JSON form (pydantic model, dataclass, datetime, UUID).

        Raises:
            PermanentError: no further attempt makes sense.
            RetryableError: try again later; so does any other exception.
        """
