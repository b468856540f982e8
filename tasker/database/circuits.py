"""Circuits as they stand in the database: for those who look, and for the processes that share them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from tasker.database import functions
from tasker.database.calls import Call, run
from tasker.database.connection import Database

T = TypeVar("T")

ACQUIRE_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
"""Circuits go on without the database, so nobody waits long for it on their account."""

_WAIT = (
    "CASE WHEN coalesce(c.retry_at, c.probe_until) IS NOT NULL THEN"
    " CAST(greatest(extract(epoch FROM coalesce(c.retry_at, c.probe_until) - tasker.now()), 0) AS double precision) END"
)


@dataclass(frozen=True)
class CircuitRecord:
    """The circuit of an external system.

    Attributes:
        name: of the system.
        state: ``closed``, ``open`` or ``half_open``.
        forced: whether an operator opened it, so that it does not close by itself.
        failures: failures since the last success.
        failure_threshold: failures in a row that open it.
        success_threshold: successes in a row of calls that were let through, which close it.
        timeout_seconds: how long it stays open before one call may try again.
        opened_at: since when it is not closed.
        retry_after_seconds: how long until a call may try, or another one may.
        parked: steps that wait for it, counted up to 10,000.
        reason: why it is as it is.
        changed_by: who changed it last.
        changed_at: when.
    """

    name: str
    state: str
    forced: bool
    failures: int
    failure_threshold: int
    success_threshold: int
    timeout_seconds: float
    opened_at: dt.datetime | None
    retry_after_seconds: float | None
    parked: int
    reason: str | None
    changed_by: str | None
    changed_at: dt.datetime


def circuits() -> Call[tuple[CircuitRecord, ...]]:
    """All circuits that were ever used or set, by name."""
    return Call(
        "SELECT c.name, c.state, c.forced, c.failures, c.failure_threshold, c.success_threshold, c.timeout_seconds,"
        f" c.opened_at, {_WAIT},"
        " (SELECT count(*) FROM (SELECT FROM tasker.step_timers AS w"
        " WHERE w.key = 'circuit:' || c.name AND w.kind = 'circuit' LIMIT 10000) AS p),"
        " c.reason, c.changed_by, c.changed_at"
        " FROM tasker.circuit_breakers AS c ORDER BY c.name",
        decode=lambda rows: tuple(CircuitRecord(*row) for row in rows),
    )


def troubled() -> Call[dict[str, dict[str, Any]]]:
    """By name, what is to be known of the circuits that are not closed or have failures."""
    return Call(
        f"SELECT c.name, c.state, c.forced, c.failures, {_WAIT}"
        " FROM tasker.circuit_breakers AS c WHERE c.state <> 'closed' OR c.failures > 0",
        decode=lambda rows: {
            name: {"state": state, "forced": forced, "failures": failures, "retry_after_seconds": seconds}
            for name, state, forced, failures, seconds in rows
        },
    )


def probes_among(steps: Sequence[Mapping[str, Any]]) -> Call[set[tuple[str, int, int]]]:
    """Task, position and map index of those attempts that began after their circuit had opened, and it is half open.

    Only calls that a half-open circuit lets through begin then. Each of ``steps`` is ``{task_uuid, position,
    map_index, circuit}``.
    """
    return Call(
        "SELECT CAST(k.task_uuid AS text), k.position, k.map_index"
        " FROM jsonb_to_recordset(CAST(%(steps)s AS jsonb))"
        " AS k(task_uuid uuid, position integer, map_index integer, circuit text)"
        " CROSS JOIN LATERAL (SELECT x.started_at FROM tasker.workflow_steps AS x WHERE x.task_uuid = k.task_uuid"
        " AND x.position = k.position AND x.map_index = k.map_index OFFSET 0) AS s"
        " JOIN tasker.circuit_breakers AS c ON c.name = k.circuit"
        " WHERE c.state = 'half_open' AND s.started_at >= c.opened_at",
        {"steps": orjson.dumps(list(steps)).decode()},
        decode=lambda rows: {(row[0], row[1], row[2]) for row in rows},
    )


class DatabaseLedger:
    """Keeps the circuits that all processes share: a ``CircuitLedger``.

    Every call takes a connection of the pool, and fails with what the driver raises when there is none in time.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count what calls came to."""
        return self._run(functions.report_circuit(request))

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Whether a call may go through a circuit that is not closed."""
        return self._run(functions.ask_circuit(request))

    def change(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Open, close or reset by hand."""
        return self._run(functions.set_circuit(request))

    def states(self) -> Mapping[str, Mapping[str, Any]]:
        """By name, all circuits that are not closed or have failures."""
        return self._run(troubled())

    def _run(self, call: Call[T]) -> T:
        with self._database.connection(ACQUIRE_SECONDS, patience_seconds=PATIENCE_SECONDS) as connection:
            return run(connection, call)
