"""Ticking where no beat does: every process that hosts orchestration executors watches for missing ticks."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tasker.database import coordination
from tasker.database.calls import run
from tasker.executors.wake import wait_readable

if TYPE_CHECKING:
    from tasker.core import OrchestrationCore
    from tasker.hosting.host import WorkerHost

logger = logging.getLogger(__name__)

MISSED_PERIODS = 2
JITTER = 0.2

_lock = threading.Lock()
_watching: set[tuple[int, str]] = set()  # process and worker, as the pool's processes inherit the set


def watch_ticks(core: OrchestrationCore, host: WorkerHost, tick: Callable[[], object]) -> None:
    """Watch, on a thread of this process, until the worker stops; does nothing if it does already.

    Args:
        core: this process's.
        host: the worker.
        tick: called when no tick ended for two periods. That other processes find out at the same time does no harm.
    """
    with _lock:
        key = (os.getpid(), host.hostname)
        if key in _watching:
            return
        _watching.add(key)
    threading.Thread(target=_watch, args=(core, host, tick), name="tasker-tick-watch", daemon=True).start()


def _watch(core: OrchestrationCore, host: WorkerHost, tick: Callable[[], object]) -> None:
    period = float(core.settings.orchestration.health_check_interval_seconds)
    while not wait_readable([host.stop], period * random.uniform(1 - JITTER, 1 + JITTER)):
        try:
            with core.database.connection() as connection:
                age = run(connection, coordination.seconds_since_tick())
            if age is None or age > MISSED_PERIODS * period:
                tick()
        except Exception as error:  # the next round may do better, and nobody is there to catch it
            if not host.stop.is_set():
                logger.warning("Looking after the coordinator's ticks failed: %s: %s", type(error).__name__, error)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
