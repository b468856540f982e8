"""The engine under test: a fresh database, and what works on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.database.connection import Database
from tests.integration.executors.engine import Engine
from tests.sql_kit import assert_legal

pytest.register_assert_rewrite("tests.integration.executors.steps", "tests.integration.executors.matrix")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return ConfigManager.load("test")


@pytest.fixture
def engine(tasker_database_url: str, settings: Settings) -> Iterator[Engine]:
    engine = Engine(Database(tasker_database_url), settings)
    yield engine
    engine.close()
    assert_legal(tasker_database_url)
