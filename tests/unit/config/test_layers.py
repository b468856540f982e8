from __future__ import annotations

from pathlib import Path

import pytest

from tasker.config.manager import ConfigManager
from tests.unit.config.conftest import Project

pytestmark = pytest.mark.config

KEY = "pgmq.max_receive_count"


def test_each_layer_wins_over_the_ones_below_it(project: Project) -> None:
    def winner(**variables: str) -> tuple[int, str]:
        settings = project.load("production", **variables)
        return settings.pgmq.max_receive_count, str(settings.origin(KEY))

    assert winner()[0] == 5
    project.write("base/mine.toml", "[pgmq]\nmax_receive_count = 6\n")
    assert winner() == (6, "settings/base/mine.toml:2")
    project.write("environments/production/mine.toml", "\n[pgmq]\n# why\nmax_receive_count = 7\n")
    assert winner() == (7, "settings/environments/production/mine.toml:4")
    assert winner(TASKER_PGMQ__MAX_RECEIVE_COUNT="8") == (8, "environment variable TASKER_PGMQ__MAX_RECEIVE_COUNT")


def test_layers_are_merged_key_by_key(project: Project) -> None:
    project.write("base/mine.toml", "[database.pool]\nmax_connections = 9\n")
    project.write("environments/development/mine.toml", "[database]\npool.min_connections = 2\n")
    pool = project.load("development", TASKER_DATABASE__POOL__IDLE_TIMEOUT_SECONDS="60").database.pool
    assert (pool.max_connections, pool.min_connections, pool.idle_timeout_seconds) == (9, 2, 60)
    assert pool.acquire_timeout_seconds == 10


def test_what_a_user_says_in_base_wins_over_what_is_shipped_for_the_environment(project: Project) -> None:
    project.write("base/mine.toml", "[database]\nresource_validation = 'best_effort'\n")
    assert project.load("production").database.resource_validation == "best_effort"


def test_lists_are_replaced_and_not_joined(project: Project) -> None:
    project.write("base/mine.toml", "[orchestration]\nactive_namespaces = ['payments', 'inventory']\n")
    project.write("environments/test/mine.toml", "[orchestration]\nactive_namespaces = ['payments']\n")
    assert project.load("development").orchestration.active_namespaces == ("payments", "inventory")
    assert project.load("test").orchestration.active_namespaces == ("payments",)
    assert project.load("test", TASKER_ORCHESTRATION__ACTIVE_NAMESPACES="[]").orchestration.active_namespaces == ()


@pytest.mark.parametrize("text", ["payments,inventory", "payments, inventory", '["payments", "inventory"]'])
def test_a_variable_may_hold_a_list(text: str, project: Project) -> None:
    settings = project.load(TASKER_ORCHESTRATION__ACTIVE_NAMESPACES=text)
    assert settings.orchestration.active_namespaces == ("payments", "inventory")


def test_database_url_is_read_and_the_more_specific_variable_wins(project: Project) -> None:
    assert project.load(DATABASE_URL="postgresql://one/x").database.url == "postgresql://one/x"
    both = project.load(DATABASE_URL="postgresql://one/x", TASKER_DATABASE__URL="postgresql://two/x")
    assert both.database.url == "postgresql://two/x"
    assert [str(origin) for origin in both.history("database.url")] == [
        "environment variable DATABASE_URL",
        "environment variable TASKER_DATABASE__URL",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@h:5432/d",
        "postgresql+psycopg://u:p@h/d",
        "postgresql:///d?host=/var/run/postgresql",
        "host=/var/run/postgresql dbname=d",
        "postgresql://u:5@[::1]/d?sslmode=require",
        "postgresql://u:@int%205@h/d",
    ],
)
def test_urls_are_taken_as_they_are(url: str, project: Project) -> None:
    assert project.load(DATABASE_URL=url).database.url == url
    assert project.load(TASKER_DATABASE__URL=url).database.url == url


def test_an_empty_variable_is_unset(project: Project) -> None:
    settings = project.load(DATABASE_URL="", TASKER_PGMQ__MAX_RECEIVE_COUNT="")
    assert settings.database.url is None
    assert settings.pgmq.max_receive_count == 5


def test_variables_of_other_programs_are_left_alone(project: Project) -> None:
    project.load(TASKER_ENV="test", TASKER_SOMETHING="1", DYNACONF_PGMQ__MAX_RECEIVE_COUNT="9", PGMQ__X="2")


