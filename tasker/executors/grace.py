"""How long a stopping executor may go on: unlimited until it is told to stop, then a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tasker.executors.wake import Raised, wait_readable

POLL_SECONDS = 0.05
"""Longest sleep once the stop signal is set: its descriptor stays readable and wakes nobody any more."""

LAST_PATIENCE_SECONDS = 2.0
"""How long a database that is there may be silent, however little time is left."""

LAST_WORDS_SECONDS = 5.0
"""How long after the period what came out of it may still be reported."""


class GracePeriod:
    """When to give up, for everyone who waits on behalf of one executor.

    It begins by itself once the stop signal is seen, or when ``begin`` is called for another reason to end.

    Args:
        stop: the signal of this process.
        seconds: what is allowed after it.
    """

    def __init__(self, stop: Raised, seconds: float) -> None:
        self._stop = stop
        self._seconds = seconds
        self._lock = threading.Lock()  # owns _ends_at
        self._ends_at: float | None = None
        self._hurry: tuple[Callable[[], bool], float] | None = None
        self._hurried_at: float | None = None

    def begin(self, seconds: float | None = None) -> None:
        """Start the period, if it has not begun, with ``seconds`` instead of what was allowed at first.

        What the signal allows holds once that is set, whoever sees it first.
        """
        with self._lock:
            if self._ends_at is None:
                allowed = self._seconds if seconds is None or self._stop.is_set() else seconds
                self._ends_at = time.monotonic() + allowed

    def hurry_when(self, asked: Callable[[], bool], seconds: float) -> None:
        """While ``asked()``, allow at most ``seconds`` from when that was first seen.

        Args:
            asked: called often, by any thread; it may take back what it said.
            seconds: what is allowed then.
        """
        self._hurry = (asked, seconds)

    def shorten(self, seconds: float) -> None:
        """Allow at most ``seconds`` from now on: what is left to do is not worth waiting longer."""
        with self._lock:
            ends_at = time.monotonic() + seconds
            self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)

    @property
    def begun(self) -> bool:
        """Whether the executor shall stop; notices the signal."""
        if self._ends_at is None and self._stop.is_set():
            self.begin()
        return self._ends_at is not None

    def over(self) -> bool:
        """Whether nothing more may be waited for."""
        return self.begun and self.remaining() <= 0

    def remaining(self) -> float:
        """Seconds left; infinite while the period has not begun."""
        ends_at = self._ends_at
        if ends_at is None:
            return float("inf")
        now = time.monotonic()
        if self._hurry is not None:
            asked, seconds = self._hurry
            if asked():
                if self._hurried_at is None:
                    self._hurried_at = now
                ends_at = min(ends_at, self._hurried_at + seconds)
        return ends_at - now

    def patience(self) -> float:
        """How long to wait now for a database that says nothing; 0: make no call any more.

        Of what is left, a third: a connection that is dead leaves time for another one.
        """
        if not self.begun:
            return float("inf")
        remaining = self.remaining()
        return 0.0 if remaining < -LAST_WORDS_SECONDS else max(LAST_PATIENCE_SECONDS, remaining / 3)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the end of the period, nor through the stop signal."""
        if self.begun:
            time.sleep(max(0.0, min(seconds, POLL_SECONDS, self.remaining())))
        else:
            wait_readable([self._stop], seconds)
