"""The embedded server of a root process, whose PostgreSQL runs as a system user; and of others, as seen by root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasker.database.embedded.directory import Directory
from tasker.database.embedded.installation import Installation, SystemUser, system_user
from tasker.errors import EmbeddedServerError
from tests.embedded_support import User, execute, mode_of, postmaster, server_folder, start

# Others have nothing to test here, rather than something to skip.
__test__ = os.geteuid() == 0

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


def test_another_user_cannot_connect(folder: Path) -> None:
    with start(folder) as server:
        psql = Installation.find().bin / "psql"
        command = [psql, server.url, "-c", "SELECT 1"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        refused = subprocess.run(
            command, capture_output=True, text=True, check=False, user=NOBODY, group=NOBODY, extra_groups=[]
        )
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr


def test_root_is_told_when_its_folder_is_closed_to_the_system_user(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match="cannot enter"):
        start(folder)
    assert mode_of(folder.parent) == 0o700


def test_binaries_that_the_system_user_cannot_reach_are_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Installation.find()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = installed.bin.parent.parent
    for part in ("bin", "lib/postgresql", "share"):
        target = closed / package.name / installed.bin.parent.name / part
        shutil.copytree(installed.bin.parent / part, target, copy_function=os.link)
    shutil.copytree(package.parent / f"{package.name}.libs", closed / f"{package.name}.libs", copy_function=os.link)
    hidden = Installation(closed / package.name / installed.bin.parent.name / "bin")
    monkeypatch.setattr(Installation, "find", classmethod(lambda cls: hidden))
    umask = os.umask(0o077)
    try:
        with start(folder) as server:
            where = str(execute(server.url, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
            assert where.startswith(str(folder))
        with start(folder) as server:
            assert execute(server.url, "SELECT 1") == 1
    finally:
        os.umask(umask)
    assert mode_of(closed) == 0o700


def test_a_plain_user_runs_it_as_himself(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    first, second = User(folder, user=NOBODY).started(), User(folder, user=NOBODY).started()
    assert mode_of(folder) == 0o700
    assert mode_of(Directory(folder).cluster) == 0o700
    with pytest.raises(EmbeddedServerError, match=f"belongs to user id {NOBODY}"):
        start(folder)
    first.kill()
    second.ask("ensure")
    second.ask("release")
    assert postmaster(folder) is None
    second.end()


def test_a_home_that_cannot_be_written_is_a_clear_error(folder: Path) -> None:
    code = "from tasker.database.embedded import EmbeddedServer; import os; os.setuid(65534); EmbeddedServer.start()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EmbeddedServerError: cannot use" in result.stderr
    assert "DATABASE_URL" in result.stderr


def test_a_closed_umask_does_not_close_the_folders_that_root_makes(folder: Path) -> None:
    folder.chmod(0o711)
    before = os.umask(0o077)
    try:
        with start(folder / "made" / "for" / "it") as server:
            assert execute(server.url, "SELECT 1") == 1
    finally:
        os.umask(before)


def test_the_system_user_is_made_once_by_many_who_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tasker-test-{os.getpid()}"
    code = f"from tasker.database.embedded import installation as i; i._SYSTEM_USER = '{name}'; print(i.system_user())"
    try:
        makers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        answers = {maker.communicate(timeout=60)[0] for maker in makers}
        made = pwd.getpwnam(name)
        assert answers == {f"{SystemUser(name, made.pw_uid, made.pw_gid)}\n"}
        assert (made.pw_dir, made.pw_shell) == ("/nonexistent", "/usr/sbin/nologin")
        assert 0 < made.pw_uid < 1000
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def test_without_a_way_to_make_a_system_user_root_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(EmbeddedServerError, match="useradd is not installed"):
        system_user()


def test_data_of_a_system_user_that_is_gone_are_a_clear_error(folder: Path) -> None:
    start(folder).release()
    shutil.chown(folder / "data", 54321)
    with pytest.raises(EmbeddedServerError, match="user id 54321"):
        start(folder)
