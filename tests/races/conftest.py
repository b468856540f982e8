"""Races: several sessions or processes that really block one another, on one database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql_kit import Core, lawful

# What they compare is told in full when it differs, as in a test's own module.
pytest.register_assert_rewrite(
    "tests.races.comparing",
    "tests.races.calls_of_executors",
    "tests.races.calls_of_operators",
    "tests.races.calls_of_orchestration",
)


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    with lawful(tasker_database_url) as driver:
        yield driver


@pytest.fixture
def second(core: Core) -> Iterator[Core]:
    """A second session."""
    driver = Core(core.url)
    yield driver
    driver.close()


def is_blocked(core: Core, other: Core) -> bool:
    """Whether the session of ``other`` waits for a lock."""
    return bool(core.one("SELECT cardinality(pg_blocking_pids(%s)) > 0", other.connection.info.backend_pid))
