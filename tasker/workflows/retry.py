"""The retry policy of a step, as Python declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasker.workflows.model import Backoff


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When a failed attempt is followed by another; ``None`` leaves a value to the settings.

    Attributes:
        max_attempts: how many runs there may be, the first included.
        backoff: how the delay grows from one retry to the next.
        base_seconds: delay before the first retry.
        max_seconds: longest delay.
        retryable: ``False`` forbids a second run, also after the loss of a worker.
    """

    max_attempts: int | None = None
    backoff: Backoff | None = None
    base_seconds: float | None = None
    max_seconds: float | None = None
    retryable: bool | None = None

    def to_document(self) -> dict[str, Any]:
        """The policy as the ``retry`` of a template."""
        fields = {
            "retryable": self.retryable,
            "max_attempts": self.max_attempts,
            "backoff": self.backoff,
            "initial_delay": self.base_seconds,
            "max_delay": self.max_seconds,
        }
        return {name: value for name, value in fields.items() if value is not None}
