from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from tasker.config.files import read_dir
from tasker.config.keys import all_keys, mask, nearest_key, render
from tasker.config.layers import merge
from tasker.config.manager import ConfigManager
from tasker.config.resources import resource_dir
from tasker.config.settings import Settings
from tasker.errors import ConfigurationError
from tests.unit.config.conftest import Project

pytestmark = pytest.mark.config

SECRET = "postgresql://joe:sesame@db:5432/shop"


# -- what is shipped


@pytest.mark.parametrize("environment", ["development", "test", "production"])
def test_every_shipped_environment_loads(environment: str, project: Project) -> None:
    assert project.load(environment).environment == environment


def test_the_base_files_give_every_key_its_default() -> None:
    """One place to read them all; keys whose default follows from others are there as comments."""
    problems: list[Any] = []
    base, _ = read_dir(resource_dir("settings"), "none", problems)
    assert problems == []
    tables = merge([base], problems)
    for name, key in all_keys().items():
        text = "".join(path.read_text() for path in resource_dir("settings").glob("base/*.toml"))
        if key.derived is not None or key.secret:
            assert name not in base.values
            assert f"# {name.rpartition('.')[2]} = " in text
        else:
            assert name in base.values, f"{name} is in no base file"
    assert Settings.model_validate(tables) == Settings()


def test_every_file_of_an_environment_overrides_what_base_has() -> None:
    for environment in ("development", "test", "production"):
        base, own = read_dir(resource_dir("settings"), environment, [])
        for name in own.values:
            assert base.values.get(name) != own.values[name], f"{name} of {environment} only repeats the default"


def test_every_key_is_described_with_what_it_allows() -> None:
    for key in all_keys().values():
        assert key.description.endswith("."), key.name
        assert key.allowed, key.name


# -- the object


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().pgmq.max_batch_size = 3  # type: ignore[misc]


def test_settings_survive_pickling_with_their_origins(project: Project) -> None:
    settings = project.load("test", DATABASE_URL=SECRET)
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert str(copy.origin("database.url")) == "environment variable DATABASE_URL"


def test_the_password_is_shown_nowhere(project: Project) -> None:
    settings = project.load(DATABASE_URL=SECRET)
    assert settings.database.url == SECRET
    shown = [repr(settings), str(settings), repr(settings.flat()), repr(settings.database)]
    shown.append(repr(ConfigManager.explain(settings, "database.url").history[-1][1]))
    for text in shown:
        assert "sesame" not in text
    assert settings.flat()["database.url"] == "postgresql://joe:********@db:5432/shop"
    assert settings.flat(masked=False)["database.url"] == SECRET


def test_a_refused_url_given_by_a_program_is_masked_too() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings().with_database_url("mysql://joe:sesame@db/shop")
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_lease_follows_the_heartbeat_unless_it_is_given(project: Project) -> None:
    assert (
        project.load(TASKER_ORCHESTRATION__HEARTBEAT_INTERVAL_SECONDS="10").orchestration.executor_lease_seconds == 50
    )
    settings = project.load()
    assert settings.orchestration.executor_lease_seconds == 15
    assert str(settings.origin("orchestration.executor_lease_seconds")) == "default (five heartbeats)"


def test_an_answer_may_take_longer_than_its_statement_unless_that_is_given(project: Project) -> None:
    assert project.load(TASKER_DATABASE__STATEMENT_TIMEOUT_MS="60000").database.answer_timeout_seconds == 65
    settings = project.load()
    assert settings.database.answer_timeout_seconds == 35
    origin = str(settings.origin("database.answer_timeout_seconds"))
    assert origin == "default (five seconds more than statement_timeout_ms)"


def test_only_the_embedded_server_is_migrated_at_start_unless_told_otherwise(project: Project) -> None:
    assert project.load().database.migrate_on_start is True
    assert project.load(DATABASE_URL="postgresql://db/x").database.migrate_on_start is False
    told = project.load(DATABASE_URL="postgresql://db/x", TASKER_DATABASE__MIGRATE_ON_START="true")
    assert told.database.migrate_on_start is True


def test_another_database_keeps_all_else_and_derives_anew(project: Project) -> None:
    project.write("base/mine.toml", "[engine]\ntemplate_paths = ['t']\n[pgmq]\nmax_receive_count = 3\n")
    settings = project.load()
    other = settings.with_database_url("postgresql://db/x", place="--dsn")
    assert (other.database.url, other.database.migrate_on_start) == ("postgresql://db/x", False)
    assert str(other.origin("database.url")) == "--dsn"
    assert other.engine == settings.engine
    assert str(other.origin("pgmq.max_receive_count")) == "settings/base/mine.toml:4"
    assert settings.database.url is None
    told = project.load(TASKER_DATABASE__MIGRATE_ON_START="true").with_database_url("postgresql://db/x")
    assert told.database.migrate_on_start is True


