"""Databases for tests: fresh, migrated, dropped."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tasker.database.scratch import ScratchDatabases
from tasker.testing import servers
from tests.embedded_support import execute


def names(server: ScratchDatabases) -> set[str]:
    with psycopg.connect(server.url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}


def name_of(url: str) -> str:
    return str(execute(url, "SELECT current_database()"))


def test_a_database_has_the_schema_and_nothing_in_it(any_database_url: str) -> None:
    assert execute(any_database_url, "SELECT count(*) FROM tasker.tasks") == 0
    assert execute(any_database_url, "SELECT tasker.now() - transaction_timestamp() = interval '0'")


def test_two_databases_know_nothing_of_each_other(any_server: ScratchDatabases) -> None:
    first, second = any_server.create(), any_server.create()
    execute(first, "CREATE TABLE public.mine ()")
    assert execute(second, "SELECT to_regclass('public.mine')") is None
    any_server.drop(first)
    any_server.drop(second)


def test_a_database_is_dropped_with_whoever_is_connected(any_server: ScratchDatabases) -> None:
    url = any_server.create(migrated=False)
    name = name_of(url)
    with psycopg.connect(url) as connection:
        any_server.drop(url)
        assert name not in names(any_server)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()


def test_only_databases_made_here_are_dropped(tasker_server: ScratchDatabases) -> None:
    with pytest.raises(ValueError, match="postgres was not made here"):
        tasker_server.drop(tasker_server.url)


def test_closing_drops_the_template_too(tasker_server: ScratchDatabases) -> None:
    before = names(tasker_server)
    databases = ScratchDatabases(tasker_server.url)
    databases.create()
    assert len(names(tasker_server)) == len(before) + 2
    databases.close()
    assert names(tasker_server) == before


def test_what_a_killed_run_left_behind_is_dropped_after_a_day(tasker_server: ScratchDatabases) -> None:
    abandoned, used = "tasker_test_1700000000_abcdef", "tasker_test_1700000001_abcdef"
    for name in (abandoned, used):
        execute(tasker_server.url, f"CREATE DATABASE {name}")
    recent = tasker_server.create(migrated=False)
    with psycopg.connect(tasker_server.url, dbname=used):
        tasker_server.drop_abandoned()
        assert abandoned not in names(tasker_server)
        assert used in names(tasker_server)
        assert name_of(recent) in names(tasker_server)
    execute(tasker_server.url, f"DROP DATABASE {used} WITH (FORCE)")
    tasker_server.drop(recent)


@pytest.mark.parametrize("memory", ["missing", "small"])
def test_where_memory_has_no_room_the_server_of_a_run_is_on_disk(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory == "missing":
        monkeypatch.setattr(servers, "_MEMORY", tmp_path / "missing")
    else:
        monkeypatch.setattr(servers, "_ROOM_BYTES", 2**60)
    with servers.embedded_databases() as databases:
        folder = Path(str(execute(databases.url, "SHOW data_directory")))
        assert folder.parts[:2] == ("/", "tmp")
        assert folder.exists()
    assert not folder.exists()
