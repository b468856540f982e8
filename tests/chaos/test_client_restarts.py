"""A client when its database is killed: waiting goes on, and the next call finds the server that came back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tasker import Tasker
from tasker.database.connection import Database, is_connection_lost
from tasker.database.embedded import EmbeddedServer
from tasker.database.migrations import migrate
from tests.embedded_support import kill_postmaster, server_folder, start
from tests.sql_kit import CHAIN, Core, assert_legal
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with server_folder() as folder, start(folder) as made:
        migrate(made.url)
        yield made
        made.ensure_running()  # a session may outlive its server for a moment, and answer the last call
        assert_legal(made.url)


def test_waiting_survives_a_killed_server_and_sees_the_end(server: EmbeddedServer) -> None:
    database = Database(server.url, revive=server.ensure_running)
    with Tasker(database) as client, ThreadPoolExecutor(1) as pool:
        core = Core(server.url)
        core.register("order", CHAIN)
        handle = client.create("shop", "order")
        ended = pool.submit(handle.wait, 90)
        wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters") == 1, "the waiting to begin")
        core.close()

        kill_postmaster(server.data_directory)
        server.ensure_running()
        after = Core(server.url)
        after.executor().run_all()
        assert ended.result(timeout=60).state == "complete"
        after.close()
    database.close()


def test_the_next_calls_find_a_server_that_was_killed_without_any_help(server: EmbeddedServer) -> None:
    database = Database(server.url, revive=server.ensure_running)
    with Tasker(database) as client:
        assert client.list().tasks == ()
        kill_postmaster(server.data_directory)

        def answers() -> bool:
            try:
                return client.list().tasks == ()
            except psycopg.OperationalError as error:
                if not is_connection_lost(error):
                    raise
                return False

        wait_until(answers, "the client to reach the server that it brought back")
    database.close()
