"""What is over and too old: how to remove it in bounded batches, and how to count it without touching anything."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import orjson
import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from tasker.database import functions
from tasker.database.calls import Call, Rows, first_value, nothing, run
from tasker.database.partitions import OldPartition, drop_partitions, old_partitions
from tasker.encoding import decode

T = TypeVar("T")

DAY_SECONDS = 86_400.0

BATCH_TASKS = 500
"""Most tasks that one call removes: 50 to 100 ms of work, and as long are they held."""

BATCH_STEPS = 5_000
"""After so many steps a batch is full, however few its tasks are."""

BATCH_LOOKS = 10_000
"""Most tasks that one call looks at."""

BATCH_ROWS = 1_000
"""Most dead letters, messages and rows of a history that one call removes."""

BATCH_EVENTS = 5_000
"""Most domain events that one call removes: there may be thousands a second."""

_COUNTED_AT_ONCE = 50_000
_LOCK_TIMEOUT = "1s"
_ATTEMPTS = 20


@dataclass(frozen=True)
class PrunedTasks:
    """What one call removed.

    Attributes:
        tasks: how many tasks.
        steps: how many steps of theirs.
        passed: tasks that are due and stayed: somebody held them, or their parent is there.
        looked: tasks looked at.
        last: the last of them: the next call goes on behind it.
        is_end: nothing is behind it.
        first_kept: the oldest task seen that stays.
    """

    tasks: int
    steps: int
    passed: int
    looked: int
    last: UUID | None
    is_end: bool
    first_kept: UUID | None


@dataclass(frozen=True)
class PrunedArchives:
    """What one call removed.

    Attributes:
        messages: how many messages.
        last: the last queue that is done: the next call goes on behind it.
        is_end: no queue is behind it.
    """

    messages: int
    last: str | None
    is_end: bool


@dataclass(frozen=True)
class Retention:
    """How long is kept what is over; ``None``: for ever.

    Attributes:
        finished_task_days: finished tasks and resolved dead letters, in days.
        audit_days: history, in days.
        archive_seconds: messages in archives, in seconds.
        event_seconds: domain events that nobody has read, in seconds.
    """

    finished_task_days: float | None
    audit_days: float | None
    archive_seconds: float | None
    event_seconds: float | None = None


@dataclass
class Pruned:
    """What was removed, or would be.

    Attributes:
        tasks: finished tasks.
        steps: steps of theirs.
        passed: tasks that are due and stayed: somebody held them, or their parent is there.
        history: rows of other tables, by table.
        archived_messages: messages in archives.
        domain_events: events that nobody has read.
        partitions: of audit tables.
        batches: transactions that it took, or pages of the count.
        seconds: how long it took.
    """

    tasks: int = 0
    steps: int = 0
    passed: int = 0
    history: dict[str, int] = field(default_factory=dict)
    archived_messages: int = 0
    domain_events: int = 0
    partitions: tuple[OldPartition, ...] = ()
    batches: int = 0
    seconds: float = 0.0


# -- calls ----------------------------------------------------------------------------------------------------------


def prune_tasks(
    keep_seconds: float,
    *,
    after: UUID | None = None,
    limit: int = BATCH_TASKS,
    max_steps: int = BATCH_STEPS,
    look: int = BATCH_LOOKS,
) -> Call[PrunedTasks]:
    """Remove some tasks that have been final for longer than ``keep_seconds``, the oldest first."""
    request = {
        "keep_seconds": keep_seconds,
        "after": None if after is None else str(after),
        "limit": limit,
        "max_steps": max_steps,
        "look": look,
    }
    return _call("prune_tasks", request, lambda answer: _pruned_tasks(**answer))


def _pruned_tasks(*, last: str | None, first_kept: str | None, **counts: Any) -> PrunedTasks:
    return PrunedTasks(
        last=None if last is None else UUID(last),
        first_kept=None if first_kept is None else UUID(first_kept),
        **counts,
    )


def prune_history(
    keep_letters_seconds: float | None, keep_history_seconds: float | None, *, limit: int = BATCH_ROWS
) -> Call[dict[str, int]]:
    """Remove some resolved dead letters and rows of unpartitioned history, by table; ``None`` keeps for ever."""
    request = {
        "keep_letters_seconds": keep_letters_seconds,
        "keep_history_seconds": keep_history_seconds,
        "limit": limit,
    }
    return _call("prune_history", request, dict)


def prune_archives(
    keep_seconds: float, *, after: str | None = None, limit: int = BATCH_ROWS, look: int = 50
) -> Call[PrunedArchives]:
    """Remove some messages from the archives of Tasker's queues, queue by queue."""
    request = {"keep_seconds": keep_seconds, "after": after, "limit": limit, "look": look}
    return _call("prune_archives", request, lambda answer: PrunedArchives(**answer))


