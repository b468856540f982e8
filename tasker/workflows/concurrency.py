"""What tasks with the same key share, as Python declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """A limit that tasks share which have the same value in their context: a tenant's, a customer's.

    Tasks of one namespace with equal values share it, whatever their workflow; those without the value share one too.
    A step that has to wait is parked, and lets the steps of others pass.

    Attributes:
        key: where the value is, as a JSON Pointer into the context (``/tenant``, ``/customer/id``).
        max_steps: how many of their steps run at once; ``None`` for any number.
        rate: how many of their steps start in how many seconds, as ``(count, seconds)``; ``None`` for any number.
    """

    key: str
    max_steps: int | None = None
    rate: tuple[int, float] | None = None

    def to_document(self) -> dict[str, Any]:
        """The limit as the ``concurrency`` of a template."""
        document: dict[str, Any] = {"key": self.key}
        if self.max_steps is not None:
            document["max_steps"] = self.max_steps
        if self.rate is not None:
            count, seconds = self.rate
            document["rate"] = {"count": count, "per_seconds": seconds}
        return document
