"""What is seen of a soak at a moment: processes from outside, the rest from the database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg

from benchmarks.meters import cpu_seconds, tree
from benchmarks.reading import percentile

HISTORY = (
    "task_transitions",
    "workflow_step_transitions",
    "finalization_attempts",
    "executor_health_transitions",
    "scaling_decisions",
    "circuit_transitions",
    "operational_state_transitions",
)
"""Tables that are kept for days: in a soak of hours they grow with every task, and nothing of them goes."""

# The bytes, live and dead rows of each table and queue; partitions count with their table.
_TABLES = """
    SELECT n.nspname || '.' || r.relname, CAST(sum(coalesce(pg_total_relation_size(c.oid), 0)) AS bigint),
           CAST(sum(coalesce(s.n_live_tup, 0)) AS bigint), CAST(sum(coalesce(s.n_dead_tup, 0)) AS bigint)
    FROM pg_class AS c
    JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
    JOIN pg_namespace AS n ON n.oid = r.relnamespace
    LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
    WHERE n.nspname IN ('tasker', 'pgmq') AND c.relkind = 'r'
    GROUP BY 1 ORDER BY 1
"""
_COUNTS = """
    SELECT (SELECT count(*) FROM tasker.tasks) AS tasks,
           (SELECT count(*) FROM tasker.tasks WHERE finalized_at IS NULL) AS open_tasks,
           (SELECT count(*) FROM tasker.workflow_steps) AS steps,
           (SELECT count(*) FROM tasker.dead_letters) AS dead_letters,
           (SELECT ticks FROM tasker.coordinator) AS ticks,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections
"""
_EXECUTORS = "SELECT kind, count(*) FROM tasker.executors WHERE lost_at IS NULL GROUP BY kind ORDER BY kind"
_ENDED = """
    SELECT d.name, extract(epoch FROM t.finished_at - t.created_at)
    FROM tasker.tasks AS t JOIN tasker.named_tasks AS d USING (named_task_id)
    WHERE t.finished_at >= to_timestamp(%(since)s) AND t.finished_at < to_timestamp(%(until)s)
"""
_PERCENTS = (50, 95, 99)
CLIENT = "client"
"""The role of this process, alone: an embedded server is a child of it."""


@dataclass(frozen=True)
class Sizes:
    """Bytes, live rows and dead rows, as PostgreSQL estimates them."""

    bytes: int
    live: int
    dead: int


@dataclass(frozen=True)
class Look:
    """What was seen at one moment; a window reaches from the look before to this one.

    Attributes:
        at: seconds since the soak began.
        created: tasks created so far.
        finished: tasks that finished within the window.
        seconds: the window's length.
        latency: milliseconds from created to finished of those that finished within the window, by workflow and, of
            all of them, as ``all``: the percentiles 50, 95 and 99.
        counts: tasks, open_tasks (not final yet), steps, dead_letters, ticks, connections.
        executors: that live, by kind.
        memory: resident bytes of each process, by role and process id.
        private: bytes that are a role's alone (USS), by role.
        cpu: CPU seconds so far, by role; the client's are not counted.
        tables: sizes, by ``schema.table``.
        load: the machine's, over a minute.
    """

    at: float
    created: int
    finished: int
    seconds: float
    latency: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, int]
    executors: Mapping[str, int]
    memory: Mapping[str, Mapping[int, int]]
    private: Mapping[str, int]
    cpu: Mapping[str, float]
    tables: Mapping[str, Sizes]
    load: float

    @property
    def state_bytes(self) -> int:
        """Of Tasker's tables, except for the history."""
        return sum(size.bytes for name, size in self.tables.items() if is_state(name))

    @property
    def queue_bytes(self) -> int:
        """Of queues and their archives, Celery's included."""
        return sum(size.bytes for name, size in self.tables.items() if name.startswith("pgmq."))

    @property
    def history_bytes(self) -> int:
        """Of the history."""
        return sum(size.bytes for name, size in self.tables.items() if is_history(name))

    @property
    def dead_rows(self) -> int:
        """Rows of tables and queues that wait for vacuum."""
        return sum(size.dead for size in self.tables.values())


def is_history(table: str) -> bool:
    """Whether a table is one of those that only grow until their partitions are dropped."""
    return table.removeprefix("tasker.") in HISTORY


def is_state(table: str) -> bool:
    """Whether a table is Tasker's and holds what is, not what was."""
    return table.startswith("tasker.") and not is_history(table)


class Looker:
    """Looks again and again, over a connection of its own.

    Args:
        connection: in autocommit mode.
        roles: the first process of each role.
    """

    def __init__(self, connection: psycopg.Connection[Any], roles: Mapping[str, int]) -> None:
        self._connection = connection
        self._roles = roles
        self._began = self._last = time.time()

    def look(self, created: int) -> Look:
        """Look once; ``created`` tasks have been created so far."""
        now, load = time.time(), psutil.getloadavg()[0]
        ended = self._rows(_ENDED, {"since": self._last, "until": now})
        waits: dict[str, list[float]] = {"all": [float(wait) * 1000 for _, wait in ended]}
        for name, wait in ended:
            waits.setdefault(name, []).append(float(wait) * 1000)
        processes = {role: _processes(role, pid) for role, pid in self._roles.items()}
        seen = Look(
            at=round(now - self._began, 2),
            created=created,
            finished=len(ended),
            seconds=round(now - self._last, 3),
            latency={
                name: tuple(round(percentile(each, percent), 1) for percent in _PERCENTS)
                for name, each in sorted(waits.items())
                if each
            },
            counts=self._counts(),
            executors={kind: int(count) for kind, count in self._rows(_EXECUTORS)},
            memory={role: _resident(each) for role, each in processes.items()},
            private={role: _private(each) for role, each in processes.items()},
            cpu={role: round(cpu_seconds([pid]), 2) for role, pid in self._roles.items() if role != CLIENT},
            tables={name: Sizes(*map(int, sizes)) for name, *sizes in self._rows(_TABLES)},
            load=round(load, 2),
        )
        self._last = now
        return seen

    def _counts(self) -> dict[str, int]:
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute(_COUNTS.encode()).fetchone()
        assert row is not None
        return {name: int(value) for name, value in row.items()}

    def _rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        return self._connection.execute(query.encode(), parameters).fetchall()


def _processes(role: str, root: int) -> list[psutil.Process]:
    return [psutil.Process(root)] if role == CLIENT else tree([root])


def _resident(processes: Sequence[psutil.Process]) -> dict[int, int]:
    found: dict[int, int] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found[process.pid] = process.memory_info().rss
    return found


def _private(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss
    return total
