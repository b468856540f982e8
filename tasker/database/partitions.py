"""Daily partitions of the audit tables: made ahead of time, the last one open-ended, never a DEFAULT one.

An insert always finds a partition, even if nobody extended them for months: the open-ended one takes it. Partitions
come by ``CREATE TABLE ... (LIKE ...)`` and ``ATTACH``, which block writers for milliseconds, where
``CREATE ... PARTITION OF`` waits for every reader. Their key is the server's real clock, in UTC days.
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

DAYS_AHEAD = 14
"""How many whole days after today have a partition of their own."""

_LOCK_TIMEOUT_MS = 100
_ATTEMPTS = 50
_LOCK_KEY = 0x7461736B_70617274  # "taskpart"
_DAY = dt.timedelta(days=1)

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
    connection: psycopg.Connection[Any], table: sql.Identifier, name: str, lower: dt.datetime, upper: dt.datetime | None
) -> None:
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            table,
            sql.Identifier("tasker", name),
            sql.Literal(lower),
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
