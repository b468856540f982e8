"""Pools of executors, their scaling and their health: the calls of the coordinator, and what others read of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tasker.database.calls import Call, Rows, first_value
from tasker.encoding import decode


@dataclass(frozen=True, slots=True)
class PoolMeasures:
    """What a pool is now.

    Attributes:
        kind: an executor kind.
        queue: the step queue, or empty: all executors of the kind.
        executors: those that live and were not asked to stop; of them ``requested`` by the coordinator.
        starting: how many have not polled yet; ``healthy``, ``degraded``, ``unhealthy``, ``stopping`` likewise.
        idle: how many sleep.
        backlog: messages that wait, counted up to a bound.
        oldest_seconds: age of the oldest; ``None`` when none waits.
        items: what its executors have done, ever, as the last tick counted.
        busy_ms: how long they worked, of the ``executor_ms`` that they lived.
        target: how many the coordinator wants; ``None`` before it said so.
        state: what its scaling policy remembers.
        changed_seconds: since the target changed; ``evaluated_seconds``: since the policy was asked.
        at: when this was read, in seconds since 1970 by the server's clock.
    """

    kind: str
    queue: str = ""
    executors: int = 0
    requested: int = 0
    starting: int = 0
    healthy: int = 0
    degraded: int = 0
    unhealthy: int = 0
    stopping: int = 0
    idle: int = 0
    backlog: int = 0
    oldest_seconds: float | None = None
    items: int = 0
    busy_ms: int = 0
    executor_ms: int = 0
    target: int | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    changed_seconds: float | None = None
    evaluated_seconds: float | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """A change of a pool's target, and why.

    Attributes:
        direction: ``up`` or ``down``.
        reason: one of a closed list, for metrics; ``detail`` says it in words.
        measures: what was measured.
    """

    at: dt.datetime
    kind: str
    queue: str
    direction: str
    from_target: int
    to_target: int
    reason: str
    detail: str | None
    measures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HealthTransition:
    """A change of an executor's health."""

    executor: str
    kind: str
    worker: str
    from_health: str
    to_health: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """A living worker as a host of executors.

    Attributes:
        queues: Celery queues that it consumes.
        executor_slots: executors that it hosts by itself; ``most_slots``: how many it may host.
        scaling: how it comes to host more: ``requested``, ``resized``, ``fixed``.
        drained: it hosts none at present.
        executors: living executors of it (a loop over several kinds counts as one).
    """

    hostname: str
    queues: tuple[str, ...]
    executor_slots: int
    most_slots: int
    scaling: str
    drained: bool
    executors: int


@dataclass(frozen=True, slots=True)
class RequestedExecutor:
    """A living executor that the coordinator asked for."""

    executor: str
    kind: str
    queues: tuple[str, ...]


# -- reading --------------------------------------------------------------------------------------------------


def pool_measures(*, most: int = 1000, lost_seconds: float = 0.0) -> Call[tuple[PoolMeasures, ...]]:
    """All pools: one per kind, and one of step executors for each step queue.

    Args:
        most: messages of one queue that are counted.
        lost_seconds: an executor that was lost so recently counts as unhealthy.
    """
    return Call(
        "SELECT CAST(tasker.pool_measures(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps({"most": most, "lost_seconds": lost_seconds}).decode()},
        decode=lambda rows: tuple(PoolMeasures(**each) for each in _json(rows)),
    )


def scaling_decisions(*, limit: int = 50, kind: str | None = None) -> Call[tuple[ScalingRecord, ...]]:
    """The latest changes of targets, the newest first."""
    return Call(
        "SELECT at, kind, queue, direction, from_target, to_target, reason, detail, CAST(measures AS text)"
        " FROM tasker.scaling_decisions WHERE CAST(%(kind)s AS text) IS NULL OR kind = %(kind)s"
        " ORDER BY id DESC LIMIT CAST(%(quantity)s AS integer)",
        {"kind": kind, "quantity": limit},
        decode=lambda rows: tuple(ScalingRecord(*[*row[:8], decode(row[8])]) for row in rows),
    )


