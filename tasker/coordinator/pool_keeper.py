"""``PoolKeeper``: the part of a tick that measures pools, decides how large they shall be, and asks for executors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tasker.config.settings import Settings
from tasker.coordinator.placing import Placement, place
from tasker.coordinator.pools import ExecutorPool
from tasker.database import functions, pools
from tasker.database.calls import Call
from tasker.executors.executor import ExecutorKind

logger = logging.getLogger(__name__)

COUNTED_MESSAGES = 10_000
"""Messages of one queue that are counted: more do not change a decision, pools have a maximum."""


class Ask(Protocol):
    """Makes a call in a transaction of its own, with bounded time."""

    def __call__(self, call: Call[Any], /) -> Any:
        """The answer to ``call``."""
        ...


class RequestExecutors(Protocol):
    """Asks some worker with a free slot for one more executor."""

    def __call__(self, kind: str, namespaces: Sequence[str], *, queue: str, expires_seconds: float) -> None:
        """Ask for an executor of ``kind`` that serves ``namespaces``.

        Args:
            kind: an executor kind.
            namespaces: whose steps it shall run; none for orchestration kinds.
            queue: the Celery queue whose workers are asked.
            expires_seconds: the request is void after this.
        """
        ...


ResizeWorker = Callable[[str, int], None]
"""Tells a worker (its hostname) how many executors it shall host by itself; it keeps to its own bounds."""


class PoolKeeper:
    """Keeps pools at the size that their load asks for.

    Args:
        settings: bounds and rules.
        request_executors: how to ask for executors; ``None``: nobody is asked for any.
        resize_worker: how to tell workers their size; ``None``: workers keep theirs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        request_executors: RequestExecutors | None,
        resize_worker: ResizeWorker | None,
    ) -> None:
        self._settings = settings
        self._request_executors = request_executors
        self._resize_worker = resize_worker
        self._period = float(settings.orchestration.health_check_interval_seconds)

    def keep(self, ask: Ask) -> list[Mapping[str, Any]]:
        """One round; the changes of targets, as they are remembered."""
        ask(pools.pool_count())
        orchestration = self._settings.orchestration
        found = [ExecutorPool(measures, self._settings) for measures in ask(pools.pool_measures(most=COUNTED_MESSAGES))]
        changes: list[Mapping[str, Any]] = []
        if orchestration.auto_scaling_enabled:
            for pool in found:
                if self._is_resident(pool) and pool.is_due(self._period):
                    decision = pool.decide()
                    if decision.direction != "hold":
                        changes.append(pool.record(decision))
        ask(pools.record_scaling([pool.row() for pool in found], changes))
        for change in changes:
            logger.info(
                "Pool %s%s: %d executors instead of %d (%s: %s)",
                change["kind"],
                f" of {change['queue']}" if change["queue"] else "",
                *(change["to_target"], change["from_target"], change["reason"], change["detail"]),
            )
        if orchestration.auto_scaling_enabled:
            self._act(ask, [pool for pool in found if self._is_resident(pool)])
        return changes

    def _is_resident(self, pool: ExecutorPool) -> bool:
        """Whether its executors live in worker slots, and are not drained by beat."""
        return pool.measures.kind == ExecutorKind.STEP_EXECUTOR or self._settings.orchestration.hosting == "resident"

    def _act(self, ask: Ask, found: Sequence[ExecutorPool]) -> None:
        wanted = [(pool.measures, pool.target) for pool in found]
        workers = ask(pools.worker_capacities(3 * self._period))
        placement: Placement = place(wanted, workers, ask(pools.requested_executors()), self._settings)
        if self._request_executors is not None:
            for each in placement.asked:
                self._request_executors(each.kind, each.namespaces, queue=each.queue, expires_seconds=self._period)
        if self._resize_worker is not None:
            for hostname, slots in sorted(placement.resized.items()):
                self._resize_worker(hostname, slots)
        for executor in placement.stopped:
            ask(functions.request_executor_stop({"executor": executor}))