def prune_events(
    keep_seconds: float, *, after: str | None = None, limit: int = BATCH_EVENTS, look: int = 50
) -> Call[PrunedArchives]:
    """Remove some domain events that nobody has read, queue by queue."""
    request = {"keep_seconds": keep_seconds, "after": after, "limit": limit, "look": look}
    return _call("prune_events", request, lambda answer: PrunedArchives(**answer))


def progress() -> Call[dict[str, Any]]:
    """How far the ticks have pruned, as ``record_progress`` was told."""
    return Call("SELECT CAST(retention AS text) FROM tasker.coordinator", decode=_json)


def record_progress(progress: dict[str, Any]) -> Call[None]:
    """Record how far the ticks have pruned."""
    return Call(
        "SELECT tasker.record_retention(CAST(%(progress)s AS jsonb))",
        {"progress": orjson.dumps(progress).decode()},
        decode=nothing,
    )


def _call(function: str, request: dict[str, Any], decode: Callable[[Any], T]) -> Call[T]:
    return Call(
        f"SELECT CAST(tasker.{function}(CAST(%(request)s AS jsonb)) AS text)",
        {"request": orjson.dumps(request).decode()},
        decode=lambda rows: decode(_json(rows)),
    )


def _json(rows: Rows) -> Any:
    return decode(rows[0][0])


# -- all at once, by hand ---------------------------------------------------------------------------------------------


def prune(
    connection: psycopg.Connection[Any], keep: Retention, *, watch: Callable[[Pruned], object] = lambda pruned: None
) -> Pruned:
    """Remove everything that is too old, in batches, each a transaction of its own.

    It may be stopped at any time: what went is gone, the rest is as it was. Ticks may prune at the same time.

    Args:
        connection: in autocommit mode; of a login that may (partitions go only for the owner of the schema).
        keep: how long.
        watch: called after each batch with what went so far.
    """
    done = Pruned()
    began = time.monotonic()

    def batch(call: Call[T]) -> T:
        answer = _patiently(connection, call)
        done.batches += 1
        done.seconds = time.monotonic() - began
        return answer

    if keep.finished_task_days is not None:
        after: UUID | None = None
        while True:
            tasks = batch(prune_tasks(keep.finished_task_days * DAY_SECONDS, after=after))
            after = tasks.last
            done.tasks += tasks.tasks
            done.steps += tasks.steps
            done.passed += tasks.passed
            watch(done)
            if tasks.is_end:
                break
    letters, history = _seconds(keep.finished_task_days), _seconds(keep.audit_days)
    while went := batch(prune_history(letters, history)):
        done.history = {name: done.history.get(name, 0) + count for name, count in went.items()}
        watch(done)
        if max(went.values()) < BATCH_ROWS:
            break
    if keep.archive_seconds is not None:
        queue: str | None = None
        while True:
            archives = batch(prune_archives(keep.archive_seconds, after=queue))
            queue = archives.last
            done.archived_messages += archives.messages
            watch(done)
            if archives.is_end:
                break
    if keep.event_seconds is not None:
        queue = None
        while True:
            events = batch(prune_events(keep.event_seconds, after=queue))
            queue = events.last
            done.domain_events += events.messages
            watch(done)
            if events.is_end:
                break
    if keep.audit_days is not None:
        done.partitions = drop_partitions(connection, keep_days=keep.audit_days, wait_seconds=60.0)
    done.seconds = time.monotonic() - began
    watch(done)
    return done