@pytest.mark.parametrize(
    "variable",
    [
        "AUTO_CAST_FOR_DYNACONF",
        "MERGE_ENABLED_FOR_DYNACONF",
        "DOTTED_LOOKUP_FOR_DYNACONF",
        "ENVVAR_PREFIX_FOR_DYNACONF",
        "NESTED_SEPARATOR_FOR_DYNACONF",
        "SETTINGS_FILE_FOR_DYNACONF",
    ],
)
def test_how_a_program_set_up_its_own_dynaconf_changes_nothing(
    variable: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "false")
    monkeypatch.setenv("DYNACONF_PGMQ__MAX_RECEIVE_COUNT", "9")
    project.write("base/mine.toml", "[database.pool]\nmax_connections = 9\n")
    settings = project.load("test", TASKER_PGMQ__MAX_BATCH_SIZE="500")
    assert settings.pgmq.max_batch_size == 500
    assert settings.pgmq.max_receive_count == 5
    assert settings.database.pool.max_connections == 9


def test_the_environment_is_the_argument_then_tasker_env_then_development(project: Project) -> None:
    assert project.load().environment == "development"
    assert project.load(TASKER_ENV="test").environment == "test"
    assert project.load("production", TASKER_ENV="test").environment == "production"


def test_users_may_have_environments_of_their_own(project: Project) -> None:
    project.write("environments/staging/mine.toml", "[pgmq]\nmax_receive_count = 2\n")
    assert project.load("staging").pgmq.max_receive_count == 2
    assert ConfigManager.environments(settings_dir=project.settings_dir) == [
        "development", "production", "staging", "test",
    ]  # fmt: skip


def test_the_settings_folder_is_the_argument_then_the_variable_then_the_one_here(
    project: Project, tmp_path: Path
) -> None:
    project.write("base/mine.toml", "[pgmq]\nmax_receive_count = 2\n")
    for name, count in (("elsewhere", 3), ("third", 4)):
        (tmp_path / name / "base").mkdir(parents=True)
        (tmp_path / name / "base" / "x.toml").write_text(f"[pgmq]\nmax_receive_count = {count}\n")
    load = ConfigManager.load
    assert load(environ={}).pgmq.max_receive_count == 2
    assert load(environ={"TASKER_SETTINGS_DIR": "elsewhere"}).pgmq.max_receive_count == 3
    assert load(settings_dir="third", environ={"TASKER_SETTINGS_DIR": "elsewhere"}).pgmq.max_receive_count == 4


def test_a_folder_called_settings_that_is_something_else_is_left_alone(project: Project) -> None:
    project.write("base/__init__.py", "")
    project.write("base.py", "DEBUG = True\n")
    assert ConfigManager.load(environ={}).pgmq.max_receive_count == 5


def test_relative_template_paths_count_from_the_project_not_from_the_working_directory(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("base/mine.toml", "[engine]\ntemplate_paths = ['templates', '/srv/templates']\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert project.load().engine.template_paths == (tmp_path / "templates", Path("/srv/templates"))
    here = project.load(TASKER_ENGINE__TEMPLATE_PATHS="mine,~/other").engine.template_paths
    assert here == (tmp_path / "below" / "mine", Path("~/other").expanduser())


def test_directives_of_dynaconf_work(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE_HOST", "db7")
    project.write("base/mine.toml", "[database]\nurl = '@format postgresql://{env[SHOP_DATABASE_HOST]}/shop'\n")
    assert project.load().database.url == "postgresql://db7/shop"


def test_a_member_of_an_inline_table_is_on_the_tables_line(project: Project) -> None:
    project.write("base/mine.toml", "# one\n[database]\npool = { min_connections = 2 }\n")
    assert str(project.load().origin("database.pool.min_connections")) == "settings/base/mine.toml:3"


def test_an_empty_section_changes_nothing(project: Project) -> None:
    before = project.load().flat()
    project.write("base/mine.toml", "[pgmq]\n[database.pool]\n")
    assert project.load().flat() == before


def test_a_given_file_name_means_nothing(project: Project) -> None:
    project.write("base/anything.toml", "[pgmq]\nmax_receive_count = 2\n[system]\nmax_workflow_steps = 9\n")
    settings = project.load()
    assert (settings.pgmq.max_receive_count, settings.system.max_workflow_steps) == (2, 9)
