"""Migrating: once or twice, by one or many at once, from nothing or from an older release, forwards only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from tasker.config.resources import resource_dir
from tasker.database import function_files, migrations
from tasker.database.migrations import SchemaState
from tasker.database.scratch import ScratchDatabases
from tasker.errors import SchemaVersionError
from tests.proxies import AnswerLosingProxy
from tests.schema_kit import schema_of
from tests.sql_kit import CHAIN, Core

SHIPPED = Path(__file__).parents[2] / "migrations"
LAST_REVISION = "0009"


class Release:
    """The migrations of a release, in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.number = migrations.release()

    def write(self, name: str, text: str) -> None:
        (self.folder / "functions" / f"{name}.sql").write_text(text)

    def remove(self, name: str) -> None:
        (self.folder / "functions" / f"{name}.sql").unlink()

    def read(self, name: str) -> str:
        return (self.folder / "functions" / f"{name}.sql").read_text()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """The release that this process is made to be; as shipped at first."""
    made = Release(tmp_path / "migrations")
    monkeypatch.setattr(migrations, "resource_dir", lambda _: made.folder)
    monkeypatch.setattr(function_files, "resource_dir", lambda _: made.folder)
    monkeypatch.setattr(migrations, "release", lambda: made.number)
    return made


@pytest.fixture
def empty_url(tasker_server: ScratchDatabases) -> Iterator[str]:
    url = tasker_server.create(migrated=False)
    yield url
    tasker_server.drop(url)


@pytest.fixture
def two_empty_urls(any_server: ScratchDatabases) -> Iterator[tuple[str, str]]:
    """Two empty databases, on each server there is."""
    urls = any_server.create(migrated=False), any_server.create(migrated=False)
    yield urls
    for url in urls:
        any_server.drop(url)


