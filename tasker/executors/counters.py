"""Counts of what an executor did, for its heartbeat and for the statistics of a loop's run."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

STALE_RESULTS = "stale_results_total"
STEP_DURATION = "step_duration_seconds"
STEP_QUEUE_WAIT = "step_queue_wait_seconds"
STEP_HANDOFF = "step_handoff_seconds"
"""Names of metrics. A count is one when it carries its labels, as ``stale_results_total|fence_is_old`` does."""


class Counters:
    """Named counts that only rise. ``_lock`` owns them; they are raised per batch, not per step, on hot paths.

    Durations are kept apart, as the buckets of histograms: they are for metrics alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._durations: dict[tuple[str, str], _Durations] = {}
        self.changed: Callable[[], None] = _nothing
        """Called after each change, by whoever made it; set by whoever shows the counts elsewhere."""

    def add(self, **counts: int) -> None:
        """Raise the named counts."""
        with self._lock:
            for name, count in counts.items():
                if count:
                    self._counts[name] = self._counts.get(name, 0) + count
        self.changed()

    def observe(self, name: str, label: str, seconds: float, bounds: Sequence[float]) -> None:
        """Count one duration.

        Args:
            name: of the metric.
            label: the value of its one label.
            seconds: the duration.
            bounds: upper bounds of the buckets, rising; the same in each call.
        """
        with self._lock:
            durations = self._durations.get((name, label))
            if durations is None:
                durations = self._durations[name, label] = _Durations(bounds)
            durations.counts[bisect_left(bounds, seconds)] += 1
            durations.total += seconds

    def durations(self) -> dict[str, float]:
        """The durations so far, as a heartbeat carries them.

        ``name_bucket|label|bound`` is how many were at most ``bound`` and above the bound before, ``name_sum|label``
        their sum in seconds.
        """
        flat: dict[str, float] = {}
        with self._lock:
            for (name, label), durations in self._durations.items():
                flat[f"{name}_sum|{label}"] = round(durations.total, 6)
                for bound, count in zip(durations.named, durations.counts, strict=True):
                    if count:
                        flat[f"{name}_bucket|{label}|{bound}"] = count
        return flat

    def snapshot(self) -> dict[str, int]:
        """All counts so far; those that are still zero are left out."""
        with self._lock:
            return dict(self._counts)

    def since(self, earlier: Mapping[str, int]) -> dict[str, int]:
        """What was added after ``earlier``, a snapshot."""
        return {
            name: count - earlier.get(name, 0)
            for name, count in self.snapshot().items()
            if count != earlier.get(name, 0)
        }


class _Durations:
    """One histogram."""

    __slots__ = ("counts", "named", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.named = (*map(str, bounds), "+Inf")
        self.counts = [0] * len(self.named)
        self.total = 0.0


def without(counts: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """``counts`` less what they were ``earlier``; those that did not change are left out."""
    left = {}
    for name, count in counts.items():
        more = count - earlier.get(name, 0)
        if more:
            left[name] = round(more, 6)
    return left


def _nothing() -> None:
    pass
