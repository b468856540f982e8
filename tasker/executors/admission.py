"""When new tasks start, wait or are refused: measured by whoever admits tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tasker.config.settings import Settings
from tasker.database import functions
from tasker.database.calls import Call

EVERY_SECONDS = 2.0
"""Between two measures, by all processes together."""

SHARE = 0.05
"""Of one process's time that measuring may take: where there is very much to count, it is counted less often."""


class AdmissionControl:
    """Measures from time to time how much there is to do; the SQL core decides by it.

    Args:
        settings: the limits, each of which may be switched off.
    """

    def __init__(self, settings: Settings) -> None:
        orchestration, system = settings.orchestration, settings.system
        backpressure = orchestration.backpressure
        limits = {
            "soft_queue_depth": backpressure.soft_queue_depth,
            "hard_queue_depth": backpressure.hard_queue_depth,
            "max_oldest_message_seconds": backpressure.max_oldest_message_seconds,
            "max_concurrent_tasks": system.max_concurrent_tasks,
            "max_concurrent_steps": system.max_concurrent_steps,
            "max_pool_usage": orchestration.max_db_pool_usage if orchestration.max_db_pool_usage < 1 else 0,
        }
        self._request: dict[str, Any] = {name: limit for name, limit in limits.items() if limit}
        self._request |= {"every_seconds": EVERY_SECONDS, "retry_after_seconds": backpressure.retry_after_seconds}
        self._next = 0.0

    def measure(self, call: Callable[[Call[Any]], Any]) -> float | None:
        """Measure if it is time; in how many seconds to look again although nothing else happens.

        Args:
            call: executes a call in a transaction of its own, and returns its answer.
        """
        began = time.monotonic()
        if began < self._next:
            return self._next - began
        answer = call(functions.measure_admission(self._request))
        ended = time.monotonic()
        self._next = ended + max(EVERY_SECONDS, (ended - began) / SHARE)
        again: float | None = answer["next_seconds"]
        return None if again is None else max(again, self._next - ended)
