"""The embedded server when processes are killed: users, starters, the postmaster, the guardian."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasker.database.embedded import EmbeddedServer
from tasker.database.embedded.directory import Directory
from tasker.errors import EmbeddedServerError
from tests.embedded_support import (
    FAST,
    User,
    all_gone,
    execute,
    guardians,
    kill_postmaster,
    lives,
    postmaster,
    processes_of,
    server_folder,
    start,
    url_of,
    users,
)
from tests.waiting import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


# -- a user -----------------------------------------------------------------------------------------------------------


def test_a_user_that_is_killed_leaves_the_server_to_the_others(folder: Path) -> None:
    with start(folder) as server:
        User(folder).started().kill()
        assert execute(server.url, "SELECT 1") == 1
        assert server.is_running()
    assert postmaster(folder) is None


def test_the_server_stops_when_its_last_user_is_killed(folder: Path) -> None:
    user = User(folder).started()
    assert postmaster(folder) is not None
    user.kill()
    wait_until(lambda: all_gone(folder), "the server to stop")
    wait_until(lambda: not guardians(folder), "the guardian to end")
    assert "database system is shut down" in Directory(folder).log.read_text()


def test_the_next_starter_is_not_confused_by_a_last_user_that_was_killed_just_before(folder: Path) -> None:
    for _ in range(4):
        user = User(folder).started()
        with psycopg.connect(url_of(folder), autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (at timestamptz)")
            connection.execute("INSERT INTO kept VALUES (now())")
        user.kill()
        # The guardian may or may not have noticed yet.
        time.sleep(random.uniform(0, 0.15))
    with start(folder) as server:
        assert execute(server.url, "SELECT count(*) FROM kept") == 4
        assert len(guardians(folder)) == 1
        assert execute(server.url, "SELECT 1") == 1
    assert postmaster(folder) is None


def test_the_server_of_a_killed_user_and_a_killed_guardian_is_used_and_stopped_by_the_next(folder: Path) -> None:
    user = User(folder).started()
    before = postmaster(folder)
    for guardian in guardians(folder):
        os.kill(guardian, signal.SIGKILL)
    user.kill()
    with start(folder):
        assert postmaster(folder) == before
        assert len(guardians(folder)) == 1
    assert postmaster(folder) is None


# -- the server -------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_started_again_with_all_that_was_committed(folder: Path) -> None:
    with EmbeddedServer.start(folder) as server:
        execute(server.url, "CREATE TABLE kept (n int)")
        for number in range(3):
            execute(server.url, f"INSERT INTO kept VALUES ({number})")
            killed = kill_postmaster(folder)
            assert not server.is_running()
            server.ensure_running()
            assert postmaster(folder) not in {None, killed}
            assert execute(server.url, "SELECT count(*) FROM kept") == number + 1


def test_a_server_killed_with_all_its_processes_is_started_again(folder: Path) -> None:
    with start(folder) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        for pid in processes_of(folder):
            # Some end by themselves once the first ones are gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.ensure_running()
        assert execute(server.url, "SELECT answer FROM kept") == 42


def test_a_backend_without_its_postmaster_is_gone_before_the_next_server_starts(folder: Path) -> None:
    with start(folder) as server:
        connection = psycopg.connect(server.url, autocommit=True)
        orphan = connection.info.backend_pid

        def be_busy() -> None:
            # Never waits, so it does not notice by itself that its postmaster died.
            with pytest.raises(psycopg.OperationalError):
                connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")

        thread = threading.Thread(target=be_busy)
        thread.start()
        wait_until(
            lambda: execute(server.url, f"SELECT state FROM pg_stat_activity WHERE pid = {orphan}") == "active",
            "the backend to be busy",
        )
        kill_postmaster(folder)
        assert lives(orphan)
        server.ensure_running()
        assert not lives(orphan)
        assert execute(server.url, "SELECT 1") == 1
        thread.join(20)
        connection.close()
    assert "still in use" not in Directory(folder).log.read_text()


def test_a_backend_that_cannot_even_be_asked_to_end_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasker.database.embedded.postmaster._QUIT_SECONDS", 0.5)
    with start(folder) as server, psycopg.connect(server.url) as connection:
        orphan = connection.info.backend_pid
        os.kill(orphan, signal.SIGSTOP)
        kill_postmaster(folder)
        server.ensure_running()
        assert not lives(orphan)
        assert execute(server.url, "SELECT 1") == 1
        connection.close()


def test_processes_that_find_the_server_dead_at_the_same_moment_start_one(folder: Path) -> None:
    with users(folder, 8) as started:
        for user in started:
            user.started()
        kill_postmaster(folder)
        for user in started:
            user.tell("ensure")
        for user in started:
            user.told()
        with start(folder) as server:
            assert server.log_path.read_text().count("starting PostgreSQL") == 2
            assert execute(server.url, "SELECT 1") == 1


def test_a_crash_of_one_backend_is_recovered_by_the_server_itself(folder: Path) -> None:
    with start(folder) as server:
        before = postmaster(folder)
        with psycopg.connect(server.url) as connection:
            os.kill(connection.info.backend_pid, signal.SIGKILL)
            server.ensure_running()
            connection.close()

        def answers() -> bool:
            try:
                return execute(server.url, "SELECT 1") == 1
            except psycopg.OperationalError:  # the postmaster saw the crash only now, and is recovering
                return False

        wait_until(answers, "the server to have recovered")
        assert postmaster(folder) == before


# -- whoever starts or stops ------------------------------------------------------------------------------------------


def test_a_starter_killed_while_it_makes_the_cluster_leaves_nothing_half_made(folder: Path) -> None:
    user = User(folder)
    wait_until(lambda: (folder / "data.new" / "PG_VERSION").exists(), "the cluster to be in the making")
    user.kill()
    assert not (folder / "data").exists()
    with start(folder) as server:
        assert execute(server.url, "SELECT 1") == 1
    assert not (folder / "data.new").exists()


def test_a_cluster_in_the_making_is_given_up_when_its_starter_was_killed(folder: Path) -> None:
    user = User(folder)
    wait_until(lambda: (folder / "data.new" / "PG_VERSION").exists(), "the cluster to be in the making")
    user.kill()
    wait_until(lambda: not guardians(folder), "the guardian to end")
    assert all_gone(folder)
    assert not processes_of(folder)


@pytest.mark.long
def test_a_starter_killed_at_any_moment_leaves_a_server_that_the_next_can_use(folder: Path) -> None:
    with start(folder) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    for _ in range(6):
        already = len(Directory(folder).log.read_text())
        user = User(folder)
        # From the first line that the new server writes, or just before: in the middle of the start.
        wait_until(lambda before=already: len(Directory(folder).log.read_text()) > before, "the start to begin")
        time.sleep(random.uniform(0, 0.05))
        user.kill()
        with start(folder) as server:
            assert execute(server.url, "SELECT answer FROM kept") == 42
    assert postmaster(folder) is None


@pytest.mark.long
def test_a_stopper_killed_at_any_moment_leaves_a_server_that_the_next_can_use(folder: Path) -> None:
    for _ in range(5):
        user = User(folder).started()
        user.tell("release")
        time.sleep(random.uniform(0, 0.05))
        user.kill()
        with start(folder) as server:
            assert execute(server.url, "SELECT 1") == 1
    assert postmaster(folder) is None


def test_a_server_that_hangs_while_starting_is_an_error_that_names_the_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasker.database.embedded.server._CONNECT_TIMEOUT_SECONDS", 2)
    with start(folder):
        pid = postmaster(folder)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(EmbeddedServerError, match=r"accepts no connections after 0\.1 s"):
                EmbeddedServer.start(folder, settings=FAST, start_timeout_seconds=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)
