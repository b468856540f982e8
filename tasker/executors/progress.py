"""Whether an executor gets on, by its own clock: when it last asked its queues, when it last worked, for how long."""

from __future__ import annotations

import time
from collections.abc import Callable

from tasker.config.settings import Settings

STALL_PERIODS = 3
"""An executor that asks its queues so many times less often than it should has stalled."""


def stall_seconds(settings: Settings, kind: str) -> float:
    """How long an executor of ``kind`` may neither ask its queues nor work until it has stalled.

    It asks at least once per ``max_polling_interval_ms``; one drain of an orchestration executor may take as long as
    its ``processing_timeout_ms`` without being stuck.
    """
    pool = settings.executor_pools[kind]
    period = max(settings.orchestration.health_check_interval_seconds, pool.max_polling_interval_ms / 1000)
    drain = getattr(pool, "processing_timeout_ms", 0) / 1000
    return max(STALL_PERIODS * period, 1.5 * drain)


class Progress:
    """Written by the loop's thread, read by the heartbeat's; each member is one number.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = clock()
        self._polled_at: float | None = None
        self._worked_at: float | None = None
        self._drain_began_at: float | None = None
        self._busy_seconds = 0.0
        self.is_unfit = False
        """It stalled and was told so: it shall end, unless it gets on after all."""

    def polled(self) -> None:
        """Its queues answered."""
        self._polled_at = self._clock()
        self.is_unfit = False

    def began(self) -> None:
        """A drain begins."""
        self._drain_began_at = self._clock()

    def ended(self, taken: int) -> None:
        """The drain ended, having taken so much."""
        now = self._clock()
        began_at = self._drain_began_at
        self._drain_began_at = None
        if taken:
            self._worked_at = now
            self._busy_seconds += 0.0 if began_at is None else now - began_at

    def worked(self) -> None:
        """It works at this moment."""
        self._worked_at = self._clock()

    @property
    def drain_seconds(self) -> float | None:
        """How long the present drain has taken; ``None`` outside of one."""
        began_at = self._drain_began_at
        return None if began_at is None else self._clock() - began_at

    @property
    def polled_in_drain(self) -> bool:
        """Whether the present drain has asked and got an answer."""
        began_at, polled_at = self._drain_began_at, self._polled_at
        return began_at is not None and polled_at is not None and polled_at >= began_at

    def busy_ms(self, works: bool) -> int:
        """How long all drains took that found something, also the present one if it ``works``."""
        present = self.drain_seconds if works else None
        return round((self._busy_seconds + (present or 0.0)) * 1000)

    def silence(self) -> dict[str, float | None]:
        """For the heartbeat: seconds since it last polled and worked; ``None``: never."""
        now = self._clock()
        return {
            "poll_seconds": None if self._polled_at is None else max(0.0, now - self._polled_at),
            "work_seconds": None if self._worked_at is None else max(0.0, now - self._worked_at),
        }

    def silent_seconds(self) -> float:
        """Seconds since it last polled or worked, or was made."""
        return self._clock() - max(self._began_at, self._polled_at or 0.0, self._worked_at or 0.0)
