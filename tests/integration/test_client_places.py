"""Where a client works: the database of the settings, the embedded server, an address, and none that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tasker import Tasker
from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.database import embedded
from tasker.database.connection import Database
from tasker.database.scratch import ScratchDatabases
from tasker.errors import ConfigurationError, SchemaVersionError


class ServerOfTheTest:
    """Stands for the user's embedded server, which tests leave alone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.releases = 0

    def ensure_running(self) -> None:
        pass

    def release(self) -> None:
        self.releases += 1


def test_the_database_of_the_settings(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    with Tasker() as client:
        assert client.list().tasks == ()


def test_the_embedded_server_where_the_settings_name_none_migrated_and_given_back(
    tasker_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tasker_server.create(migrated=False)
    server = ServerOfTheTest(url)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(embedded.EmbeddedServer, "start", lambda: server)
    with Tasker() as client:
        assert client.list().tasks == ()
        assert server.releases == 0
    assert server.releases == 1
    tasker_server.drop(url)


def test_a_named_database_is_not_migrated_unless_the_settings_say_so(tasker_server: ScratchDatabases) -> None:
    url = tasker_server.create(migrated=False)
    with Tasker(settings=Settings(database=DatabaseSettings(url=url))) as client, pytest.raises(SchemaVersionError):
        client.list()
    with Tasker(settings=Settings(database=DatabaseSettings(url=url, migrate_on_start=True))) as client:
        assert client.list().tasks == ()
    tasker_server.drop(url)


def test_a_database_object_stays_open_and_an_own_one_is_closed(tasker_database_url: str) -> None:
    database = Database(tasker_database_url)
    with Tasker(database) as client:
        client.list()
    with database.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    database.close()


def test_a_closed_client_may_be_used_again(tasker_database_url: str) -> None:
    client = Tasker(tasker_database_url)
    client.list()
    client.close()
    assert client.list().tasks == ()
    client.close()


def test_making_a_client_connects_to_nothing() -> None:
    Tasker("postgresql://nobody@127.0.0.1:1/none").close()


@pytest.mark.parametrize("source", [5, object(), b"postgresql://db"])
def test_what_is_no_database_is_refused_with_what_would_do(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="an address, an engine or a Database"):
        Tasker(source)