def test_a_kind_of_executor_given_in_part_keeps_its_own_defaults() -> None:
    pools = Settings.model_validate({"executor_pools": {"step_result_processor": {"min_executors": 2}}}).executor_pools
    assert pools["step_result_processor"].batch_size == 100
    assert pools["step_executor"].max_executors == 8
    with pytest.raises(KeyError):
        pools["by_kind"]


def test_contradictions_are_refused_without_a_manager_too() -> None:
    with pytest.raises(ValidationError, match="at least three heartbeats"):
        Settings.model_validate({"orchestration": {"executor_lease_seconds": 1}})


def test_jitter_that_is_off_spreads_nothing() -> None:
    assert Settings().system.backoff.jitter_fraction == 0.1
    off = Settings.model_validate({"system": {"backoff": {"jitter_enabled": False}}})
    assert off.system.backoff.jitter_fraction == 0


@pytest.mark.parametrize(
    "name", ["pgmq", "pgmq.nothing", "environment.x", "pgmq.max_batch_size.x", "pgmq.model_fields"]
)
def test_what_is_no_setting_has_no_value_and_no_origin(name: str) -> None:
    with pytest.raises(KeyError):
        Settings().origin(name)


# -- explaining


def test_explain_tells_every_place_that_gives_a_value(project: Project) -> None:
    project.write("base/mine.toml", "[database]\nresource_validation = 'degraded'\n")
    settings = project.load("production", TASKER_DATABASE__RESOURCE_VALIDATION="best_effort")
    explanation = ConfigManager.explain(settings, "database.resource_validation")
    assert explanation.value == '"best_effort"'
    assert explanation.key.variable == "TASKER_DATABASE__RESOURCE_VALIDATION"
    assert explanation.key.allowed == 'one of "fail_fast", "degraded", "best_effort"'
    assert [value for _, value in explanation.history] == ['"degraded"', '"fail_fast"', '"degraded"', '"best_effort"']


def test_explaining_an_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConfigManager.explain(Settings(), "database.max_connections")
    assert caught.value.hint == "did you mean database.pool.max_connections?"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("databse.url", "database.url"),
        ("database.pool.maxconnections", "database.pool.max_connections"),
        ("database.pool.max_conn", "database.pool.max_connections"),
        ("pgmq.notify", "pgmq.notify_enabled"),
        ("pgmq.visibility_timeout", "pgmq.visibility_timeout_seconds"),
        ("orchestration.lease_seconds", "orchestration.executor_lease_seconds"),
        ("cache.enabled", "query_cache.enabled"),
        ("system.base_seconds", "system.backoff.base_seconds"),
        ("engine.max_depth", "engine.dependency_graph.max_depth"),
        ("executor_pools.claimer.batch_size", "executor_pools.task_claimer.batch_size"),
        ("DATABASE.URL", "database.url"),
        # Alike in letters only: silence is better than a wrong lead.
        ("orchestration.shoe_size_of_workers", None),
        ("telemetry.enabled", None),
        ("dashboard.title", None),
    ],
)
def test_the_nearest_key_is_one_that_means_the_same(written: str, meant: str | None) -> None:
    assert nearest_key(written) == meant


# -- showing


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://joe:sesame@db/shop", "postgresql://joe:********@db/shop"),
        ("postgresql://joe@db/shop", "postgresql://joe@db/shop"),
        (
            "postgresql://db/shop?password=sesame&sslmode=require",
            "postgresql://db/shop?password=********&sslmode=require",
        ),
        ("host=db password=sesame user=joe", "host=db password=******** user=joe"),
        ("host=db password = 'ses ame' user=joe", "host=db password = ******** user=joe"),
        ("postgresql://joe:ses/ame@db/shop", "********"),
        ("postgresql://joe:ses@ame@db/shop", "postgresql://joe:********@db/shop"),
        ("postgresql://joe:[x@db/shop", "********"),
    ],
)
def test_passwords_are_masked_wherever_they_stand(value: str, shown: str) -> None:
    assert mask(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unset"),
        (True, "true"),
        (3.0, "3"),
        (0.5, "0.5"),
        ('a"b\n', '"a\\"b\\n"'),
        (("a", 1), '["a", 1]'),
        ({"a": 1}, "{a = 1}"),
    ],
)
def test_values_are_shown_as_they_are_written_in_toml(value: object, shown: str) -> None:
    assert render(value) == shown


def test_importing_the_configuration_costs_no_dynaconf() -> None:
    code = "import sys, tasker.config.manager; sys.exit('dynaconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