def value(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    return None if row is None else row[0]


def execute(url: str, query: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(query)  # type: ignore[arg-type]


# -- from nothing ---------------------------------------------------------------------------------------------


def test_an_empty_database_becomes_current_and_a_second_migration_does_nothing(empty_url: str) -> None:
    assert migrations.status(empty_url).state is SchemaState.EMPTY
    first = migrations.migrate(empty_url)
    assert first.changed
    assert first.pgmq_installed
    assert first.from_revision is None
    found = migrations.check(empty_url)
    assert (found.state, found.revision, found.pgmq) == (SchemaState.CURRENT, first.to_revision, "sql")

    before = schema_of(empty_url)
    assert not migrations.migrate(empty_url).changed
    assert schema_of(empty_url) == before


def test_revisions_are_known_by_the_names_of_their_files(empty_url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(resource_dir("migrations")))
    revisions = [entry.revision for entry in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions[0] == LAST_REVISION == migrations.status(empty_url).head
    names = {path.name.partition("_")[0] for path in resource_dir("migrations").glob("versions/*_*.py")}
    assert set(revisions) == names


def test_an_empty_database_is_refused_with_what_to_do(empty_url: str) -> None:
    with pytest.raises(SchemaVersionError) as caught:
        migrations.check(empty_url)
    assert "tasker db migrate" in str(caught.value)


def test_ten_processes_may_migrate_one_empty_database_at_once(empty_url: str) -> None:
    program = "import sys; from tasker.database.migrations import migrate; print(migrate(sys.argv[1]).changed, end='')"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(10)
    ]
    ended = [(*process.communicate(timeout=100), process.returncode) for process in processes]
    assert [(error, code) for _, error, code in ended] == [("", 0)] * 10
    assert sorted(changed for changed, _, _ in ended) == ["False"] * 9 + ["True"]
    assert migrations.status(empty_url).state is SchemaState.CURRENT


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, release: Release) -> None:
    release.write("broken", "CREATE OR REPLACE FUNCTION tasker.broken() RETURNS integer LANGUAGE nonsense AS 'x';")
    with pytest.raises(SchemaVersionError, match=r"broken\.sql"):
        migrations.migrate(empty_url)
    assert value(empty_url, "SELECT count(*) FROM pg_namespace WHERE nspname IN ('tasker', 'pgmq')") == 0


def test_the_printed_sql_makes_the_same_schema(two_empty_urls: tuple[str, str]) -> None:
    migrated, by_hand = two_empty_urls
    migrations.migrate(migrated)
    execute(by_hand, migrations.ddl())
    assert schema_of(by_hand) == schema_of(migrated)
    assert not migrations.migrate(by_hand).changed


def test_pgmq_that_is_there_is_left_alone(empty_url: str) -> None:
    from pgmq.install import get_embedded_install_sql

    execute(empty_url, get_embedded_install_sql())
    execute(empty_url, "SELECT pgmq.create('of_somebody_else')")
    report = migrations.migrate(empty_url)
    assert report.changed
    assert not report.pgmq_installed
    assert value(empty_url, "SELECT count(*) FROM pgmq.meta WHERE queue_name = 'of_somebody_else'") == 1


def test_a_schema_pgmq_without_its_functions_is_refused(empty_url: str) -> None:
    execute(empty_url, "CREATE SCHEMA pgmq")
    with pytest.raises(SchemaVersionError, match=r"pgmq\.create") as caught:
        migrations.migrate(empty_url)
    assert caught.value.hint is not None
    assert value(empty_url, "SELECT to_regnamespace('tasker') IS NULL") is True


# -- from an older release ------------------------------------------------------------------------------------


def older(release: Release, folder: Path) -> None:
    """Make ``release`` one that knew neither the last revision nor today's text of some functions."""
    for path in folder.joinpath("versions").glob(f"{LAST_REVISION}_*.py"):
        path.unlink()
    for path in folder.joinpath("functions").glob("celery_*.sql"):
        path.unlink()
    release.number = "0.0.1"
    # Another signature of what a view uses, another result, other columns, and one that is gone today.
    release.write(
        "now",
        "CREATE OR REPLACE FUNCTION tasker.now(integer DEFAULT 0) RETURNS timestamptz"
        " LANGUAGE sql STABLE AS 'SELECT transaction_timestamp()';",
    )
    release.write(
        "is_uuid", "CREATE OR REPLACE FUNCTION tasker.is_uuid(x text) RETURNS integer LANGUAGE sql AS 'SELECT 1';"
    )
    release.write("workflow_step_edges", "CREATE OR REPLACE VIEW tasker.workflow_step_edges AS SELECT 1 AS one;")
    release.write("of_old", "CREATE OR REPLACE FUNCTION tasker.of_old() RETURNS integer LANGUAGE sql AS 'SELECT 1';")


def test_an_upgraded_schema_is_the_same_as_a_fresh_one(two_empty_urls: tuple[str, str], release: Release) -> None:
    upgraded, fresh = two_empty_urls
    older(release, release.folder)
    migrations.migrate(upgraded)
    assert value(upgraded, "SELECT to_regprocedure('tasker.of_old()') IS NOT NULL") is True

    shutil.rmtree(release.folder)
    shutil.copytree(SHIPPED, release.folder, ignore=shutil.ignore_patterns("__pycache__"))
    release.number = "0.1.0"
    assert migrations.status(upgraded).state is SchemaState.BEHIND
    report = migrations.migrate(upgraded)
    assert report.from_revision != report.to_revision
    assert report.functions.vanished == ("of_old",)

    migrations.migrate(fresh)
    assert [line for line in schema_of(upgraded) if "('release', '0.0.1'" not in line] == schema_of(fresh)


def test_a_database_that_is_behind_is_refused_with_what_to_do(empty_url: str, release: Release) -> None:
    migrations.migrate(empty_url)
    release.write("now", release.read("now") + "-- changed\n")
    with pytest.raises(SchemaVersionError, match="now") as caught:
        migrations.check(empty_url)
    assert "tasker db migrate" in str(caught.value)


def test_only_functions_whose_text_changed_are_applied_again(empty_url: str, release: Release) -> None:
    migrations.migrate(empty_url)
    moment = "SELECT applied_at FROM tasker.schema_functions WHERE name = '{}'"
    before = {name: value(empty_url, moment.format(name)) for name in ("now", "uuid7")}
    release.write("now", release.read("now") + "-- changed\n")
    assert migrations.migrate(empty_url).functions.changed == ("now",)
    assert value(empty_url, moment.format("now")) != before["now"]
    assert value(empty_url, moment.format("uuid7")) == before["uuid7"]


def test_functions_and_views_may_need_one_another_in_any_order(empty_url: str, release: Release) -> None:
    release.write(
        "aaa_uses_view",
        "CREATE OR REPLACE FUNCTION tasker.aaa_uses_view() RETURNS SETOF tasker.zzz_view"
        " LANGUAGE sql STABLE AS 'SELECT * FROM tasker.zzz_view';",
    )
    release.write("zzz_view", "CREATE OR REPLACE VIEW tasker.zzz_view AS SELECT tasker.zzz_function() AS one;")
    release.write(
        "zzz_function",
        "CREATE OR REPLACE FUNCTION tasker.zzz_function() RETURNS integer LANGUAGE sql STABLE AS 'SELECT 1';",
    )
    migrations.migrate(empty_url)
    assert value(empty_url, "SELECT one FROM tasker.aaa_uses_view()") == 1


def test_a_file_that_makes_something_else_is_refused(empty_url: str, release: Release) -> None:
    release.write("misnamed", "CREATE OR REPLACE FUNCTION tasker.other() RETURNS integer LANGUAGE sql AS 'SELECT 1';")
    with pytest.raises(SchemaVersionError, match=r"misnamed\.sql must create tasker\.misnamed"):
        migrations.migrate(empty_url)


# -- old and new at the same time -----------------------------------------------------------------------------


def test_a_process_of_an_older_release_applies_nothing_and_says_so(empty_url: str, release: Release) -> None:
    release.number = "0.2.0"
    migrations.migrate(empty_url)
    before = schema_of(empty_url)

    release.number = "0.1.9"
    release.write("now", release.read("now") + "-- the older text\n")
    assert migrations.status(empty_url).state is SchemaState.NEWER
    with pytest.raises(SchemaVersionError, match=r"migrated by Tasker 0\.2\.0") as caught:
        migrations.migrate(empty_url)
    assert "applies nothing" in str(caught.value)
    assert schema_of(empty_url) == before


def test_a_process_that_does_not_know_the_revision_applies_nothing(empty_url: str, release: Release) -> None:
    migrations.migrate(empty_url)
    execute(empty_url, "UPDATE tasker.alembic_version SET version_num = '9999'")
    before = schema_of(empty_url)
    with pytest.raises(SchemaVersionError, match="9999"):
        migrations.migrate(empty_url)
    assert schema_of(empty_url) == before


def test_a_process_of_an_older_release_works_on_while_its_functions_are_there(empty_url: str, release: Release) -> None:
    release.number = "0.2.0"
    release.write("now", release.read("now") + "-- the newer text\n")
    release.write(
        "claim_steps_v2",
        "CREATE OR REPLACE FUNCTION tasker.claim_steps_v2() RETURNS integer LANGUAGE sql AS 'SELECT 2';",
    )
    migrations.migrate(empty_url)

    release.number = "0.1.0"
    shutil.copy(SHIPPED / "functions" / "now.sql", release.folder / "functions")
    release.remove("claim_steps_v2")
    assert migrations.check(empty_url).state is SchemaState.NEWER
    assert migrations.ensure(empty_url, allowed=True).state is SchemaState.NEWER


def test_functions_are_replaced_under_running_work_without_disturbing_it(
    tasker_database_url: str, release: Release
) -> None:
    core = Core(tasker_database_url)
    core.register("order", CHAIN)
    stop = threading.Event()
    ran = []

    def work() -> int:
        worker = core.executor()
        steps = 0
        while not stop.is_set():
            core.create("order", 2)
            ran.append(worker.run_all(continue_limit=5))
            steps += ran[-1]
        return steps

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            for number in range(3):
                seen = len(ran)
                for path in (release.folder / "functions").glob("*.sql"):
                    path.write_text(path.read_text() + f"-- {number}\n")
                assert migrations.migrate(tasker_database_url).changed
                while len(ran) < seen + 3 and not working.done():
                    time.sleep(0.005)
        finally:
            stop.set()
        assert working.result(timeout=30) == 8 * len(ran)
    assert core.broken_rules() == []
    core.close()


def test_a_process_whose_functions_are_gone_is_refused(empty_url: str, release: Release) -> None:
    release.number = "0.4.0"
    text = release.read("claim_steps")
    release.remove("claim_steps")
    migrations.migrate(empty_url)

    release.number = "0.1.0"
    release.write("claim_steps", text)
    with pytest.raises(SchemaVersionError, match=r"too old .*tasker\.claim_steps"):
        migrations.check(empty_url)


def test_a_release_without_changes_is_recorded_so_that_older_ones_see_it(empty_url: str, release: Release) -> None:
    migrations.migrate(empty_url)
    release.number = "0.1.1"
    assert migrations.check(empty_url).state is SchemaState.CURRENT
    migrations.migrate(empty_url)
    assert migrations.status(empty_url).release == "0.1.1"


def test_releases_are_compared_as_numbers(empty_url: str, release: Release) -> None:
    release.number = "0.9.0"
    migrations.migrate(empty_url)
    release.number = "0.10.0"
    assert migrations.status(empty_url).state is SchemaState.CURRENT
    migrations.migrate(empty_url)
    release.number = "0.9.0"
    assert migrations.status(empty_url).state is SchemaState.NEWER


def test_a_migration_whose_connection_is_lost_is_psycopgs_error_and_leaves_nothing(empty_url: str) -> None:
    def loses(message: bytes) -> bool:
        return b"schema_releases" in message and b"CREATE TABLE" in message

    with AnswerLosingProxy(empty_url, loses) as proxy, pytest.raises(psycopg.OperationalError):
        migrations.migrate(proxy.url)
    assert proxy.lost == 1
    assert migrations.status(empty_url).state is SchemaState.EMPTY
