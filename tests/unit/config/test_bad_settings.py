"""Bad settings, each with the error it gets: where, which key, which value, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tasker.config.problems import InvalidSettings
from tasker.errors import ConfigurationError, TaskerError
from tests.unit.config.conftest import Project

pytestmark = pytest.mark.config


@dataclass(frozen=True)
class Bad:
    """What somebody writes into ``settings/base/mine.toml`` or the environment, and what they are told."""

    name: str
    toml: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    says: tuple[str, ...] = ()


BAD = [
    Bad(
        "an unknown key suggests the nearest",
        "[database.pool]\nmax_conections = 5",
        says=(
            "settings/base/mine.toml:2: database.pool.max_conections = 5: unknown key;"
            " did you mean database.pool.max_connections?",
        ),
    ),
    Bad(
        "an unknown section suggests the nearest",
        "[orchestraton]\nsomething = 1",
        says=("mine.toml:2: orchestraton.something = 1: unknown section; did you mean orchestration?",),
    ),
    Bad(
        "a section like no other lists all",
        "[redis]\nhost = 'x'",
        says=('redis.host = "x": unknown section; there are circuit_breakers, database, engine,',),
    ),
    Bad(
        "an empty unknown section is unknown too",
        "[redis]",
        says=("mine.toml:1: redis: unknown section;",),
    ),
    Bad(
        "a key like no other lists its section's",
        "[pgmq]\ncolour = 'red'",
        says=('pgmq.colour = "red": unknown key; pgmq has poll_interval_ms, max_batch_size, notify_enabled,',),
    ),
    Bad(
        "a key in the wrong section is sent to the right one",
        "[orchestration]\nmax_workflow_steps = 10",
        says=("did you mean system.max_workflow_steps?",),
    ),
    Bad(
        "an unknown kind of executor",
        "[executor_pools.task_claimr]\nbatch_size = 3",
        says=("did you mean executor_pools.task_claimer.batch_size?",),
    ),
    Bad(
        "steps have no processing timeout",
        "[executor_pools.step_executor]\nprocessing_timeout_ms = 5",
        says=("steps have their own deadline, system.step_execution_timeout_seconds or timeout_seconds",),
    ),
    Bad(
        "a table where a value belongs",
        "[orchestration.spare_slots]\ncount = 1",
        says=(
            "mine.toml:2: orchestration.spare_slots.count = 1: orchestration.spare_slots is a single value (a whole",
        ),
    ),
    Bad(
        "an empty table where a value belongs",
        "[orchestration]\nspare_slots = {}",
        says=(
            "orchestration.spare_slots: orchestration.spare_slots is a single value (a whole number from 0 to 1,000)",
        ),
    ),
    Bad(
        "a value where a table belongs",
        "[database]\npool = 5",
        says=("mine.toml:2: database.pool = 5: is a table of settings, not a value",),
    ),
    Bad(
        "a section that is a list of tables",
        "[[engine]]\nhandler_modules = []",
        says=("is a table of settings, not a value",),
    ),
    Bad(
        "text where a number belongs",
        '[executor_pools.task_claimer]\nbatch_size = "20"',
        says=('batch_size = "20": must be a whole number from 1 to 1,000, without quotes',),
    ),
    Bad(
        "a fraction where a whole number belongs",
        "[pgmq]\nmax_receive_count = 2.5",
        says=("max_receive_count = 2.5: must be a whole number from 1 to 1,000",),
    ),
    Bad(
        "a number out of its range",
        "[system]\nmax_workflow_steps = 70000",
        says=("must be a whole number from 1 to 65,534",),
    ),
    Bad(
        "no duration is negative",
        "[orchestration]\nheartbeat_interval_seconds = -1",
        says=("heartbeat_interval_seconds = -1: must be a number above 0, to 604,800",),
    ),
    Bad(
        "no duration is infinite",
        "[database.pool]\nidle_timeout_seconds = inf",
        says=("idle_timeout_seconds = inf: must be a number above 0",),
    ),
    Bad(
        "a number where yes or no belongs",
        "[pgmq]\nnotify_enabled = 1",
        says=("notify_enabled = 1: must be true or false",),
    ),
    Bad(
        "a choice that does not exist suggests the nearest",
        "[orchestration]\nhosting = 'residnt'",
        says=('hosting = "residnt": must be one of "resident", "periodic"; did you mean "resident"?',),
    ),
    Bad(
        "a choice like none of them lists them",
        "[database]\nresource_validation = 'maybe'",
        says=('must be one of "fail_fast", "degraded", "best_effort"',),
    ),
    Bad(
        "a namespace that could be no queue",
        "[orchestration]\nactive_namespaces = ['Payments']",
        says=("namespaces match [a-z][a-z0-9_]* and have at most 33 characters",),
    ),
    Bad(
        "a namespace given twice",
        "[orchestration]\nactive_namespaces = ['a', 'a']",
        says=("must be a list of strings; each entry once",),
    ),
    Bad(
        "a module that is a file",
        "[engine]\nhandler_modules = ['shop/handlers.py']",
        says=("dotted names of Python modules, such as shop.handlers",),
    ),
    Bad(
        "a list of numbers where names belong",
        "[engine]\ntemplate_paths = [1, 2]",
        says=("template_paths = [1, 2]: must be a list of strings",),
    ),
    Bad(
        "another kind of database, its password masked",
        "[database]\nurl = 'mysql://joe:sesame@db/shop'",
        says=('database.url = "mysql://joe:********@db/shop": must be a PostgreSQL URL',),
    ),
    Bad(
        "a misplaced URL is masked as well",
        "[pgmq]\nbroker = 'redis://:sesame@cache'",
        says=('pgmq.broker = "redis://:********@cache": unknown key',),
    ),
    Bad(
        "a broker that is no URL",
        "[engine.celery_steps]\nbroker_url = 'shop.example.com'",
        says=('engine.celery_steps.broker_url = "shop.example.com": must be a URL such as redis://host:6379/0',),
    ),
    Bad(
        "a result backend without the app it is of, its password masked",
        "[engine.celery_steps]\nresult_backend = 'redis://:sesame@cache'",
        says=(
            'engine.celery_steps.result_backend = "redis://:********@cache"',
            "means nothing without engine.celery_steps.broker_url or config_module",
        ),
    ),
    Bad(
        "DATABASE_URL of another kind names the variable",
        variables={"DATABASE_URL": "sqlite:///x.db"},
        says=('environment variable DATABASE_URL: database.url = "sqlite:///x.db"',),
    ),
    Bad(
        "an unknown variable suggests the nearest",
        variables={"TASKER_ORCHESTRATION__SPARE_SLOT": "2"},
        says=(
            "environment variable TASKER_ORCHESTRATION__SPARE_SLOT: orchestration.spare_slot = 2: unknown key;"
            " did you mean orchestration.spare_slots?",
        ),
    ),
    Bad(
        "a variable that lost an underscore",
        variables={"TASKER_DATABASE_URL": "postgresql://db/x"},
        says=("environment variable TASKER_DATABASE_URL: is not read; did you mean TASKER_DATABASE__URL?",),
    ),
    Bad(
        "a bad value in a variable",
        variables={"TASKER_PGMQ__MAX_RECEIVE_COUNT": "many"},
        says=(
            "environment variable TASKER_PGMQ__MAX_RECEIVE_COUNT: ",
            'pgmq.max_receive_count = "many": must be a whole number',
        ),
    ),
    Bad(
        "a directive of dynaconf that fails",
        variables={"TASKER_PGMQ__MAX_RECEIVE_COUNT": "@int many"},
        says=('pgmq.max_receive_count = "@int many": cannot be read',),
    ),
    Bad(
        "a directive that needs what is not there",
        "[engine]\nhandler_modules = ['@format {env[NO_SUCH_VARIABLE]}.handlers']",
        says=("engine.handler_modules = ", "cannot be resolved", "NO_SUCH_VARIABLE"),
    ),
    Bad(
        "a file that is no TOML",
        "[database\nurl = 1",
        says=("settings/base/mine.toml: cannot be read as TOML", "line 1"),
    ),
    Bad(
        "the lease must outlast three heartbeats",
        "[orchestration]\nheartbeat_interval_seconds = 10\nexecutor_lease_seconds = 20",
        says=(
            "mine.toml:3: orchestration.executor_lease_seconds = 20: must be at least three heartbeats (30 s)",
            "orchestration.heartbeat_interval_seconds is from settings/base/mine.toml:2",
        ),
    ),
    Bad(
        "no answer within the time that a statement may take",
        "[database]\nanswer_timeout_seconds = 20",
        says=("answer_timeout_seconds = 20: must be above database.statement_timeout_ms (30000 ms)",),
    ),
    Bad(
        "history that goes before the tasks that it is about",
        "[database.retention]\naudit_days = 7",
        says=("audit_days = 7: must not be below database.retention.finished_task_days (30 days): a finished task",),
    ),
    Bad(
        "history that goes, of tasks that stay for ever",
        "[database.retention]\nfinished_task_days = 0",
        says=("must not be below database.retention.finished_task_days (0, for ever)", "0 keeps history for ever"),
    ),
    Bad(
        "more executors at least than at most",
        "[executor_pools.step_executor]\nmin_executors = 9\nmax_executors = 3",
        says=("min_executors = 9: must not be above executor_pools.step_executor.max_executors (3)",),
    ),
    Bad(
        "a first wait longer than the longest",
        "[executor_pools.step_enqueuer]\npolling_interval_ms = 6000",
        says=(
            "polling_interval_ms = 6000: must not be above executor_pools.step_enqueuer.max_polling_interval_ms (5000)",
        ),
    ),
    Bad(
        "a pool that keeps more connections than it may have",
        "[database.pool]\nmin_connections = 6",
        says=("min_connections = 6: must not be above database.pool.max_connections (5)",),
    ),
    Bad(
        "connections idle for longer than they live",
        "[database.pool]\nidle_timeout_seconds = 7200",
        says=("must not be above database.pool.max_lifetime_seconds (3600)",),
    ),
    Bad(
        "a claim that expires during its drain",
        "[executor_pools.task_claimer]\nprocessing_timeout_ms = 60000",
        says=(
            "orchestration.default_claim_timeout_seconds = 60: ",
            "must be above executor_pools.task_claimer.processing_timeout_ms",
        ),
    ),
    Bad(
        "a finalization claim that expires during its drain",
        "[orchestration]\nfinalization_claim_timeout_seconds = 5",
        says=("must be at least executor_pools.task_finalizer.processing_timeout_ms (30000 ms)",),
    ),
    Bad(
        "a message that comes back while it is worked on",
        "[pgmq]\nvisibility_timeout_seconds = 20",
        says=("must be above executor_pools.task_request_processor.processing_timeout_ms (30000 ms)",),
    ),
    Bad(
        "batches larger than a read may be",
        "[pgmq]\nmax_batch_size = 60",
        says=("executor_pools.step_result_processor.batch_size = 100: must not be above pgmq.max_batch_size (60)",),
    ),
    Bad(
        "contexts larger than a claim may be",
        "[system]\nmax_claim_bytes = 500000",
        says=("system.max_context_bytes = 1048576: must not be above system.max_claim_bytes (500000)",),
    ),
    Bad(
        "results larger than a message may be",
        "[pgmq]\nmax_message_bytes = 500000",
        says=("system.max_result_bytes = 1048576: must not be above pgmq.max_message_bytes (500000)",),
    ),
    Bad(
        "a first delay longer than the longest",
        "[system.backoff]\nbase_seconds = 400",
        says=("base_seconds = 400: must not be above system.backoff.max_seconds (300)",),
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_setting_is_refused_with_its_place_and_what_is_allowed(bad: Bad, project: Project) -> None:
    if bad.toml:
        project.write("base/mine.toml", bad.toml)
    with pytest.raises(InvalidSettings) as caught:
        project.load("development", **bad.variables)
    for fragment in bad.says:
        assert fragment in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_the_same_key_in_two_base_files_is_refused_and_both_are_named(project: Project) -> None:
    project.write("base/a.toml", "[pgmq]\nmax_receive_count = 3\n")
    project.write("base/b.toml", "[system]\nmax_workflow_steps = 5\n\n[pgmq]\nmax_receive_count = 4\n")
    with pytest.raises(InvalidSettings) as caught:
        project.load()
    (problem,) = caught.value.problems
    assert str(problem) == (
        "settings/base/b.toml:5: pgmq.max_receive_count: is also set in settings/base/a.toml:2; keep one of them"
    )


def test_all_problems_are_listed_at_once_contradictions_among_good_values_included(project: Project) -> None:
    project.write(
        "base/mine.toml",
        """
        [orchestration]
        hosting = "sometimes"
        executor_lease_seconds = 1

        [database.pool]
        min_connections = 9
        max_conections = 10

        [pgmq]
        notify_enabled = "yes"
        """,
    )
    with pytest.raises(InvalidSettings) as caught:
        project.load("production", TASKER_SYSTEM__MAX_WORKFLOW_STEPS="0")
    assert {problem.key for problem in caught.value.problems} == {
        "orchestration.hosting",
        "orchestration.executor_lease_seconds",
        "database.pool.min_connections",
        "database.pool.max_conections",
        "pgmq.notify_enabled",
        "system.max_workflow_steps",
    }
    assert str(caught.value).startswith("6 settings are wrong in environment production:\n")


def test_a_bad_value_is_not_blamed_a_second_time_for_what_it_contradicts(project: Project) -> None:
    project.write("base/mine.toml", "[database.pool]\nmin_connections = -4\n")
    with pytest.raises(InvalidSettings) as caught:
        project.load()
    assert [problem.key for problem in caught.value.problems] == ["database.pool.min_connections"]


def test_a_bad_value_that_is_overridden_does_no_harm(project: Project) -> None:
    project.write("base/mine.toml", "[pgmq]\nmax_receive_count = -4\n")
    assert project.load(TASKER_PGMQ__MAX_RECEIVE_COUNT="4").pgmq.max_receive_count == 4


def test_a_file_outside_base_and_environments_is_refused_not_ignored(project: Project) -> None:
    project.write("base/mine.toml", "")
    project.write("pgmq.toml", "[pgmq]\nmax_receive_count = 3\n")
    with pytest.raises(InvalidSettings, match=r"settings/pgmq\.toml: is not read here: move it into base/"):
        project.load()


@pytest.mark.parametrize(
    ("environment", "hint"),
    [("prodution", "did you mean production?"), ("qa", "there are: development, production, test")],
)
def test_an_unknown_environment_is_refused(environment: str, hint: str, project: Project) -> None:
    with pytest.raises(ConfigurationError) as caught:
        project.load(TASKER_ENV=environment)
    assert f'there is no environment "{environment}" (TASKER_ENV)' in str(caught.value)
    assert caught.value.hint == hint


def test_a_settings_folder_that_is_none_is_refused(project: Project) -> None:
    with pytest.raises(ConfigurationError, match="TASKER_SETTINGS_DIR names nowhere, which is not a settings folder"):
        project.load(TASKER_SETTINGS_DIR="nowhere")


def test_the_error_is_one_of_the_tree_and_survives_pickling(project: Project) -> None:
    import pickle

    with pytest.raises(ConfigurationError) as caught:
        project.load(TASKER_PGMQ__MAX_BATCH_SIZE="0")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, TaskerError)
    assert str(copy) == str(caught.value)
