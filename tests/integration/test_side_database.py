from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tasker.database.side_database import SideDatabase
from tasker.errors import TaskerError


@pytest.fixture
def side(any_database_url: str) -> Iterator[SideDatabase]:
    database = SideDatabase(any_database_url, "side")
    yield database
    database.drop()


def test_a_side_database_is_empty_and_on_the_same_server(side: SideDatabase, any_database_url: str) -> None:
    side.create()
    with psycopg.connect(any_database_url) as one, psycopg.connect(side.url) as other:
        query = "SELECT system_identifier FROM pg_control_system()"
        assert one.execute(query).fetchone() == other.execute(query).fetchone()
        assert other.execute("SELECT current_database()").fetchone() == (side.name,)
        assert other.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'tasker'").fetchone() == (0,)


def test_what_an_earlier_run_left_is_made_anew(side: SideDatabase) -> None:
    side.create()
    with psycopg.connect(side.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE left_over ()")
    side.create()
    with psycopg.connect(side.url) as connection:
        assert connection.execute("SELECT to_regclass('left_over')").fetchone() == (None,)


def test_one_that_is_in_use_is_left_alone(side: SideDatabase) -> None:
    side.create()
    with psycopg.connect(side.url) as connection:
        with pytest.raises(TaskerError, match=f"{side.name} is in use: There is 1 other session"):
            side.create()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_dropping_ends_the_sessions_in_it_and_may_be_repeated(side: SideDatabase) -> None:
    side.create()
    with psycopg.connect(side.url, autocommit=True) as connection:
        side.drop()
        side.drop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_role_that_may_not_create_databases_is_told_what_to_do(any_database_url: str) -> None:
    known = psycopg.conninfo.conninfo_to_dict(any_database_url)
    role = f"{known['dbname']}_plain"
    with psycopg.connect(any_database_url, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
        try:
            side = SideDatabase(psycopg.conninfo.make_conninfo(any_database_url, user=role), "side")
            with pytest.raises(TaskerError, match="permission denied to create database") as error:
                side.create()
            assert "CREATEDB" in str(error.value.hint)
        finally:
            connection.execute(f'DROP ROLE "{role}"'.encode())


@pytest.mark.parametrize(
    "url",
    ["postgresql://h/shop?connect_timeout=5", "host=h dbname=shop connect_timeout=5", "postgresql+psycopg://h/shop"],
)
def test_an_address_of_any_form_keeps_all_but_the_name(url: str) -> None:
    known = psycopg.conninfo.conninfo_to_dict(SideDatabase(url, "side").url)
    assert (known["host"], known["dbname"]) == ("h", "shop_side")
    assert ("connect_timeout" in known) == ("connect_timeout" in url)


def test_a_long_name_is_shortened_before_the_suffix() -> None:
    assert SideDatabase(f"postgresql://h/{'x' * 63}", "side").name == f"{'x' * 58}_side"
