"""The proxy that cuts connections: it hides nothing while it does not cut, and cuts at every place of a statement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from tasker.resilience.answer_timeout import TimedConnection
from tests.chaos.storm.cutting_proxy import PLACES, CuttingProxy
from tests.waiting import wait_until


@pytest.fixture
def proxy(tasker_database_url: str) -> Iterator[CuttingProxy]:
    found = conninfo.conninfo_to_dict(tasker_database_url)
    made = CuttingProxy(Path(str(found["host"])) / f".s.PGSQL.{found['port']}", "a seed")
    yield made
    made.close()


@pytest.fixture
def url(proxy: CuttingProxy, tasker_database_url: str) -> str:
    database = conninfo.conninfo_to_dict(tasker_database_url)["dbname"]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?sslmode=disable&gssencmode=disable"


def test_statements_pass_unchanged_while_nothing_is_cut(proxy: CuttingProxy, url: str) -> None:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT repeat('x', 3000000), %s::text", ["ä" * 500_000]).fetchone()
    assert row == ("x" * 3_000_000, "ä" * 500_000)
    assert not proxy.cut(0)


def test_cuts_come_at_every_place_and_only_statements_that_were_not_answered_are_in_doubt(
    proxy: CuttingProxy, url: str, tasker_database_url: str
) -> None:
    with psycopg.connect(tasker_database_url, autocommit=True) as direct:
        direct.execute("CREATE TABLE kept (n integer PRIMARY KEY)")
        answered: set[int] = set()
        tried = 0
        proxy.cut(0.02)

        def try_once() -> bool:
            nonlocal tried
            try:
                with TimedConnection.connect(url, autocommit=True, connect_timeout=2) as connection:
                    connection.patience.seconds = 0.2
                    while True:
                        tried += 1
                        connection.execute("INSERT INTO kept VALUES (%s)", [tried])
                        answered.add(tried)
            except psycopg.OperationalError:
                return set(proxy.cut(0.02)) == set(PLACES)

        wait_until(try_once, "a cut at every place")
        kept = {n for (n,) in direct.execute("SELECT n FROM kept").fetchall()}
    assert answered <= kept
    assert answered < set(range(1, tried + 1))


def test_a_connection_ends_with_the_servers_side_of_it(proxy: CuttingProxy, url: str, tasker_database_url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(tasker_database_url) as direct:
        direct.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
