"""NOTIFY after commit: a hint to idle consumers and waiting clients, gathered so that it costs little.

Each NOTIFY takes a lock that all notifying commits of the server share, so an executor sends at most one statement per
interval, with all the channels that came up meanwhile. The first of a quiet time goes out at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

INTERVAL_SECONDS = 0.005


class Notifier:
    """Channels on their way. ``_lock`` owns the members; the statement is sent outside of it.

    Args:
        interval_seconds: shortest time between two statements.
        clock: the time, monotonic.
    """

    def __init__(
        self, interval_seconds: float = INTERVAL_SECONDS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._channels: dict[str, None] = {}
        self._not_before = 0.0

    def add(self, channels: Iterable[str]) -> None:
        """Channels whose listeners shall look; what they are to find has been committed."""
        with self._lock:
            self._channels.update(dict.fromkeys(channels))

    def due_in(self) -> float | None:
        """Seconds until there is something to send; ``None`` when there is nothing."""
        with self._lock:
            return max(0.0, self._not_before - self._clock()) if self._channels else None

    def take(self, *, force: bool = False) -> list[str]:
        """The channels to notify now; empty when there are none or the interval has not passed."""
        with self._lock:
            now = self._clock()
            if not self._channels or (now < self._not_before and not force):
                return []
            channels = list(self._channels)
            self._channels.clear()
            self._not_before = now + self._interval
            return channels
