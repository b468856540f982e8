"""A small cache with a time limit and a bound, for what seldom changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringCache(Generic[K, V]):
    """Keeps the most recently used entries for a time; threads may share it.

    Args:
        ttl_seconds: how long an entry is good, in seconds.
        max_entries: how many are kept; 0 keeps none.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self, *, ttl_seconds: float, max_entries: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_seconds = ttl_seconds
        self._max_entries = max_entries
        self._monotonic = monotonic
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value kept under ``key``, else what ``make`` returns; its errors are passed on and not kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry[0] > self._monotonic():
                self._entries.move_to_end(key)
                return entry[1]
        # Made outside the lock: it may take a query or an import.
        value = make()
        with self._lock:
            self._entries[key] = (self._monotonic() + self._ttl_seconds, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
