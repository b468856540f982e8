"""When an idle executor looks again: soon after it went idle, then ever more rarely, with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable

LOOK_AGAIN_SECONDS = (0.02, 0.1)
"""Waits right after the idle flag was set: a completion elsewhere may have read the old flag and sent no NOTIFY."""

JITTER = 0.2
"""Share by which a wait is shortened at most, so that idle executors do not poll in step."""


class IdleSchedule:
    """The waits between drains that found nothing. Used by the loop's thread alone.

    Args:
        first_seconds: the shortest wait between polls (``polling_interval_ms``).
        max_seconds: the longest (``max_polling_interval_ms``); the waits double up to it.
        jitter: a number in [0, 1) for each wait.
    """

    def __init__(
        self, first_seconds: float, max_seconds: float, *, jitter: Callable[[], float] = random.random
    ) -> None:
        self._first = first_seconds
        self._max = max(first_seconds, max_seconds)
        self._jitter = jitter
        self._looks = 0
        self._next = first_seconds

    def found_work(self) -> None:
        """Start over: the next empty drain is the first."""
        self._looks = len(LOOK_AGAIN_SECONDS)
        self._next = self._first

    def flag_was_set(self) -> None:
        """The idle flag has just been committed: look again soon, twice."""
        self._looks = 0

    def next_wait(self, next_due_seconds: float | None = None) -> float:
        """Seconds to wait now; never longer than ``next_due_seconds``, when something is known to fall due then."""
        if self._looks < len(LOOK_AGAIN_SECONDS):
            wait = LOOK_AGAIN_SECONDS[self._looks]
            self._looks += 1
        else:
            wait = self._next * (1 - JITTER * self._jitter())
            self._next = min(self._next * 2, self._max)
        return wait if next_due_seconds is None else max(0.0, min(wait, next_due_seconds))
