"""Daily partitions of the audit tables: made ahead of time, the last one open-ended, dropped by age.

An insert always finds a partition, even if nobody extended them for months: the open-ended one takes it. Partitions
come by ``CREATE TABLE ... (LIKE ...)`` and ``ATTACH``, which block writers for milliseconds, where
``CREATE ... PARTITION OF`` waits for every reader. They go, when they are too old, by ``DETACH ... CONCURRENTLY`` and
``DROP``. Their key is the server's real clock, in UTC days.
"""

from __future__ import annotations

import datetime as dt
import random
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from tasker.errors import TaskerError

AUDIT_TABLES = ("finalization_attempts", "task_transitions", "workflow_step_transitions")

DAYS_AHEAD = 14
"""How many whole days after today have a partition of their own."""

EARLY = "_early"
"""The name of an audit table's first partition once older ones were dropped ends like this: it takes what a clock that
was set back by weeks may write, since a missing partition would stop every completion."""

_LOCK_TIMEOUT_MS = 100
_ATTEMPTS = 50
_LOCK_KEY = 0x7461736B_70617274  # "taskpart"
_DAY = dt.timedelta(days=1)
_TO_BE_DROPPED = "Too old by database.retention.audit_days: to be dropped."

INITIAL_PARTITIONS_SQL = f"""\
DO $partitions$
DECLARE
    parent record;
    first_day date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day date;
    partition_name text;
BEGIN
    FOR parent IN
        SELECT c.relname
          FROM pg_partitioned_table p
          JOIN pg_class c ON c.oid = p.partrelid
         WHERE c.relnamespace = 'tasker'::regnamespace
           AND p.partstrat = 'r'
           AND NOT EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = p.partrelid)
         ORDER BY c.relname
    LOOP
        FOR ahead IN 0..{DAYS_AHEAD} LOOP
            day := first_day + ahead;
            partition_name := parent.relname || to_char(day, '"_p"YYYYMMDD');
            EXECUTE format('CREATE TABLE tasker.%I (LIKE tasker.%I INCLUDING ALL EXCLUDING IDENTITY)',
                           partition_name, parent.relname);
            EXECUTE format(
                'ALTER TABLE tasker.%I ATTACH PARTITION tasker.%I FOR VALUES FROM (%s) TO (%s)',
                parent.relname, partition_name,
                CASE WHEN ahead = 0 THEN 'MINVALUE' ELSE quote_literal(day || ' 00:00:00+00') END,
                CASE WHEN ahead = {DAYS_AHEAD} THEN 'MAXVALUE' ELSE quote_literal(day + 1 || ' 00:00:00+00') END);
        END LOOP;
    END LOOP;
END
$partitions$;
"""
"""Gives every partitioned table that has none its first partitions, in ``migrate`` and in ``tasker db sql``."""


@dataclass(frozen=True)
class OpenPartition:
    """The open-ended partition of one audit table.

    Attributes:
        parent: the audit table's name, without schema.
        name: the partition's name, without schema.
        starts_at: its lower bound (UTC midnight).
    """

    parent: str
    name: str
    starts_at: dt.datetime


def open_partitions(connection: psycopg.Connection[Any]) -> list[OpenPartition]:
    """The open-ended partition of every audit table, by table name."""
    rows = connection.execute(
        "SELECT p.relname, c.relname, pg_get_expr(c.relpartbound, c.oid)"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"
        " WHERE p.relnamespace = 'tasker'::regnamespace AND p.relkind = 'p'"
        " AND pg_get_expr(c.relpartbound, c.oid) LIKE '%TO (MAXVALUE)'"
        " ORDER BY p.relname"
    ).fetchall()
    return [OpenPartition(parent, name, _day_of(name)) for parent, name, _ in rows]


def ensure_partitions(connection: psycopg.Connection[Any], *, days_ahead: int = DAYS_AHEAD) -> tuple[str, ...]:
    """Extend every audit table to ``days_ahead`` whole days after today; cheap where nothing is missing.

    Each table is extended in one short transaction of its own, which gives up its place in the lock queue after 100 ms
    and tries again, so that completions never stand behind it for longer. Several processes may call this at once.

    Args:
        connection: in autocommit mode.
        days_ahead: days, at least 1.

    Returns:
        The names of the partitions made.

    Raises:
        TaskerError: the lock could not be had in 50 attempts (some transaction holds an audit table).
    """
    made: list[str] = []
    for partition in open_partitions(connection):
        target = _today(connection) + days_ahead * _DAY
        if partition.starts_at < target:
            made += _extend_with_retries(connection, partition.parent, days_ahead)
    return tuple(made)


