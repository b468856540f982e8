"""The movable clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from tasker.database.connection import Database
from tasker.testing.clock import Clock

SLACK = dt.timedelta(seconds=60)


@pytest.fixture
def database(tasker_database_url: str) -> Iterator[Database]:
    made = Database(tasker_database_url)
    yield made
    made.close()


def engine_time(database: Database) -> dt.datetime:
    with database.connection() as connection:
        row = connection.execute("SELECT tasker.now()").fetchone()
        assert row is not None
        return row[0]


def test_advancing_moves_the_engines_clock_on_connections_that_exist(database: Database, tasker_clock: Clock) -> None:
    tasker_clock.attach(database)
    before = engine_time(database)
    tasker_clock.advance(seconds=30, hours=2)
    tasker_clock.advance(dt.timedelta(days=1))
    moved = dt.timedelta(days=1, hours=2, seconds=30)
    assert tasker_clock.offset == moved
    assert moved <= engine_time(database) - before < moved + SLACK
    assert abs(tasker_clock.now() - engine_time(database)) < SLACK


def test_the_clock_can_be_moved_to_a_moment_even_back(database: Database, tasker_clock: Clock) -> None:
    tasker_clock.attach(database)
    for moment in (dt.datetime(2040, 2, 29, tzinfo=dt.UTC), dt.datetime(2020, 2, 29, tzinfo=dt.UTC)):
        tasker_clock.move_to(moment)
        assert dt.timedelta(0) <= engine_time(database) - moment < SLACK
    tasker_clock.reset()
    assert abs(engine_time(database) - dt.datetime.now(dt.UTC)) < SLACK


def test_a_database_that_comes_later_follows_from_where_the_clock_is(database: Database, tasker_clock: Clock) -> None:
    tasker_clock.advance(hours=1)
    tasker_clock.attach(database)
    assert engine_time(database) - dt.datetime.now(dt.UTC) > dt.timedelta(minutes=59)


def test_a_clock_does_not_advance_backwards_and_needs_a_time_zone(tasker_clock: Clock) -> None:
    with pytest.raises(ValueError, match=r"use move_to\(\)"):
        tasker_clock.advance(seconds=-1)
    with pytest.raises(ValueError, match="no time zone"):
        tasker_clock.move_to(dt.datetime(2040, 1, 1))  # noqa: DTZ001 - that is the point
