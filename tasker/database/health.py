"""What health is judged by, read in one transaction that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from tasker.database import functions
from tasker.database.calls import Call, run
from tasker.database.partitions import open_partitions
from tasker.database.pools import PoolMeasures, pool_measures

STATEMENT_TIMEOUT_MS = 5000
"""Health that takes longer to read is no health: who asks has given up by then."""

COUNTED_MESSAGES = 10_000
"""Messages of one queue that are counted."""


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """What was found.

    Attributes:
        operational_state: what the system says it is doing; ``state_seconds``: since when.
        last_tick_seconds: since the coordinator's last tick; ``None`` before the first.
        series_seconds: since the unbroken series of ticks began that the last one belongs to.
        workers: Celery workers that gave a sign of life in time; of those that host executors, ``drained`` ones.
        pools: every kind of executor, and each queue's step executors.
        circuits: state by name of the circuits that all processes share.
        missing_queues: queues that are registered and are no tables of PGMQ.
        days_ahead: until the open-ended partition of an audit table begins; the least of all.
    """

    operational_state: str
    state_seconds: float
    last_tick_seconds: float | None
    series_seconds: float | None
    workers: int
    drained: int
    pools: tuple[PoolMeasures, ...]
    circuits: Mapping[str, str]
    missing_queues: tuple[str, ...]
    days_ahead: float


def read_facts(connection: psycopg.Connection[Any], *, worker_seconds: float, lost_seconds: float) -> HealthFacts:
    """Read all that health is judged by, in a transaction of its own.

    Args:
        connection: outside a transaction.
        worker_seconds: a worker without a heartbeat for longer is not there.
        lost_seconds: an executor that was lost so recently counts as unhealthy.

    Raises:
        psycopg.Error: the database cannot be asked, or takes too long.
    """
    with connection.transaction():
        run(connection, functions.set_local(statement_timeout=f"{STATEMENT_TIMEOUT_MS}ms"))
        state, since, tick, series, workers, drained, missing = run(connection, _one_row(worker_seconds))
        pools = run(connection, pool_measures(most=COUNTED_MESSAGES, lost_seconds=lost_seconds))
        circuits = run(connection, _circuits())
        now = run(connection, _now())
        days = [(each.starts_at - now).total_seconds() / 86400 for each in open_partitions(connection)]
    return HealthFacts(
        operational_state=state,
        state_seconds=since,
        last_tick_seconds=tick,
        series_seconds=series,
        workers=workers,
        drained=drained,
        pools=pools,
        circuits=circuits,
        missing_queues=tuple(missing),
        days_ahead=min(days, default=0.0),
    )


def _one_row(worker_seconds: float) -> Call[Any]:
    return Call(
        "SELECT o.state, CAST(extract(epoch FROM clock_timestamp() - o.changed_at) AS double precision),"
        " CAST(extract(epoch FROM clock_timestamp() - c.last_tick_at) AS double precision),"
        " CAST(extract(epoch FROM clock_timestamp() - c.series_started_at) AS double precision),"
        " w.living, w.drained, ARRAY(SELECT q.name FROM (SELECT queue AS name FROM tasker.namespaces"
        " UNION ALL SELECT unnest(ARRAY['task_requests_queue', 'orchestration_step_results', 'step_enqueue',"
        " 'task_finalization'])) AS q WHERE to_regclass(format('pgmq.%%I', 'q_' || q.name)) IS NULL)"
        " FROM tasker.operational_state AS o, tasker.coordinator AS c,"
        " (SELECT CAST(count(*) AS integer) AS living, CAST(count(*) FILTER (WHERE drained) AS integer) AS drained"
        "  FROM tasker.workers WHERE heartbeat_at > clock_timestamp() - make_interval(secs => %(seconds)s)) AS w",
        {"seconds": float(worker_seconds)},
        decode=lambda rows: rows[0],
    )


def _circuits() -> Call[Mapping[str, str]]:
    return Call(
        "SELECT name, state FROM tasker.circuit_breakers ORDER BY name", decode=lambda rows: dict(map(tuple, rows))
    )


def _now() -> Call[Any]:
    return Call("SELECT clock_timestamp()", decode=lambda rows: rows[0][0])