def _extend_with_retries(connection: psycopg.Connection[Any], parent: str, days_ahead: int) -> list[str]:
    reason: psycopg.Error | None = None
    for _ in range(_ATTEMPTS):
        try:
            with connection.transaction():
                return _extend(connection, parent, days_ahead)
        except (pg_errors.LockNotAvailable, pg_errors.CheckViolation) as error:
            # CheckViolation: midnight passed between reading the clock and having the lock.
            reason = error
            time.sleep(random.uniform(0.02, 0.2))
    raise TaskerError(
        f"partitions of tasker.{parent} could not be extended: {reason}",
        hint="look for a long transaction that holds the table; rows go to the open-ended partition meanwhile",
    ) from reason


def _extend(connection: psycopg.Connection[Any], parent: str, days_ahead: int) -> list[str]:
    if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK_KEY,)).fetchone() != (True,):
        return []  # another process is at it
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{_LOCK_TIMEOUT_MS}ms"))
    current = next(partition for partition in open_partitions(connection) if partition.parent == parent)
    today = _today(connection)
    target = today + days_ahead * _DAY
    if current.starts_at >= target:
        return []
    bound = max(today, current.starts_at) + _DAY
    days = [bound + number * _DAY for number in range(max((target - bound).days, 0) + 1)]
    names = {day: f"{parent}_p{day:%Y%m%d}" for day in days}
    table = sql.Identifier("tasker", parent)
    # New tables first: nothing but their creation happens before the writers are locked out.
    for name in names.values():
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING IDENTITY)").format(
                sql.Identifier("tasker", name), table
            )
        )
    connection.execute(
        sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(table, sql.Identifier("tasker", current.name))
    )
    _attach(connection, table, current.name, current.starts_at, bound)
    for day in days:
        _attach(connection, table, names[day], day, None if day == days[-1] else day + _DAY)
    return list(names.values())


def _attach(
    connection: psycopg.Connection[Any],
    table: sql.Identifier,
    name: str,
    lower: dt.datetime | None,
    upper: dt.datetime | None,
) -> None:
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            table,
            sql.Identifier("tasker", name),
            sql.SQL("MINVALUE") if lower is None else sql.Literal(lower),
            sql.SQL("MAXVALUE") if upper is None else sql.Literal(upper),
        )
    )


def _today(connection: psycopg.Connection[Any]) -> dt.datetime:
    row = connection.execute("SELECT date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC')").fetchone()
    assert row is not None
    midnight: dt.datetime = row[0]
    return midnight.replace(tzinfo=dt.UTC)


def _day_of(name: str) -> dt.datetime:
    return dt.datetime.strptime(name.rpartition("_p")[2], "%Y%m%d").replace(tzinfo=dt.UTC)


# -- what is too old ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OldPartition:
    """A partition of an audit table whose whole time is over.

    Attributes:
        parent: the audit table's name, without schema.
        name: the partition's name, without schema.
        ends_at: its upper bound (UTC midnight).
        size_bytes: what it takes on the disk, with its indexes.
    """

    parent: str
    name: str
    ends_at: dt.datetime
    size_bytes: int


def old_partitions(connection: psycopg.Connection[Any], keep_days: float) -> list[OldPartition]:
    """Partitions of which every row is more than ``keep_days`` days old, the oldest of each table first."""
    rows = connection.execute(
        f"SELECT b.parent, b.name, b.ends_at, pg_total_relation_size(b.oid) FROM ({_BOUNDS}) AS b"
        " WHERE b.ends_at <= clock_timestamp() - make_interval(secs => %s) AND NOT b.is_early"
        " ORDER BY b.parent, b.ends_at",
        (keep_days * 86_400,),
    ).fetchall()
    return [OldPartition(*row) for row in rows]


_BOUNDS = r"""
SELECT p.relname AS parent, c.relname AS name, c.oid, c.relname = p.relname || '_early' AS is_early,
       CAST((regexp_match(e.bound, 'FROM \(''([^'']+)''\)'))[1] AS timestamptz) AS starts_at,
       CAST((regexp_match(e.bound, 'TO \(''([^'']+)''\)'))[1] AS timestamptz) AS ends_at
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
JOIN pg_class AS p ON p.oid = i.inhparent AND p.relkind = 'p' AND p.relnamespace = CAST('tasker' AS regnamespace)
CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS e(bound)
WHERE NOT i.inhdetachpending"""


