"""Where executors come from, and which go: from what pools want and what workers can host to what is asked of whom.

Workers host executors by themselves, in all their slots. Beyond that, an autoscaling worker takes a task for each
(``requested``; Celery makes the process, and ends it later), and a prefork worker that may grow is told how many it
shall host (``resized``). Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasker.config.settings import Settings
from tasker.database.pools import PoolMeasures, RequestedExecutor, WorkerCapacity
from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind

ORCHESTRATION = "orchestration"
"""Celery's queue of the workers that host orchestration executors."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An executor that is asked of the workers which consume a Celery queue."""

    kind: str
    namespaces: tuple[str, ...]
    queue: str


@dataclass(slots=True)
class Placement:
    """What is asked of workers.

    Attributes:
        asked: executors that are to come.
        resized: by hostname, how many executors the worker shall host by itself.
        stopped: executors (uuids) that are asked to stop.
    """

    asked: list[Asked] = field(default_factory=list)
    resized: dict[str, int] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Pool:
    """How many more a pool wants (negative: fewer), as the plan is made."""

    kind: str
    queue: str
    more: int


def place(
    pools: Sequence[tuple[PoolMeasures, int]],
    workers: Sequence[WorkerCapacity],
    requested: Sequence[RequestedExecutor],
    settings: Settings,
) -> Placement:
    """What to ask of whom, so that pools get as many executors as they want.

    What is missing of a minimum is not asked for here: the coordinator does that whether or not it scales.

    Args:
        pools: each pool's measures, and how many executors it shall have.
        workers: living workers, and what they can host.
        requested: living executors that were asked for.
        settings: bounds of kinds.
    """
    placement = Placement()
    totals = {measures.kind: measures.executors for measures, _ in pools if not measures.queue}
    for kinds, wanted in (
        ((ExecutorKind.STEP_EXECUTOR.value,), [p for p in _wants(pools, settings) if p.queue]),
        (tuple(kind.value for kind in ORCHESTRATION_KINDS), [p for p in _wants(pools, settings) if not p.queue]),
    ):
        hosts = [worker for worker in workers if _serves(worker, wanted)]
        if any(pool.more > 0 for pool in wanted):
            _grow(placement, wanted, hosts, totals, settings)
        _shrink(placement, wanted, hosts, [each for each in requested if each.kind in kinds])
    return placement


def _wants(pools: Iterable[tuple[PoolMeasures, int]], settings: Settings) -> list[_Pool]:
    wants = []
    for measures, target in pools:
        if measures.kind == ExecutorKind.STEP_EXECUTOR and not measures.queue:
            continue
        least = 0 if measures.queue else settings.executor_pools[measures.kind].min_executors
        there = max(measures.executors, least)  # those that the minimum lacks are on their way
        wants.append(_Pool(measures.kind, measures.queue, target - there))
    return wants


def _namespace(queue: str) -> str:
    return queue.removesuffix("_queue")


def _serves(worker: WorkerCapacity, pools: Iterable[_Pool]) -> list[_Pool]:
    return [pool for pool in pools if (_namespace(pool.queue) if pool.queue else ORCHESTRATION) in worker.queues]


def _grow(
    placement: Placement,
    wanted: Sequence[_Pool],
    hosts: Sequence[WorkerCapacity],
    totals: Mapping[str, int],
    settings: Settings,
) -> None:
    """Give each pool that wants more what hosts have room for, the emptiest host first."""
    room = {host.hostname: host.most_slots - max(host.executor_slots, host.executors) for host in hosts}
    allowed = {kind: settings.executor_pools[kind].max_executors - count for kind, count in totals.items()}
    for pool in sorted(wanted, key=lambda pool: -pool.more):
        while pool.more > 0 and allowed.get(pool.kind, 0) > 0:
            serving = [host for host in hosts if _serves(host, [pool]) and room[host.hostname] > 0 and not host.drained]
            if not serving:
                break
            host = max(serving, key=lambda host: room[host.hostname])
            room[host.hostname] -= 1
            if host.scaling == "resized":
                # It hosts one more for all that it serves.
                placement.resized[host.hostname] = placement.resized.get(host.hostname, host.executor_slots) + 1
                served = _serves(host, wanted)
            else:
                names = tuple(sorted(_namespace(each.queue) for each in _serves(host, wanted) if each.queue))
                queue = _namespace(pool.queue) if pool.queue else ORCHESTRATION
                placement.asked.append(Asked(pool.kind, names, queue))
                served = [each for each in _serves(host, wanted) if pool.queue or each is pool]
            for each in served:
                each.more -= 1
            for kind in {each.kind for each in served}:
                allowed[kind] = allowed.get(kind, 0) - 1


def _shrink(
    placement: Placement,
    wanted: Sequence[_Pool],
    hosts: Sequence[WorkerCapacity],
    requested: Sequence[RequestedExecutor],
) -> None:
    """Let go what no pool wants: first what was asked for, then slots of workers that were made larger."""
    for executor in requested:
        served = [
            pool for pool in wanted if pool.kind == executor.kind and (not pool.queue or pool.queue in executor.queues)
        ]
        if served and all(pool.more < 0 for pool in served):
            placement.stopped.append(executor.executor)
            for pool in served:
                pool.more += 1
    for host in hosts:
        served = _serves(host, wanted)
        if host.scaling != "resized" or host.hostname in placement.resized or not served:
            continue
        surplus = -max(pool.more for pool in served)
        if surplus > 0 and host.executor_slots > 1:
            # The worker itself knows with how many it was started, and goes no lower.
            less = min(surplus, host.executor_slots - 1)
            placement.resized[host.hostname] = host.executor_slots - less
            for pool in served:
                pool.more += less
