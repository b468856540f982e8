"""Calls of the coordinator and of the Celery workers that host executors: ticks, registrations, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tasker.database.calls import Call, Rows, first_value, nothing
from tasker.encoding import decode


@dataclass(frozen=True)
class Consumed:
    """What a living worker consumes.

    Attributes:
        hostname: Celery's name of the worker.
        queues: names of the Celery queues.
        age_seconds: how long ago it started.
    """

    hostname: str
    queues: tuple[str, ...]
    age_seconds: float


# -- ticks ----------------------------------------------------------------------------------------------------


def begin_tick(period_seconds: float) -> Call[bool]:
    """Whether the caller may tick now; the right ends with its transaction."""
    return Call(
        "SELECT tasker.begin_tick(CAST(%(period_seconds)s AS double precision))",
        {"period_seconds": period_seconds},
        decode=first_value,
    )


def record_tick(by_whom: str, period_seconds: float) -> Call[None]:
    """Record that a tick ended."""
    return Call(
        "SELECT tasker.record_tick(%(by_whom)s, CAST(%(period_seconds)s AS double precision))",
        {"by_whom": by_whom, "period_seconds": period_seconds},
        decode=nothing,
    )


def seconds_since_tick() -> Call[float | None]:
    """Seconds since the last tick ended; ``None`` before the first."""
    return Call(
        "SELECT CAST(extract(epoch FROM clock_timestamp() - last_tick_at) AS double precision) FROM tasker.coordinator",
        decode=first_value,
    )


def resend_finalizations(limit: int) -> Call[int]:
    """Send again for tasks whose after-work nobody does; how many."""
    return Call(
        "SELECT tasker.resend_finalizations(CAST(%(quantity)s AS integer))", {"quantity": limit}, decode=first_value
    )


def tend_transport() -> Call[int]:
    """Housekeeping of the Celery transport; how many messages of dead readers returned to their queues."""
    return Call("SELECT tasker.celery_tend()", decode=first_value)


# -- workers --------------------------------------------------------------------------------------------------


def worker_heartbeat(
    *,
    hostname: str,
    pid: int,
    pool: str,
    concurrency: int,
    queues: Sequence[str],
    executor_slots: int = 0,
    most_slots: int = 0,
    scaling: str = "fixed",
    drained: bool = False,
) -> Call[tuple[str, ...]]:
    """Say that a Celery worker lives, and what it can host (see ``WorkerCapacity``); the namespaces there are."""
    request = {
        "hostname": hostname,
        "pid": pid,
        "pool": pool,
        "concurrency": concurrency,
        "queues": list(queues),
        "executor_slots": executor_slots,
        "most_slots": most_slots,
        "scaling": scaling,
        "drained": drained,
    }
    return Call(
        "SELECT CAST(tasker.worker_heartbeat(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=lambda rows: tuple(_json(rows)["namespaces"]),
    )


def deregister_worker(hostname: str, pid: int) -> Call[None]:
    """Say that a Celery worker ended."""
    return Call(
        "SELECT tasker.deregister_worker(%(hostname)s, CAST(%(pid)s AS integer))",
        {"hostname": hostname, "pid": pid},
        decode=nothing,
    )


def prune_registrations(keep_seconds: float, limit: int = 1000) -> Call[dict[str, Any]]:
    """Delete rows of workers and waiters that are gone: ``{workers, waiters}``."""
    return Call(
        "SELECT CAST(tasker.prune_registrations(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps({"keep_seconds": keep_seconds, "limit": limit}).decode()},
        decode=_json,
    )


def namespaces() -> Call[tuple[str, ...]]:
    """The namespaces there are."""
    return Call("SELECT name FROM tasker.namespaces ORDER BY name", decode=lambda rows: tuple(name for (name,) in rows))


def count_executors(lease_seconds: float) -> Call[Mapping[str, int]]:
    """How many executors of each kind gave a sign of life within the lease."""
    return Call(
        "SELECT kind, CAST(count(*) AS integer) FROM tasker.executors WHERE lost_at IS NULL"
        " AND heartbeat_at > clock_timestamp() - make_interval(secs => %(lease_seconds)s) GROUP BY kind",
        {"lease_seconds": float(lease_seconds)},
        decode=lambda rows: dict(tuple(row) for row in rows),
    )


def living_workers(within_seconds: float) -> Call[tuple[Consumed, ...]]:
    """The workers that gave a sign of life within so many seconds, and what they consume."""
    return Call(
        "SELECT hostname, queues, CAST(extract(epoch FROM clock_timestamp() - started_at) AS double precision)"
        " FROM tasker.workers"
        " WHERE heartbeat_at > clock_timestamp() - make_interval(secs => %(within_seconds)s) ORDER BY hostname",
        {"within_seconds": float(within_seconds)},
        decode=lambda rows: tuple(Consumed(hostname, tuple(queues), age) for hostname, queues, age in rows),
    )


def _json(rows: Rows) -> Any:
    return decode(rows[0][0])
