"""What one run of a loop did, as the result of the Celery task that hosted it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class LoopStatistics:
    """JSON-able by ``as_dict``.

    Attributes:
        ended: why: ``stopped``, ``yielded``, ``lifetime``, ``requested`` (each executor was asked to stop),
            ``idle``, ``unhealthy`` (one had stalled) or ``drained`` (the worker hosts none at present).
        seconds: how long it ran.
        drains: calls of ``drain``, by kind.
        taken: items of work taken, by kind.
        waits: how often the loop waited.
        errors: drains that failed and were tried again.
        counters: what the executors counted, by kind.
    """

    ended: str = ""
    seconds: float = 0.0
    drains: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    waits: int = 0
    errors: int = 0
    counters: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)