def count(
    connection: psycopg.Connection[Any], keep: Retention, *, watch: Callable[[Pruned], object] = lambda pruned: None
) -> Pruned:
    """What ``prune`` would remove now: counted row by row, in pages, without locks and without a long transaction.

    Args:
        connection: in autocommit mode; the right to read is enough.
        keep: how long.
        watch: called after each page with what was counted so far.
    """
    found = Pruned()
    began = time.monotonic()
    if keep.finished_task_days is not None:
        after: UUID | None = UUID(int=0)
        due = run(connection, _moment(keep.finished_task_days * DAY_SECONDS))
        youngest = UUID(int=max(0, int(due.timestamp() * 1000) + 1) << 80)
        while after is not None:
            page = {"after": after, "due": due, "youngest": youngest, "quantity": _COUNTED_AT_ONCE}
            with connection.transaction():
                # Statistics of a table that shrinks or grows fast mislead: the key is walked, page after page.
                run(connection, functions.set_local(enable_seqscan="off", enable_bitmapscan="off"))
                looked, tasks, steps, last = connection.execute(_COUNT_TASKS, page).fetchall()[0]
            found.tasks += tasks
            found.steps += steps
            found.batches += 1
            found.seconds = time.monotonic() - began
            watch(found)
            after = last if looked == _COUNTED_AT_ONCE else None
    for table, column, seconds in (
        ("dead_letters", "resolved_at", _seconds(keep.finished_task_days)),
        ("circuit_transitions", "at", _seconds(keep.audit_days)),
        ("executor_health_transitions", "at", _seconds(keep.audit_days)),
        ("scaling_decisions", "at", _seconds(keep.audit_days)),
        ("operational_state_transitions", "at", _seconds(keep.audit_days)),
    ):
        if seconds is not None:
            found.history[table] = _count(connection, sql.Identifier("tasker", table), column, seconds)
    if keep.archive_seconds is not None:
        queues = connection.execute("SELECT q FROM tasker.archived_queues() AS q ORDER BY q").fetchall()
        for (queue,) in queues:
            found.archived_messages += _count(
                connection, sql.Identifier("pgmq", f"a_{queue}"), "archived_at", keep.archive_seconds
            )
    if keep.event_seconds is not None:
        queues = connection.execute(_EVENT_QUEUES).fetchall()
        for (queue,) in queues:
            found.domain_events += _count(
                connection, sql.Identifier("pgmq", f"q_{queue}"), "enqueued_at", keep.event_seconds
            )
    if keep.audit_days is not None:
        found.partitions = tuple(old_partitions(connection, keep.audit_days))
    found.seconds = time.monotonic() - began
    watch(found)
    return found


_EVENT_QUEUES = """
SELECT q.name FROM tasker.namespaces AS n CROSS JOIN LATERAL (SELECT n.name || '_domain_events' AS name) AS q
WHERE to_regclass(format('pgmq.%I', 'q_' || q.name)) IS NOT NULL ORDER BY q.name
"""

# A child counts if nobody above it stays: its parent would keep it.
_COUNT_TASKS = """
SELECT count(*), count(*) FILTER (WHERE k.goes), coalesce(sum(k.total) FILTER (WHERE k.goes), 0),
       (array_agg(k.task_uuid ORDER BY k.task_uuid DESC))[1]
FROM (SELECT t.task_uuid, t.total, t.finalized_at < %(due)s AND (t.parent_task_uuid IS NULL OR NOT EXISTS (
          WITH RECURSIVE above AS (
              SELECT p.task_uuid, p.parent_task_uuid, p.finalized_at FROM tasker.tasks AS p
              WHERE p.task_uuid = t.parent_task_uuid
              UNION
              SELECT p.task_uuid, p.parent_task_uuid, p.finalized_at
              FROM above AS a JOIN tasker.tasks AS p ON p.task_uuid = a.parent_task_uuid)
          SELECT FROM above AS a WHERE a.finalized_at IS NULL OR a.finalized_at >= %(due)s)) AS goes
      FROM tasker.tasks AS t
      WHERE t.task_uuid > %(after)s AND t.task_uuid < %(youngest)s ORDER BY t.task_uuid LIMIT %(quantity)s) AS k
"""


def _patiently(connection: psycopg.Connection[Any], call: Call[T]) -> T:
    """Execute a call that gives way to others, and comes again."""
    for attempt in range(_ATTEMPTS):
        try:
            with connection.transaction():
                run(connection, functions.set_local(lock_timeout=_LOCK_TIMEOUT))
                return run(connection, call)
        except (pg_errors.LockNotAvailable, pg_errors.DeadlockDetected):
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.05, 0.5))
    raise AssertionError("unreachable")


def _count(connection: psycopg.Connection[Any], table: sql.Identifier, column: str, keep_seconds: float) -> int:
    query = sql.SQL("SELECT count(*) FROM {} WHERE {} < clock_timestamp() - make_interval(secs => {})")
    row = connection.execute(query.format(table, sql.Identifier(column), sql.Literal(keep_seconds))).fetchone()
    assert row is not None
    return int(row[0])


def _moment(seconds_ago: float) -> Call[dt.datetime]:
    return Call(
        "SELECT clock_timestamp() - make_interval(secs => CAST(%(seconds)s AS double precision))",
        {"seconds": seconds_ago},
        decode=first_value,
    )


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * DAY_SECONDS
