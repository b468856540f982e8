"""What metrics are made of: one read, and the counting of history that keeps it cheap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tasker.database.calls import Call, Rows, nothing
from tasker.encoding import decode

CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of buckets for calls to the database, in seconds."""

HOLD_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Of how long a finalization claim is held until its task is final: hooks run meanwhile."""

RECOVERY_BOUNDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Of how long a circuit was not closed."""

STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Of how long a step runs."""

WAIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0)
"""Of how long a step waits to run."""

MAX_SERIES = 2000
"""Steps that have a line of their own in one metric; all others share one."""

PATIENCE_SECONDS = 0.2
"""How long counting waits for transactions that are about to end."""

GIVE_UP_SECONDS = 60.0
"""A transaction that has written history and stays open for longer is left out of the metrics."""


@dataclass(frozen=True)
class Counted:
    """What one call did for the totals.

    Attributes:
        counted: whether anything could be counted: it was nobody else's turn, and no transaction was in the way.
        behind: whether there is more to count.
    """

    counted: bool
    behind: bool


@dataclass(frozen=True)
class MetricFigures:
    """What metrics show beside health.

    Attributes:
        totals: of the history, as (metric, labels, value); the last label of a histogram's bucket is its upper bound.
        executors: what executors counted themselves, by their name for it.
        counted_until: up to when history is counted, in seconds since 1970.
        finalization_claims: claims that are held now.
        sessions_in_use: sessions of Tasker's programs that do something now.
        dead_tuples: by table, partitions with their table.
        event_ages: age of the oldest domain event in seconds, by namespace; those without any are left out.
    """

    totals: tuple[tuple[str, tuple[str, ...], float], ...]
    executors: Mapping[str, float]
    counted_until: float
    finalization_claims: int
    sessions_in_use: int
    dead_tuples: Mapping[str, int]
    event_ages: Mapping[str, float]


@dataclass(frozen=True)
class QueueFigures:
    """What waits in one queue.

    Attributes:
        depth: its messages, those that somebody reads at the moment included.
        oldest_seconds: how long ago the oldest was sent; ``None``: there is none.
    """

    depth: int
    oldest_seconds: float | None


def collect_metrics(most_seconds: float = 3600) -> Call[Counted]:
    """Count the history that has come since the last time into the totals.

    Args:
        most_seconds: of the history at once.
    """
    request = {
        "call_bounds": CALL_BOUNDS,
        "hold_bounds": HOLD_BOUNDS,
        "recovery_bounds": RECOVERY_BOUNDS,
        "max_series": MAX_SERIES,
        "patience_seconds": PATIENCE_SECONDS,
        "give_up_seconds": GIVE_UP_SECONDS,
        "most_seconds": most_seconds,
    }
    return Call(
        "SELECT CAST(tasker.collect_metrics(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=lambda rows: Counted(_json(rows)["counted"], _json(rows)["behind"]),
    )


def get_metrics() -> Call[MetricFigures]:
    """Totals, counts of executors, and what the server knows of sessions and tables."""
    return Call("SELECT CAST(tasker.get_metrics() AS text)", decode=lambda rows: _metric_figures(_json(rows)))


def queue_depths() -> Call[dict[str, QueueFigures]]:
    """How much waits in each queue, by its name."""
    return Call(
        "SELECT CAST(tasker.get_system_health_counts() AS text)",
        decode=lambda rows: {name: QueueFigures(**each) for name, each in _json(rows)["queues"].items()},
    )


def reach_pgmq() -> Call[None]:
    """Read the list of queues and look into one: an error says that PGMQ is not there."""
    return Call(
        "SELECT count(*) FROM pgmq.meta"
        " UNION ALL SELECT count(*) FROM (SELECT FROM pgmq.q_task_requests_queue LIMIT 1) AS q",
        decode=nothing,
    )


def _metric_figures(answer: Mapping[str, Any]) -> MetricFigures:
    return MetricFigures(
        totals=tuple((metric, tuple(labels), float(value)) for metric, labels, value in answer["totals"]),
        executors={name: float(value) for name, value in answer["executors"]},
        counted_until=answer["counted_until"],
        finalization_claims=answer["finalization_claims"],
        sessions_in_use=answer["sessions_in_use"],
        dead_tuples=answer["dead_tuples"],
        event_ages=answer["event_ages"],
    )


def _json(rows: Rows) -> Any:
    return decode(rows[0][0])
