"""``Database``: connections on demand, never through a fork, back after a restart, with a clock that tests move."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tasker.database.connection import Database, is_connection_lost


@pytest.fixture
def database(tasker_database_url: str) -> Iterator[Database]:
    made = Database(tasker_database_url, max_connections=3, application_name="tasker tests")
    yield made
    made.close()


def pid_of(database: Database) -> int:
    with database.connection() as connection:
        return connection.info.backend_pid


def engine_time(database: Database) -> dt.datetime:
    with database.connection() as connection:
        row = connection.execute("SELECT tasker.now()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def test_nothing_is_connected_before_the_first_use(database: Database, tasker_database_url: str) -> None:
    with psycopg.connect(tasker_database_url) as other:
        rows = other.execute("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
        assert "tasker tests" not in [name for (name,) in rows]


def test_connections_are_in_autocommit_named_and_bounded_in_time(database: Database) -> None:
    with database.connection() as connection:
        assert connection.autocommit
        row = connection.execute(
            "SELECT current_setting('application_name'), current_setting('statement_timeout')"
        ).fetchone()
    assert row == ("tasker tests", "30s")


def test_settings_in_the_address_win(tasker_database_url: str) -> None:
    address = f"{tasker_database_url}&options=-c%20statement_timeout%3D5s&application_name=mine"
    database = Database(address)
    with database.connection() as connection:
        row = connection.execute(
            "SELECT current_setting('application_name'), current_setting('statement_timeout')"
        ).fetchone()
    database.close()
    assert row == ("mine", "5s")


def test_a_forked_child_makes_its_own_connections_and_leaves_the_parents_alone(database: Database) -> None:
    parents = pid_of(database)
    with database.engine.connect() as connection:
        parents_engine = connection.execute(text("SELECT pg_backend_pid()")).scalar()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with database.engine.connect() as connection:
                own_engine = connection.execute(text("SELECT pg_backend_pid()")).scalar()
            os.write(writer, f"{pid_of(database)} {own_engine}".encode())
            database.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    own, own_engine = os.read(reader, 100).split()
    os.close(reader)
    os.close(writer)
    assert {int(own), int(own_engine or 0)}.isdisjoint({parents, parents_engine})
    assert pid_of(database) == parents
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar() == parents_engine


def test_a_connection_that_was_cut_while_idle_is_replaced_unseen(
    database: Database, tasker_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pid_of(database)
    with psycopg.connect(tasker_database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    # It has lain idle for long enough to be looked at before it is handed out.
    monkeypatch.setattr("tasker.database.connection._PING_AFTER_SECONDS", 0.0)
    assert pid_of(database) != first


def test_the_keeper_of_the_server_is_called_when_there_is_no_connection() -> None:
    called = []
    database = Database("postgresql://nobody@127.0.0.1:1/none", revive=lambda: called.append(True))
    with pytest.raises(psycopg.OperationalError), database.connection():
        pass
    assert called == [True]


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    begun = time.monotonic()
    database = Database("postgresql://nobody@127.0.0.1:1/none", acquire_timeout_seconds=60)
    with pytest.raises(psycopg.OperationalError, match="refused"), database.connection():
        pass
    assert time.monotonic() - begun < 30


def test_all_connections_follow_the_clock_once_they_are_taken_on(database: Database) -> None:
    now = engine_time(database)
    database.clock_offset = dt.timedelta(days=3)
    assert dt.timedelta(days=3) <= engine_time(database) - now < dt.timedelta(days=3, minutes=5)
    for _ in range(2):
        with database.engine.connect() as connection:
            moved = connection.execute(text("SELECT tasker.now()")).scalar()
            assert moved is not None
            assert moved - now >= dt.timedelta(days=3)
            connection.rollback()
    database.clock_offset = dt.timedelta(0)
    assert engine_time(database) - now < dt.timedelta(minutes=5)


async def test_each_event_loop_has_its_own_connections(database: Database) -> None:
    database.clock_offset = dt.timedelta(hours=5)
    async with database.aconnection() as first:
        cursor = await first.execute("SELECT tasker.now() - now()")
        assert await cursor.fetchone() == (dt.timedelta(hours=5),)

    def in_another_loop() -> None:
        async def use() -> None:
            async with database.aconnection() as connection:
                await connection.execute("SELECT 1")
            await database.aclose()

        asyncio.run(use())

    await asyncio.to_thread(in_another_loop)
    await database.aclose()


async def test_connections_of_a_loop_that_ended_are_closed_with_the_rest(database: Database) -> None:
    def forget() -> psycopg.AsyncConnection[tuple[object, ...]]:
        async def use() -> psycopg.AsyncConnection[tuple[object, ...]]:
            async with database.aconnection() as connection:
                return connection

        return asyncio.run(use())

    kept = await asyncio.to_thread(forget)
    database.close()
    assert kept.closed


def test_an_address_may_be_written_in_several_ways(tasker_database_url: str) -> None:
    sqlalchemy_url = make_url(tasker_database_url.replace("postgresql:", "postgresql+psycopg:"))
    for address in (tasker_database_url, sqlalchemy_url, sqlalchemy_url.render_as_string(hide_password=False)):
        database = Database(address)
        assert pid_of(database) > 0
        database.close()


def test_a_lost_connection_is_told_from_a_refusal(tasker_database_url: str) -> None:
    with psycopg.connect(tasker_database_url, autocommit=True) as victim:
        with psycopg.connect(tasker_database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        with pytest.raises(psycopg.OperationalError) as lost:
            victim.execute("SELECT 1")
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = 1")
        with pytest.raises(psycopg.OperationalError) as refused:
            connection.execute("SELECT pg_sleep(5)")
    assert is_connection_lost(lost.value)
    assert not is_connection_lost(refused.value)
    assert not is_connection_lost(ValueError())
