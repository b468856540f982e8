"""Counts of what an executor did, for its heartbeat and for the statistics of a loop's run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping


class Counters:
    """Named counts that only rise. ``_lock`` owns them; they are raised per batch, not per step, on hot paths."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.changed: Callable[[], None] = _nothing
        """Called after each change, by whoever made it; set by whoever shows the counts elsewhere."""

    def add(self, **counts: int) -> None:
        """Raise the named counts."""
        with self._lock:
            for name, count in counts.items():
                if count:
                    self._counts[name] = self._counts.get(name, 0) + count
        self.changed()

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


def _nothing() -> None:
    pass
