"""The share of pruning that one tick does: little enough that nobody notices, often enough that nothing piles up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import psycopg
from psycopg import errors as pg_errors

from tasker.config.settings import Settings
from tasker.database import functions, retention
from tasker.database.calls import Call, run
from tasker.database.partitions import drop_partitions
from tasker.errors import TaskerError

SHARE_OF_PERIOD = 0.2
"""A tick prunes for this part of its period, so that a backlog of any size costs one session a fifth of its time."""

LONGEST_SHARE_SECONDS = 2.0

LOOKS_PER_TICK = 50_000
"""Old tasks that stay cost no more than so many looks; the next tick goes on behind them."""

FRONT_SECONDS = 3600.0
"""So often the walk begins with the oldest task there is; else with the oldest one that it left the last time. In
between may lie millions of rows that were removed and, while somebody holds a snapshot, cannot be vacuumed."""

RETRY_SECONDS = 300.0
"""After partitions could not be dropped."""

PARTITIONS_PER_TICK = 3
PARTITION_WAIT_SECONDS = 2.0
_STATEMENT_TIMEOUT_MS = 5_000
_LOCK_TIMEOUT_MS = 200


class Report(Protocol):
    """Where the tick tells what it removed."""

    pruned: dict[str, int]
    """How many, by kind."""


class RetentionShare:
    """Removes a bounded part of what is too old; where it stopped stands in the coordinator's row.

    Args:
        settings: how long is kept what is over.
        clock: seconds since the epoch, as all who tick count them.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        kept = settings.database.retention
        self._task_seconds = kept.finished_task_days * retention.DAY_SECONDS or None
        self._audit_days = kept.audit_days or None
        self._archive_seconds = settings.pgmq.archive_retention_seconds or None
        self._event_seconds = settings.pgmq.event_retention_seconds or None
        period = float(settings.orchestration.health_check_interval_seconds)
        self._seconds = min(LONGEST_SHARE_SECONDS, SHARE_OF_PERIOD * period)
        self._clock = clock

    def take(self, connection: psycopg.Connection[Any], report: Report) -> None:
        """Do one tick's share, and add to the report how much went.

        Args:
            connection: in autocommit mode; each batch is a transaction of its own.
            report: gets ``tasks``, ``steps``, ``archived_messages``, ``domain_events``,
                ``partitions``, and other rows by their table.

        Raises:
            TaskerError: partitions that are due could not be dropped; all else was done.
            psycopg.Error: the database refused something.
        """
        deadline = time.monotonic() + self._seconds
        before = run(connection, retention.progress())
        progress = dict(before)
        went: dict[str, int] = {}
        try:
            if self._task_seconds is not None:
                progress["tasks"] = self._tasks(connection, progress.get("tasks", {}), went, deadline)
            self._history(connection, went)
            if self._archive_seconds is not None:
                answer = _batch(
                    connection, retention.prune_archives(self._archive_seconds, after=progress.get("queue"))
                )
                progress["queue"] = None if answer.is_end else answer.last
                went["archived_messages"] = answer.messages
            if self._event_seconds is not None:
                progress["events"] = self._events(connection, progress.get("events"), went)
            if self._audit_days is not None and self._clock() >= progress.get("partitions_at", 0.0):
                # Until it went well: a dump may hold the tables for hours.
                progress["partitions_at"] = self._clock() + RETRY_SECONDS
                dropped = drop_partitions(
                    connection,
                    keep_days=self._audit_days,
                    limit=PARTITIONS_PER_TICK,
                    wait_seconds=PARTITION_WAIT_SECONDS,
                )
                del progress["partitions_at"]
                went["partitions"] = len(dropped)
        except pg_errors.InsufficientPrivilege as error:
            raise TaskerError(
                f"this login may not prune: {error}",
                hint="drop old audit partitions as the owner of the schema: `tasker db prune`",
            ) from error
        finally:
            report.pruned |= {name: count for name, count in went.items() if count}
            if progress != before and not connection.closed:
                run(connection, retention.record_progress(progress))

    def _tasks(
        self, connection: psycopg.Connection[Any], walk: dict[str, Any], went: dict[str, int], deadline: float
    ) -> dict[str, Any]:
        """Walk on for a while. How far it came: ``after`` which task to go on, and which this round ``kept`` first."""
        assert self._task_seconds is not None
        after = None if walk.get("after") is None else UUID(walk["after"])
        kept = None if walk.get("kept") is None else UUID(walk["kept"])
        front_at = float(walk.get("front_at", 0.0))
        stopped = after
        if not 0 <= self._clock() - front_at < FRONT_SECONDS:
            after, kept, front_at = None, None, self._clock()
        looked = 0
        while True:
            try:
                answer = _batch(connection, retention.prune_tasks(self._task_seconds, after=after))
            except (pg_errors.QueryCanceled, pg_errors.LockNotAvailable, pg_errors.DeadlockDetected):
                # Too many dead rows at the front, or somebody holds a row for long: not from there, and not now.
                after = after or stopped
                break
            went["tasks"] = went.get("tasks", 0) + answer.tasks
            went["steps"] = went.get("steps", 0) + answer.steps
            looked += answer.looked
            after, kept = answer.last or after, kept or answer.first_kept
            if answer.is_end:
                # The next round begins with what this one left.
                after, kept = (after if kept is None else UUID(int=max(kept.int - 1, 0))), None
                break
            if looked >= LOOKS_PER_TICK or time.monotonic() >= deadline:
                break
        return {
            "after": None if after is None else str(after),
            "kept": None if kept is None else str(kept),
            "front_at": front_at,
        }

    def _events(self, connection: psycopg.Connection[Any], after: str | None, went: dict[str, int]) -> str | None:
        """Go on with queues of domain events for a share of its own: nobody may read them. Behind which to go on."""
        assert self._event_seconds is not None
        deadline = time.monotonic() + self._seconds
        while True:
            answer = _batch(connection, retention.prune_events(self._event_seconds, after=after))
            went["domain_events"] = went.get("domain_events", 0) + answer.messages
            if answer.is_end:
                return None
            after = answer.last
            if time.monotonic() >= deadline:
                return after

    def _history(self, connection: psycopg.Connection[Any], went: dict[str, int]) -> None:
        audit_seconds = None if self._audit_days is None else self._audit_days * retention.DAY_SECONDS
        if self._task_seconds is not None or audit_seconds is not None:
            went |= _batch(connection, retention.prune_history(self._task_seconds, audit_seconds))


def _batch(connection: psycopg.Connection[Any], call: Call[Any]) -> Any:
    with connection.transaction():
        run(
            connection,
            functions.set_local(
                statement_timeout=f"{_STATEMENT_TIMEOUT_MS}ms",
                lock_timeout=f"{_LOCK_TIMEOUT_MS}ms",
                idle_in_transaction_session_timeout=f"{_STATEMENT_TIMEOUT_MS}ms",
            ),
        )
        return run(connection, call)
