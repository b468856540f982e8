"""The fixtures that ``tasker.testing.plugin`` describes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tasker.client.tasker import Tasker
    from tasker.config.settings import Settings
    from tasker.core import OrchestrationCore
    from tasker.database.scratch import ScratchDatabases
    from tasker.testing.clock import Clock


@pytest.fixture(scope="session")
def tasker_server() -> Iterator[ScratchDatabases]:
    """The PostgreSQL server of this test run."""
    from tasker.testing.servers import databases

    with databases() as found:
        yield found


@pytest.fixture
def tasker_database_url(tasker_server: ScratchDatabases) -> Iterator[str]:
    """A fresh database with Tasker's schema."""
    url = tasker_server.create()
    yield url
    tasker_server.drop(url)


@pytest.fixture
def tasker_clock() -> Clock:
    """The engine's clock, which the test may move."""
    from tasker.testing.clock import Clock

    return Clock()


@pytest.fixture
def tasker_settings() -> Settings:
    """The settings of ``tasker_core`` and ``tasker_client``; to be overridden where others are wanted."""
    from tasker.config.manager import ENVIRONMENT_VARIABLE, ConfigManager

    return ConfigManager.load(os.environ.get(ENVIRONMENT_VARIABLE, "test"))


@pytest.fixture
def tasker_core(
    tasker_database_url: str, tasker_settings: Settings, tasker_clock: Clock
) -> Iterator[OrchestrationCore]:
    """A core on a fresh database."""
    from tasker.core import OrchestrationCore

    with OrchestrationCore.from_settings(tasker_settings, database_url=tasker_database_url) as core:
        tasker_clock.attach(core.database)
        yield core


@pytest.fixture
def tasker_client(tasker_core: OrchestrationCore) -> Iterator[Tasker]:
    """A client of ``tasker_core``'s database."""
    from tasker.client.tasker import Tasker

    with Tasker(tasker_core.database, settings=tasker_core.settings) as client:
        yield client


@pytest.fixture(scope="session")
def _local_server() -> Iterator[ScratchDatabases]:
    from tasker.testing.servers import databases_at, local_server_exists, local_server_url, why_not_local

    reason = why_not_local()
    if reason is not None:
        message = f"the local PostgreSQL at {local_server_url()} cannot be used: {reason}"
        if os.environ.get("CI", "").lower() in {"1", "true"} and local_server_exists():
            pytest.fail(f"{message} (CI tests every server that the machine has)")
        pytest.skip(message)
    with databases_at(local_server_url()) as found:
        yield found


@pytest.fixture(scope="session", params=["own", "local"])
def any_server(request: pytest.FixtureRequest) -> ScratchDatabases:
    """Each PostgreSQL server there is, one after the other."""
    name = {"own": "tasker_server", "local": "_local_server"}[request.param]
    server: ScratchDatabases = request.getfixturevalue(name)
    return server


@pytest.fixture
def any_database_url(any_server: ScratchDatabases) -> Iterator[str]:
    """A fresh database with Tasker's schema on each server there is."""
    url = any_server.create()
    yield url
    any_server.drop(url)