def drop_partitions(
    connection: psycopg.Connection[Any], *, keep_days: float, limit: int | None = None, wait_seconds: float = 5.0
) -> tuple[OldPartition, ...]:
    """Drop audit partitions that are old enough; no writer waits for it, and no reader misses rows.

    A partition is detached concurrently, which waits for transactions that use its table and holds nobody up, and
    dropped when nobody sees it any more. What could not wait any longer is ended by the next call.

    Args:
        connection: in autocommit mode.
        keep_days: a partition goes when all of its rows are older, in days.
        limit: drop at most so many; ``None``: all that are old enough.
        wait_seconds: longest wait for each, in seconds.

    Returns:
        What was dropped.

    Raises:
        TaskerError: some transaction uses an audit table for longer than the wait, or another process is at it.
    """
    _drop_leftovers(connection, wait_seconds)
    dropped = old_partitions(connection, keep_days)[:limit]
    for partition in dropped:
        _drop(connection, partition.parent, partition.name, wait_seconds)
    _close_fronts(connection, wait_seconds)
    return tuple(dropped)


def _drop(connection: psycopg.Connection[Any], parent: str, name: str, wait_seconds: float) -> None:
    table, partition = sql.Identifier("tasker", parent), sql.Identifier("tasker", name)
    # The mark tells a partition that we detached from one that somebody keeps.
    _patiently(
        connection,
        name,
        wait_seconds,
        sql.SQL("COMMENT ON TABLE {} IS {}").format(partition, sql.Literal(_TO_BE_DROPPED)),
        sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(table, partition),
        sql.SQL("DROP TABLE {}").format(partition),
    )


def _close_fronts(connection: psycopg.Connection[Any], wait_seconds: float) -> None:
    """See that each table's first partition begins at the beginning of time, also after the oldest were dropped."""
    rows = connection.execute(
        f"SELECT b.parent, min(b.starts_at) FILTER (WHERE NOT b.is_early), bool_or(b.is_early) FROM ({_BOUNDS}) AS b"
        " GROUP BY b.parent HAVING bool_and(b.starts_at IS NOT NULL OR b.is_early)"
        " AND min(b.starts_at) FILTER (WHERE NOT b.is_early) IS DISTINCT FROM max(b.ends_at) FILTER (WHERE b.is_early)"
    ).fetchall()
    for parent, starts_at, has_early in rows:
        name = f"{parent}{EARLY}"
        if has_early:
            _drop(connection, parent, name, wait_seconds)
        table, partition = sql.Identifier("tasker", parent), sql.Identifier("tasker", name)
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{round(wait_seconds * 1000)}ms"))
            connection.execute(
                sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING IDENTITY)").format(partition, table)
            )
            _attach(connection, table, name, None, starts_at)


def _drop_leftovers(connection: psycopg.Connection[Any], wait_seconds: float) -> None:
    """End what an earlier call began: partitions that are being detached, or were and are still there."""
    rows = connection.execute(
        "SELECT c.relname, p.relname FROM pg_class AS c"
        " LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS p ON p.oid = i.inhparent"
        " WHERE c.relnamespace = CAST('tasker' AS regnamespace) AND c.relkind = 'r'"
        " AND obj_description(c.oid, 'pg_class') = %s AND (i.inhrelid IS NULL OR i.inhdetachpending)",
        (_TO_BE_DROPPED,),
    ).fetchall()
    for name, parent in rows:
        partition = sql.Identifier("tasker", name)
        statements = [sql.SQL("DROP TABLE {}").format(partition)]
        if parent is not None:
            table = sql.Identifier("tasker", parent)
            statements.insert(0, sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(table, partition))
        _patiently(connection, name, wait_seconds, *statements)


def _patiently(connection: psycopg.Connection[Any], name: str, wait_seconds: float, *statements: sql.Composed) -> None:
    """Execute statements that wait for others, each on its own, since detaching may not be in a transaction."""
    connection.execute(sql.SQL("SET statement_timeout = {}").format(f"{round(wait_seconds * 1000)}ms"))
    try:
        for statement in statements:
            connection.execute(statement)
    except (pg_errors.LockNotAvailable, pg_errors.QueryCanceled) as error:
        raise TaskerError(
            f"tasker.{name} could not be dropped within {wait_seconds:g} s: {error}",
            hint="a transaction that uses its table lasts long (a dump, `tasker db verify`); it is tried again",
        ) from error
    except (pg_errors.UndefinedTable, pg_errors.ObjectNotInPrerequisiteState) as error:
        raise TaskerError(
            f"tasker.{name} was not dropped: {error}", hint="another process drops partitions at this moment"
        ) from error
    finally:
        if not connection.closed:
            connection.execute("RESET statement_timeout")
