"""When a circuit opens and closes, and how one is: what circuits in memory and shared ones have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """When a circuit opens and closes.

    Attributes:
        failure_threshold: failures in a row that open it.
        timeout_seconds: how long it stays open before one call may try again.
        success_threshold: successes in a row that close it again.
    """

    failure_threshold: int = 5
    timeout_seconds: float = 30
    success_threshold: int = 2


@dataclass(frozen=True, slots=True)
class CircuitStatus:
    """How a circuit is, as this process knows it.

    Attributes:
        name: of the component, or of the external system.
        state: ``closed``, ``open`` or ``half_open``.
        is_shared: whether all processes share it.
        forced: whether an operator opened it, so that it does not close by itself.
        failures: failures since the last success.
        retry_after_seconds: how long until a call may try; ``None`` where that is not known, or needless.
    """

    name: str
    state: str
    is_shared: bool = False
    forced: bool = False
    failures: int = 0
    retry_after_seconds: float | None = None
