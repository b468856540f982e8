"""The embedded server in peaceful times: sharing, permissions, errors."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tasker.database.embedded import EmbeddedServer, default_data_directory
from tasker.database.embedded.directory import Directory
from tasker.database.embedded.guardian import last_user_gone
from tasker.database.embedded.installation import Installation, system_user
from tasker.database.embedded.locks import FileLock
from tasker.errors import EmbeddedServerError
from tests.embedded_support import (
    FAST,
    execute,
    guardians,
    mode_of,
    postmaster,
    server_folder,
    start,
    users,
)
from tests.forking import in_child
from tests.waiting import wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


# -- sharing ----------------------------------------------------------------------------------------------------------


def test_a_first_start_makes_a_durable_postgresql_18_with_a_database_named_tasker(folder: Path) -> None:
    with EmbeddedServer.start(folder) as server:
        assert execute(server.url, "SELECT current_database()") == "tasker"
        assert str(execute(server.url, "SHOW server_version")).startswith("18.")
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert execute(server.url, f"SHOW {setting}") == "on"
        assert execute(server.url, "SHOW max_connections") == "200"
        assert execute(server.url, "SHOW shared_buffers") == "128MB"
        assert execute(server.url, "SHOW server_encoding") == "UTF8"


def test_the_last_to_release_stops_the_server_and_the_data_are_there_at_the_next_start(folder: Path) -> None:
    first, second = start(folder), start(folder)
    assert first.url == second.url
    execute(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.release()
    first.release()
    assert execute(second.url, "SELECT answer FROM kept") == 42
    second.release()
    assert not second.is_running()
    assert postmaster(folder) is None
    with start(folder) as third:
        assert execute(third.url, "SELECT answer FROM kept") == 42


def test_twenty_processes_that_start_at_once_share_one_server(folder: Path) -> None:
    with users(folder, 20) as started:
        for user in started:
            user.started()
        assert len(guardians(folder)) == 1
        with start(folder) as server:
            assert (server.log_path.read_text()).count("starting PostgreSQL") == 1
        for user in started[:19]:
            user.end()
        assert postmaster(folder) is not None
        started[19].end()
        assert postmaster(folder) is None
        for user in started:
            user.process.stdin = open(os.devnull)  # noqa: SIM115 - so that they can be killed once more
            user.process.stdout = open(os.devnull)  # noqa: SIM115


def test_the_guardian_goes_with_the_server(folder: Path) -> None:
    server = start(folder)
    assert len(guardians(folder)) == 1
    server.release()
    wait_until(lambda: not guardians(folder), "the guardian to end")


def test_the_guardian_tells_the_log_what_it_could_not_stop(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start(folder).release()
    last_user_gone(str(folder))
    assert capfd.readouterr().err == ""
    lock = FileLock(Directory(folder).server_lock)  # as held by a process of another container
    assert lock.try_acquire()
    last_user_gone(str(folder))
    assert "cannot be seen from here" in capfd.readouterr().err
    lock.release()


def test_without_an_interpreter_there_is_no_guardian_but_a_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for executable in ("/usr/sbin/uwsgi", "", None, "/nowhere/python3"):
        monkeypatch.setattr(sys, "executable", executable)
        with start(folder) as server:
            assert execute(server.url, "SELECT 1") == 1
            assert not guardians(folder)
        assert postmaster(folder) is None


def test_a_guardian_that_was_killed_is_replaced_when_somebody_looks(folder: Path) -> None:
    with start(folder) as server:
        [guardian] = guardians(folder)
        os.kill(guardian, 9)
        wait_until(lambda: not guardians(folder), "the guardian to die")
        server.ensure_running()
        assert len(guardians(folder)) == 1


# -- forked children --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_that_releases_leaves_the_server_to_its_parent(folder: Path) -> None:
    with start(folder) as server:

        def work() -> None:
            assert execute(server.url, "SELECT 1") == 1
            server.ensure_running()
            server.release()

        assert in_child(work) == 0
        assert execute(server.url, "SELECT 1") == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_keeps_the_server_when_its_parent_releases(folder: Path) -> None:
    server = start(folder)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child's coverage is not measured
        ours.close()
        theirs.recv(1)
        code = 1
        try:
            assert execute(server.url, "SELECT 1") == 1
            server.release()
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    server.release()
    assert server.is_running()
    ours.sendall(b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ours.close()
    assert not server.is_running()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_daemon_that_closed_all_its_files_takes_hold_again(folder: Path) -> None:
    with start(folder) as server:

        def work() -> None:
            os.closerange(3, 200)
            other = os.open("/dev/null", os.O_RDONLY)
            server.ensure_running()
            assert server._users.is_held()
            server.release()
            os.fstat(other)

        assert in_child(work) == 0


# -- who may enter ----------------------------------------------------------------------------------------------------


def test_only_the_owner_can_enter_and_nothing_listens_on_tcp(folder: Path) -> None:
    folder.chmod(0o755)
    with start(folder) as server:
        assert execute(server.url, "SHOW listen_addresses") == ""
        directory = Directory(folder)
        assert mode_of(directory.socket_directory) == 0o700
        assert mode_of(directory.socket) == 0o700
        assert mode_of(directory.cluster) == 0o700
        assert mode_of(folder) == (0o710 if os.geteuid() == 0 else 0o700)
        owners = {os.geteuid()} if (user := system_user()) is None else {user.uid}
        assert directory.socket_directory.stat().st_uid in owners


def test_folders_above_keep_their_permissions(folder: Path) -> None:
    above = folder.parent
    before = {path: mode_of(path) for path in (above, *above.parents)}
    folder.chmod(0o711)
    with start(folder / "deeper"):
        assert {path: mode_of(path) for path in (above, *above.parents)} == before
    shutil.rmtree(folder / "deeper")


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deep" * 40, "with space, comma 'and' \"quotes\" $HOME % `date` \\ and ä"])
def test_any_path_will_do(folder: Path, name: str) -> None:
    folder.chmod(0o711)
    with start(folder / name) as server:
        assert execute(server.url, "SELECT 1") == 1
        outside = Directory(folder / name).socket_directory
        assert outside.parent == Path("/tmp")
        assert mode_of(outside) == 0o700
    assert not outside.exists()


def test_a_socket_folder_that_somebody_else_made_is_refused(folder: Path) -> None:
    folder.chmod(0o711)
    deep = folder / ("deep" * 40)
    deep.mkdir()
    outside = Directory(deep).socket_directory
    outside.symlink_to(folder)
    try:
        with pytest.raises(EmbeddedServerError, match="was made by"):
            start(deep)
    finally:
        outside.unlink()


def test_the_default_folder_is_below_the_users_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_directory() == Path("/somewhere/tasker/postgres-18")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_data_directory() == Path("/home/ada/.local/share/tasker/postgres-18")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_directory() == Path("/var/lib/tasker/postgres-18")


def test_the_environment_of_libpq_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "5433", "PGUSER": "ada", "PGDATABASE": "other", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with start(folder) as server:
        assert execute(server.url, "SELECT current_user || current_database()") == "postgrestasker"


def test_a_folder_reached_by_another_name_has_the_same_server(folder: Path) -> None:
    folder.chmod(0o711)
    deep, link = folder / ("deep" * 40), folder / "link"
    link.symlink_to(deep)
    with start(deep) as server, start(link) as same:
        assert same.url == server.url


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    (folder / "thesis.txt").write_text("years of work")
    folder.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"holds other files \(thesis.txt\)"):
        start(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert mode_of(folder) == 0o755


def test_a_file_in_the_folders_place_is_a_clear_error(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot use .*Not a directory"):
        start(folder / "file" / "server")


def test_data_of_another_version_are_left_alone(folder: Path) -> None:
    start(folder).release()
    (folder / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="version '16'"):
        start(folder)


def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(folder: Path) -> None:
    start(folder).release()
    with (folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = on\n")
    with pytest.raises(EmbeddedServerError, match='unrecognized configuration parameter "no_such_setting"'):
        start(folder)
    assert postmaster(folder) is None


def test_a_cluster_that_cannot_be_made_is_an_error_with_the_reason_and_leaves_no_half_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = folder.parent / "bin"
    broken.mkdir()
    for program in ("initdb", "postgres"):
        (broken / program).write_text('#!/bin/sh\n[ "$1" = --version ] || { echo the disk is full; exit 1; }\n')
        (broken / program).chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(Installation, "find", classmethod(lambda cls: cls(broken)))
        with pytest.raises(EmbeddedServerError, match=r"initdb failed (.|\n)*the disk is full"):
            start(folder)
    assert not (folder / "data").exists()
    with start(folder) as server:
        assert execute(server.url, "SELECT 1") == 1


def control(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    user = system_user()
    return subprocess.run(
        [Installation.find().bin / "pg_ctl", "-D", folder / "data", "-w", *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        **({} if user is None else user.process_arguments()),
    )


def test_a_second_server_on_the_same_data_is_refused(folder: Path) -> None:
    with start(folder) as server:
        assert control(folder, "-o", "-h '' -k ''", "start").returncode != 0
        assert execute(server.url, "SELECT 1") == 1


def test_a_server_that_was_started_by_hand_is_neither_used_nor_joined_by_a_second(folder: Path) -> None:
    start(folder).release()
    assert (
        control(folder, "-l", folder / "data" / "by_hand.log", "-o", f"-h '' -k {folder}/data", "start").returncode == 0
    )
    try:
        with pytest.raises(EmbeddedServerError, match="not started by Tasker"):
            start(folder)
    finally:
        assert control(folder, "stop").returncode == 0
    with start(folder) as server:
        assert execute(server.url, "SELECT 1") == 1


def test_a_server_stopped_by_hand_is_started_again(folder: Path) -> None:
    with start(folder) as server:
        assert control(folder, "stop").returncode == 0
        assert not server.is_running()
        server.ensure_running()
        assert execute(server.url, "SELECT 1") == 1


def test_a_process_id_that_was_given_to_another_program_stops_nothing(folder: Path) -> None:
    start(folder).release()
    # What a power cut leaves behind, with the ids of a program that runs now.
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n1\n5432\n{folder}\n\n1 1\nready\n")
    (folder / "socket" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n{folder}/data\n1\n5432\n{folder}\n")
    with start(folder) as server:
        assert execute(server.url, "SELECT 1") == 1


def test_a_server_whose_socket_was_removed_is_started_again(folder: Path) -> None:
    with start(folder) as server:
        Directory(folder).socket.unlink()
        server.ensure_running()
        assert execute(server.url, "SELECT 1") == 1


def test_a_server_without_a_free_connection_is_left_running(folder: Path) -> None:
    with EmbeddedServer.start(folder, settings={**FAST, "max_connections": "4"}) as server:
        before = postmaster(folder)
        taken = [psycopg.connect(server.url) for _ in range(4)]
        try:
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                psycopg.connect(server.url)
            server.ensure_running()
        finally:
            for connection in taken:
                connection.close()
        assert postmaster(folder) == before


def test_a_large_log_is_put_aside_at_a_start(folder: Path) -> None:
    with start(folder) as server:
        log = server.log_path
    with log.open("a") as stream:
        stream.truncate(11 * 1024 * 1024)
    with start(folder):
        assert log.stat().st_size < 100_000
        assert log.with_name("server.log.1").exists()
