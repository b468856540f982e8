"""What a program of this folder gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Found:
    """Figures of one program.

    Attributes:
        figures: the values of each by name; one for each round, where there are rounds.
        size: how large that was which the program makes large (tasks, steps, bytes; see `benchmarks.figures.sizes`).
        details: what explains the figures.
    """

    figures: dict[str, list[float]]
    size: float
    details: dict[str, Any] = field(default_factory=dict)
