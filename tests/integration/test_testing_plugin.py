"""The pytest plugin, in test runs of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import psycopg
import pytest

from tasker.testing.servers import LOCAL_SERVER_VARIABLE, SERVER_VARIABLE, _remove_abandoned
from tests.embedded_support import all_gone, execute
from tests.waiting import wait_until

CLOSED_PORT = "postgresql://postgres@127.0.0.1:1/postgres"


def command(folder: Path, test: str, *arguments: str) -> list[str]:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (folder / "test_user.py").write_text(test)
    # The plugins of this environment's other packages have nothing to do with it (and import Celery, for one).
    plugins = ("--disable-plugin-autoload", "-p", "tasker.testing.plugin", "-p", "pytest_cov")
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugins, *arguments]


def run(folder: Path, test: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "TASKER_TEST", "CI"))}
    return subprocess.run(
        command(folder, test, *arguments),
        cwd=folder,
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pytest_finds_the_plugin_by_itself() -> None:
    assert [point.value for point in entry_points(group="pytest11", name="tasker")] == ["tasker.testing.plugin"]


def test_a_run_without_its_fixtures_imports_nothing_of_tasker_but_the_plugin(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
import sys

def test_modules():
    heavy = {"psycopg", "sqlalchemy", "celery", "kombu", "pydantic", "psutil", "platformdirs", "alembic"}
    assert not heavy & set(sys.modules)
    mine = {name for name in sys.modules if name.split(".")[0] == "tasker"}
    # The broker's scheme is registered by ``import tasker`` itself; that module imports nothing.
    scheme = {"tasker.messaging", "tasker.messaging.transport", "tasker.messaging.transport.registration"}
    assert mine - scheme == {"tasker", "tasker.testing", "tasker.testing.plugin", "tasker.testing.fixtures"}
""",
    )
    assert result.returncode == 0, result.stdout


def test_coverage_sees_modules_from_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("PRICE = 3\n\n\ndef price():\n    return PRICE\n")
    (tmp_path / ".coveragerc").write_text("[run]\ndata_file = coverage.data\n")
    result = run(
        tmp_path,
        "import shop\nimport tasker.errors\ndef test_price(): assert shop.price() == 3\n",
        "--cov=shop",
        "--cov=tasker.errors",
        "--cov-report=term-missing",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if ".py " in line}
    assert lines["shop.py"][3] == "100%"
    missed = next(columns for name, columns in lines.items() if name.endswith("errors.py"))
    assert "1-" not in missed[-1].split(",")[0]


USES_SERVER = """
import pathlib
import psycopg

def test_use(tasker_database_url, tasker_server):
    with psycopg.connect(tasker_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM tasker.tasks").fetchone() == (0,)
        row = connection.execute("SHOW data_directory").fetchone()
    pathlib.Path("where").write_text(row[0])
    pathlib.Path("pid").write_text("")
"""


def server_of(folder: Path) -> Path:
    return Path((folder / "where").read_text()).parent


def test_the_server_of_a_run_is_gone_with_its_folder_even_if_tests_fail(tmp_path: Path) -> None:
    result = run(tmp_path, f"{USES_SERVER}    raise AssertionError('as wished')\n")
    assert "as wished" in result.stdout
    assert "1 failed in" in result.stdout
    assert server_of(tmp_path).name.startswith("tasker-test-")
    assert not server_of(tmp_path).exists()


def test_the_server_of_a_killed_run_stops_and_its_folder_goes_with_a_later_run(tmp_path: Path) -> None:
    test = f"{USES_SERVER}    import time; time.sleep(60)\n"
    environment = {name: value for name, value in os.environ.items() if name != SERVER_VARIABLE}
    with subprocess.Popen(
        command(tmp_path, test), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until((tmp_path / "pid").exists, "the test to use the server")
        process.send_signal(signal.SIGKILL)
    folder = server_of(tmp_path)
    wait_until(lambda: all_gone(folder), "the server to stop")
    _remove_abandoned(folder.parent)
    assert folder.exists()
    os.utime(folder / "users.lock", (0, 0))
    wait_until(lambda: _remove_abandoned(folder.parent) or not folder.exists(), "the folder to be removed")


def test_another_server_is_used_where_the_environment_names_one(tmp_path: Path, tasker_server: object) -> None:
    url = tasker_server.url  # type: ignore[attr-defined]
    databases = "SELECT array_agg(datname ORDER BY datname) FROM pg_database"
    before = execute(url, databases)
    result = run(tmp_path, USES_SERVER, **{SERVER_VARIABLE: url})
    assert result.returncode == 0, result.stdout
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == ((tmp_path / "where").read_text(),)
    assert execute(url, databases) == before


ON_ANY_SERVER = "def test_any(any_server): assert any_server.url\n"


def test_tests_on_any_server_run_on_the_local_one_too(tmp_path: Path, tasker_server: object) -> None:
    url = tasker_server.url  # type: ignore[attr-defined]
    result = run(tmp_path, ON_ANY_SERVER, "-v", **{SERVER_VARIABLE: url, LOCAL_SERVER_VARIABLE: url})
    assert "test_any[own] PASSED" in result.stdout
    assert "test_any[local] PASSED" in result.stdout


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 passed, 1 skipped"), ("true", "1 passed, 1 error")])
def test_a_local_server_that_does_not_answer_is_skipped_but_not_silently_in_ci(
    tmp_path: Path, tasker_server: object, ci: str, outcome: str
) -> None:
    url = tasker_server.url  # type: ignore[attr-defined]
    environment = {SERVER_VARIABLE: url, LOCAL_SERVER_VARIABLE: CLOSED_PORT, "CI": ci}
    result = run(tmp_path, ON_ANY_SERVER, "-rs", **environment)
    assert outcome in result.stdout
    assert "127.0.0.1:1/postgres cannot be used" in result.stdout
