"""Audit partitions: there is always one, they come without stopping anybody, and the last one never ends."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tasker.database.partitions import DAYS_AHEAD, ensure_partitions, open_partitions
from tests.waiting import wait_until

AUDIT_TABLES = ["finalization_attempts", "task_transitions", "workflow_step_transitions"]
DAY = dt.timedelta(days=1)


@pytest.fixture
def connection(any_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(any_database_url, autocommit=True) as made:
        yield made


def today(connection: psycopg.Connection[Any]) -> dt.datetime:
    row = connection.execute("SELECT date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC')").fetchone()
    assert row is not None
    return row[0].replace(tzinfo=dt.UTC)  # type: ignore[no-any-return]


def bounds(connection: psycopg.Connection[Any], table: str) -> list[str]:
    connection.execute("SET timezone = 'UTC'")
    rows = connection.execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = format('tasker.%%I', %s::text)::regclass ORDER BY c.relname",
        [table],
    ).fetchall()
    return [text for (text,) in rows]


def insert(connection: psycopg.Connection[Any], at: dt.datetime) -> None:
    connection.execute(
        "INSERT INTO tasker.task_transitions (task_uuid, to_state, at) VALUES (gen_random_uuid(), 'pending', %s)", [at]
    )


def open_table(connection: psycopg.Connection[Any], name: str, starts_at: dt.datetime) -> None:
    """A partitioned table whose only partition began at ``starts_at`` and never ends."""
    connection.execute(f"CREATE TABLE tasker.{name} (at timestamptz NOT NULL, id int) PARTITION BY RANGE (at)")  # type: ignore[arg-type]
    partition = f"{name}_p{starts_at:%Y%m%d}"
    connection.execute(
        f"CREATE TABLE tasker.{partition} PARTITION OF tasker.{name} FOR VALUES FROM ('{starts_at}') TO (MAXVALUE)"  # type: ignore[arg-type]
    )


def test_each_audit_table_has_a_partition_a_day_and_an_endless_last_one(connection: psycopg.Connection[Any]) -> None:
    found = open_partitions(connection)
    assert [partition.parent for partition in found] == AUDIT_TABLES
    assert {partition.starts_at for partition in found} == {today(connection) + DAYS_AHEAD * DAY}
    for table in AUDIT_TABLES:
        first, *middle, last = bounds(connection, table)
        assert "FROM (MINVALUE)" in first
        assert "TO (MAXVALUE)" in last
        assert len(middle) == DAYS_AHEAD - 1
        assert not any("DEFAULT" in bound for bound in (first, *middle, last))


def test_a_row_of_any_time_finds_a_partition(connection: psycopg.Connection[Any]) -> None:
    for distance in (-400, -1, 0, 1, DAYS_AHEAD, 4000):
        insert(connection, today(connection) + distance * DAY)
    assert connection.execute("SELECT count(*) FROM tasker.task_transitions").fetchone() == (6,)


def test_nothing_is_done_while_enough_days_are_ahead(connection: psycopg.Connection[Any]) -> None:
    assert ensure_partitions(connection) == ()


def test_days_are_added_behind_the_last_one_and_rows_stay(connection: psycopg.Connection[Any]) -> None:
    insert(connection, today(connection))
    made = ensure_partitions(connection, days_ahead=20)
    assert len(made) == 6 * len(AUDIT_TABLES)
    assert {partition.starts_at for partition in open_partitions(connection)} == {today(connection) + 20 * DAY}
    assert connection.execute("SELECT count(*) FROM tasker.task_transitions").fetchone() == (1,)


def test_an_endless_partition_that_was_forgotten_for_months_gets_its_end_tonight(
    connection: psycopg.Connection[Any],
) -> None:
    start = today(connection) - 90 * DAY
    open_table(connection, "forgotten", start)
    for distance in (0, 30, 90):
        connection.execute("INSERT INTO tasker.forgotten VALUES (%s, 1)", [start + distance * DAY])
    made = ensure_partitions(connection)
    first, second, *_, last = bounds(connection, "forgotten")
    tomorrow = today(connection) + DAY
    assert f"TO ('{tomorrow:%Y-%m-%d} 00:00:00+00')" in first
    assert f"FROM ('{tomorrow:%Y-%m-%d} 00:00:00+00')" in second
    assert "TO (MAXVALUE)" in last
    assert len(made) == DAYS_AHEAD
    assert connection.execute("SELECT count(*) FROM tasker.forgotten").fetchone() == (3,)


def test_new_partitions_have_the_indexes_and_checks_of_their_table(connection: psycopg.Connection[Any]) -> None:
    (made, *_) = [name for name in ensure_partitions(connection, days_ahead=16) if name.startswith("task_transitions")]
    for query in (
        "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass",
        "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'",
    ):
        counts = {connection.execute(query, [f"tasker.{name}"]).fetchone() for name in ("task_transitions", made)}
        assert len(counts) == 1, query
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            f"INSERT INTO tasker.{made} (task_uuid, from_state, to_state, at)"  # type: ignore[arg-type]
            " VALUES (gen_random_uuid(), 'complete', 'pending', %s)",
            [today(connection) + 15 * DAY],
        )


def test_an_open_reader_delays_the_extension_and_no_writer(any_database_url: str) -> None:
    with (
        psycopg.connect(any_database_url) as reader,
        psycopg.connect(any_database_url, autocommit=True) as writer,
        psycopg.connect(any_database_url, autocommit=True) as extender,
        ThreadPoolExecutor(1) as pool,
    ):
        reader.execute("SELECT count(*) FROM tasker.task_transitions")
        extending = pool.submit(ensure_partitions, extender, days_ahead=15)
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        pid = extender.info.backend_pid
        wait_until(lambda: writer.execute(waits, [pid]).fetchone() == (True,), "the extension to wait for a lock")
        writer.execute("SET lock_timeout = '5s'")
        for _ in range(20):
            insert(writer, today(writer))
        assert not extending.done()
        reader.rollback()
        assert any(name.startswith("task_transitions") for name in extending.result(timeout=30))


def test_processes_that_extend_at_once_do_not_get_into_each_others_way(any_database_url: str) -> None:
    gate = threading.Barrier(4)

    def extend() -> tuple[str, ...]:
        with psycopg.connect(any_database_url, autocommit=True) as connection:
            gate.wait()
            return ensure_partitions(connection, days_ahead=18)

    with ThreadPoolExecutor(4) as pool:
        made = [name for future in [pool.submit(extend) for _ in range(4)] for name in future.result()]
    assert len(made) == len(set(made)) == 4 * len(AUDIT_TABLES)