def scaling_event_counts() -> Call[Mapping[tuple[str, str, str], int]]:
    """How many changes of targets are remembered, by kind, direction and reason."""
    return Call(
        "SELECT kind, direction, reason, CAST(count(*) AS integer) FROM tasker.scaling_decisions GROUP BY 1, 2, 3",
        decode=lambda rows: {(kind, direction, reason): count for kind, direction, reason, count in rows},
    )


def health_transition_counts() -> Call[Mapping[tuple[str, str, str], int]]:
    """How many changes of executors' health are remembered, by kind, from and to."""
    return Call(
        "SELECT kind, from_health, to_health, CAST(count(*) AS integer)"
        " FROM tasker.executor_health_transitions GROUP BY 1, 2, 3",
        decode=lambda rows: {(kind, before, after): count for kind, before, after, count in rows},
    )


def worker_capacities(within_seconds: float) -> Call[tuple[WorkerCapacity, ...]]:
    """The workers that gave a sign of life within so many seconds."""
    return Call(
        "SELECT w.hostname, w.queues, w.executor_slots, w.most_slots, w.scaling, w.drained,"
        " CAST((SELECT coalesce(max(k.loops), 0) FROM (SELECT count(*) AS loops FROM tasker.executors AS x"
        " WHERE x.worker = w.hostname AND x.lost_at IS NULL AND NOT x.stop_requested GROUP BY x.kind) AS k) AS integer)"
        " FROM tasker.workers AS w WHERE w.heartbeat_at > clock_timestamp() - make_interval(secs => %(seconds)s)"
        " ORDER BY w.hostname",
        {"seconds": float(within_seconds)},
        decode=lambda rows: tuple(WorkerCapacity(row[0], tuple(row[1]), *row[2:7]) for row in rows),
    )


def requested_executors() -> Call[tuple[RequestedExecutor, ...]]:
    """Living executors that were asked for and are not asked to stop, the newest first."""
    return Call(
        "SELECT CAST(executor AS text), kind, queues FROM tasker.executors"
        " WHERE requested AND NOT stop_requested AND lost_at IS NULL ORDER BY registered_at DESC",
        decode=lambda rows: tuple(RequestedExecutor(executor, kind, tuple(queues)) for executor, kind, queues in rows),
    )


# -- the coordinator's ticks ----------------------------------------------------------------------------------


def pool_count() -> Call[int]:
    """Add what executors did since the last tick to their pools; how many executors there are."""
    return Call("SELECT tasker.pool_count()", decode=first_value)


def record_scaling(pools: Sequence[Mapping[str, Any]], decisions: Sequence[Mapping[str, Any]]) -> Call[int]:
    """Store what was decided; how many decisions. See ``record_scaling.sql`` for the shapes."""
    return Call(
        "SELECT tasker.record_scaling(CAST(%(request)s AS jsonb))",
        {"request": orjson.dumps({"pools": pools, "decisions": decisions}).decode()},
        decode=first_value,
    )


def judge_executors(
    *, stall_seconds: Mapping[str, float], heartbeat_seconds: float, multiplier: float
) -> Call[tuple[HealthTransition, ...]]:
    """Judge all executors by their progress; what changed.

    Args:
        stall_seconds: by kind, how long one may neither poll nor work.
        heartbeat_seconds: time between two heartbeats.
        multiplier: of both.
    """
    request = {"stall_seconds": stall_seconds, "heartbeat_seconds": heartbeat_seconds, "multiplier": multiplier}
    return Call(
        "SELECT CAST(tasker.judge_executors(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=lambda rows: tuple(
            HealthTransition(each["executor"], each["kind"], each["worker"], each["from"], each["to"], each["reason"])
            for each in _json(rows)["changes"]
        ),
    )


def _json(rows: Rows) -> Any:
    return decode(rows[0][0])
