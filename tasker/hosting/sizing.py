"""How many executors a worker hosts by itself, and changing that while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from tasker.hosting.host import WorkerHost
from tasker.hosting.pools import PREFORK, size_of

logger = logging.getLogger(__name__)


class WorkerSize:
    """Grows and shrinks the pool of a prefork worker, between what it was started with and what the settings allow.

    It does what ``control pool_grow`` and ``pool_shrink`` do, in an order in which no step loses an attempt: to shrink,
    the worker first hosts fewer executors, which asks those that run to yield; processes go when they have nothing to
    do. A pool of threads cannot grow, and an autoscaling one is Celery's to size.

    ``_lock`` owns ``_owed`` and the sizes in ``host``: remote control and the registration's thread change them.

    Args:
        host: the worker.
        consumer: Celery's consumer.
        most: most executors that it may host; at or below what it was started with, its size is fixed.
        spare: how many slots executors leave to ordinary tasks, as long as one remains to them.
        adapt: gives the slots their roles anew.
    """

    def __init__(self, host: WorkerHost, consumer: Any, *, most: int, spare: int, adapt: Callable[[], None]) -> None:
        self._host = host
        self._consumer = consumer
        self._spare = spare
        self._adapt = adapt
        self._lock = threading.RLock()
        self._started_with = host.executor_slots
        self._most = max(most, self._started_with)
        self._owed = 0
        if host.pool == PREFORK:
            # Celery's would refuse half-way, as soon as it comes to a process that runs an executor.
            self._shrink, consumer.pool.shrink = consumer.pool.shrink, self.shrink

    @property
    def scaling(self) -> str:
        """How the worker comes to host more: ``requested`` (autoscaling), ``resized``, or ``fixed``."""
        if self._host.pool != PREFORK:
            return "fixed"
        if self._consumer.controller.autoscaler is not None:
            return "requested"
        return "resized" if self._most > self._started_with else "fixed"

    @property
    def most(self) -> int:
        """Most executors that it may host."""
        autoscaler = self._consumer.controller.autoscaler
        if self.scaling == "requested":
            return max(self._host.executor_slots, int(autoscaler.max_concurrency) - self._host.spare_slots)
        return max(self._most if self.scaling == "resized" else 0, self._host.executor_slots)

    def follow(self) -> None:
        """See whether somebody else has made the pool larger or smaller, and host so many executors more or less."""
        if self._host.pool == PREFORK:
            with self._lock:
                self._host.resize(size_of(self._consumer.controller) - self._owed, self._spare)

    def capacity(self) -> dict[str, Any]:
        """What its row says of it as a host."""
        return {
            "executor_slots": len(self._host.roles),
            "most_slots": self.most if self._host.roles else 0,
            "scaling": self.scaling,
            "drained": self._host.yields.drained,
        }

    def set(self, executors: int) -> int:
        """Host so many executors, as far as the bounds allow; how many that are. In the worker's main loop."""
        if self.scaling != "resized":
            return self._host.executor_slots
        with self._lock:
            wanted = min(max(executors, self._started_with), self._most)
            more = wanted + self._spare - self._left()
            if more > 0:
                # Processes that were to go stay.
                kept = min(more, self._owed)
                self._owed -= kept
                if more > kept:
                    self._consumer.pool.grow(more - kept)
            else:
                self._owed -= more
            self._host.resize(self._left(), self._spare)
        if more:
            self._consumer._update_prefetch_count(more)
            logger.info("Worker %s is to host %d executors", self._host.hostname, wanted)
            self._adapt()
        return wanted

    def shrink(self, processes: int = 1) -> None:
        """Take processes from the pool: those that do nothing now, others when executors have left them.

        Args:
            processes: how many.

        Raises:
            ValueError: there are not so many, or an autoscaling pool's are all busy.
        """
        if self.scaling == "requested":
            self._shrink(processes)  # Celery tries again by itself
            return
        with self._lock:
            left = self._left()
            if not 0 < processes < left:
                raise ValueError(f"cannot take {processes} of {left} processes: one goes at least, and one stays")
            self._owed += processes
        self.tend()

    def tend(self) -> None:
        """Let processes go that are too many and have nothing to do. In the worker's main loop, again and again."""
        with self._lock:
            going = min(self._owed, _idle_processes(self._consumer.pool)) if self._owed else 0
            if going:
                self._owed -= going
                self._shrink(going)

    def _left(self) -> int:
        """How many processes the pool has, without those that are to go."""
        return int(self._consumer.pool.num_processes) - self._owed


def _idle_processes(pool: Any) -> int:
    """How many processes of a prefork pool run no task; none while some are on their way out, or are given one.

    Celery would take the former once more and count them as others, and the latter as if they had nothing to do.
    """
    processes = pool._pool
    leaving = any(process._controlled_termination for process in tuple(processes._pool))
    given = any(job._write_to is not None and not job._accepted for job in tuple(processes._cache.values()))
    return 0 if leaving or given else sum(1 for _ in processes._iterinactive())
