"""How much is measured: the short form and the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engines.registry import ENGINES
from benchmarks.shapes import SHAPES

LEAST_TASKS = 8
"""Fewer tasks of a graph than this do not keep several workers busy: a throughput of them is a latency."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
        shapes: the shapes measured, beside ``plain`` for engines without graphs. The first is the one that sizes are
            found with, and statements are counted with.
        rounds: how often each engine is measured, in turn with all others.
        seconds: how long a throughput shall take; numbers of tasks are chosen so.
        longest: no throughput shall take longer (seconds): a slow engine gets less than `LEAST_TASKS`, and what takes
            it longer for one task is left out.
        latencies: tasks of a latency, one at a time.
        budget: no round begins that would likely end after so many seconds; None: all rounds, whatever they take.
        inside: whether Tasker is looked at from within, too.
    """

    shapes: Sequence[str]
    rounds: int
    seconds: float
    longest: float
    latencies: int
    budget: float | None = None
    inside: bool = True

    def shapes_of(self, engine: str, engines: Sequence[str]) -> list[str]:
        """What this engine is measured with in a run of those; Tasker with plain jobs, too, beside job queues."""
        if not ENGINES[engine].graphs:
            return ["plain"]
        beside = engine == "tasker-hosted" and any(not ENGINES[other].graphs for other in engines)
        return [*self.shapes, "plain"] if beside and "plain" not in self.shapes else list(self.shapes)

    def latencies_of(self, engine: str) -> int:
        """Tasks of its latency; the floor has none, since nobody tells it that there is work."""
        if engine == "floor" or not ENGINES[engine].graphs:
            return 0
        return max(5, self.latencies // 5) if ENGINES[engine].small else self.latencies


SHORT = Plan(shapes=("linear4", "fan100"), rounds=3, seconds=1.5, longest=8, latencies=25, budget=450)
FULL = Plan(
    shapes=tuple(name for name in SHAPES if name != "plain"),
    rounds=5,
    seconds=10,
    longest=60,
    latencies=200,
)
