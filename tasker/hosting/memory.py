"""A pool process that uses more memory than it may: its executor ends its run, so that Celery replaces the process.

Celery looks when a task ends, and an executor is a task that lasts for minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from billiard.compat import mem_rss

from tasker.executors.stop import StopSignal

FIRST_LOOK_SECONDS = 5.0
"""An executor runs at least for so long: where the limit is below what a process begins with, no work would be done."""

LOOK_SECONDS = 1.0


@contextmanager
def memory_watched(limit_kb: int, first_look_seconds: float = FIRST_LOOK_SECONDS) -> Iterator[StopSignal]:
    """Within the block, the signal that is yielded is set once this process has used more than ``limit_kb``.

    Args:
        limit_kb: ``worker_max_memory_per_child``; measured as Celery does, so that both are of one mind.
        first_look_seconds: no look before that.
    """
    signal = StopSignal()
    over = threading.Event()

    def look() -> None:
        wait = first_look_seconds
        while not over.wait(wait):
            if mem_rss() > limit_kb:
                signal.set()
                return
            wait = LOOK_SECONDS

    thread = threading.Thread(target=look, name="tasker-memory", daemon=True)
    thread.start()
    try:
        yield signal
    finally:
        over.set()
        thread.join()
        signal.close()
