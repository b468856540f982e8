"""The commands db, task, queue, worker and executor on a real database: what they print, and how they end."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from tasker.cli import main
from tasker.database import doctor
from tasker.database.migrations import migrate
from tasker.database.scratch import ScratchDatabases
from tests.schema_kit import schema_of
from tests.sql_kit import Core
from tests.waiting import wait_until

PAIR = {"a": [], "b": ["a"]}


@pytest.fixture
def core(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    made = Core(tasker_database_url)
    made.register("order", PAIR, step={"max_attempts": 1})
    yield made
    made.close()


@pytest.fixture
def empty_url(tasker_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = tasker_server.create(migrated=False)
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    tasker_server.drop(url)


def tasker(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=given)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(*arguments: str, code: int = 0, given: str | None = None) -> Any:
    """What the command says as JSON."""
    return json.loads(tasker("--json", *arguments, code=code, given=given).stdout)


def complaint(*arguments: str, code: int = 1) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(tasker("--json", *arguments, code=code).stderr)["error"]
    return error


# -- db -------------------------------------------------------------------------------------------------------


def test_db_migrate_brings_an_empty_database_up_to_date_once(empty_url: str) -> None:
    status = told("db", "status", code=1)
    assert (status["state"], status["usable"]) == ("empty", False)
    assert "tasker db migrate" in status["problem"]
    first = tasker("db", "migrate").stdout
    assert "PGMQ installed" in first
    assert "postgresql://" in first
    assert "is up to date" in tasker("db", "migrate").stdout
    assert told("db", "migrate")["changed"] is False
    status = told("db", "status")
    assert (status["state"], status["usable"], status["pgmq"]) == ("current", True, "sql")


def test_db_migrate_never_prints_a_password(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_url.replace("postgres@", "postgres:s3cret@"))
    for command in ("migrate", "status"):
        assert "s3cret" not in tasker("db", command).output


def test_db_sql_prints_the_schema_that_migrate_makes(empty_url: str, tasker_server: ScratchDatabases) -> None:
    printed = tasker("db", "sql").stdout
    assert told("db", "sql")["sql"].strip() == printed.strip()
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(printed)  # type: ignore[arg-type]
    other = tasker_server.create(migrated=False)
    migrate(other)
    assert schema_of(other) == schema_of(empty_url)
    tasker_server.drop(other)


def test_db_doctor_finds_nothing_wrong_with_a_fresh_database(core: Core) -> None:
    findings = {finding["check"]: finding for finding in told("db", "doctor")}
    assert {finding["verdict"] for finding in findings.values()} <= {"ok", "warning"}
    for check in ("server version", "schema", "roles", "coordinator", "table tasks", "partitions of task_transitions"):
        assert findings[check]["verdict"] == "ok", findings[check]


def test_db_doctor_finds_what_is_wrong(core: Core) -> None:
    core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    core.connection.execute("DROP TABLE tasker.task_transitions CASCADE")
    core.connection.execute("CREATE TABLE tasker.short (at timestamptz) PARTITION BY RANGE (at)")
    core.connection.execute(
        "CREATE TABLE tasker.short_p20260101 PARTITION OF tasker.short FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)"
    )
    with psycopg.connect(core.url) as idle:
        idle.execute("SELECT 1")
        findings = {finding["check"]: finding for finding in told("db", "doctor", code=1)}
    assert findings["partitions of task_transitions"]["verdict"] == "problem"
    assert findings["partitions of short"]["verdict"] == "warning"
    assert "db migrate" in findings["partitions of short"]["advice"]
    assert findings["dead letters"]["detail"] == "1 open"
    assert findings["coordinator"]["verdict"] == "warning"


def test_db_doctor_says_who_waits_for_whom_and_who_keeps_dead_rows(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOCK_WAIT", dt.timedelta(0))
    monkeypatch.setattr(doctor, "_OLD_SNAPSHOT", dt.timedelta(0))
    (task,) = core.create("order")
    lock = "SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE"
    with (
        psycopg.connect(core.url, application_name="holder") as holder,
        psycopg.connect(core.url, application_name="waiter") as waiter,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute(lock, (task,))
        waiting = pool.submit(waiter.execute, lock, (task,))
        blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        wait_until(lambda: core.one(blocked, waiter.info.backend_pid), "the second to wait for the first")
        try:
            found = told("db", "doctor")
        finally:
            holder.rollback()
        waiting.result(timeout=30)
        waiter.rollback()
    (wait,) = [finding for finding in found if finding["check"] == "lock wait"]
    assert "waiter (pid" in wait["detail"]
    assert "for holder (pid" in wait["detail"]
    assert "pg_terminate_backend" in wait["advice"]
    snapshots = [finding["detail"] for finding in found if finding["check"] == "oldest snapshot: session"]
    assert any("holder" in detail for detail in snapshots)


def test_db_doctor_adds_up_what_the_settings_may_want(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__MAX_EXECUTORS", "1000")
    findings = {finding["check"]: finding for finding in told("db", "doctor")}
    assert findings["connection budget"]["verdict"] == "warning"
    assert "step executors: 1000" in findings["connection budget"]["detail"]
    assert "executor_pools.*.max_executors" in findings["connection budget"]["advice"]


def test_db_doctor_measures_free_space_where_it_can_and_estimates_it_elsewhere(core: Core) -> None:
    core.create("order", 50)
    core.connection.execute("ANALYZE tasker.tasks")
    findings = {finding["check"]: finding for finding in told("db", "doctor")}
    assert "free (estimated)" in findings["table tasks"]["detail"]


def test_db_doctor_names_schedules_that_are_late_and_those_that_fail(core: Core) -> None:
    named = {"namespace": "shop", "name": "order"}
    for name in ("late", "failing", "paused"):
        due_at = {"next_due_at": "2026-01-01T00:00:00Z"}
        core.call("set_schedule", {"name": name, "task": named, "every_seconds": 60, **due_at})
    failed = {"failure": "no workflow shop/order is registered", "retry_seconds": 60}
    core.call("postpone_schedule", {"name": "failing", "expected_due_at": "2026-01-01T00:00:00Z", **failed})
    core.call("change_schedule", {"name": "paused", "action": "pause"})
    findings = {finding["check"]: finding for finding in told("db", "doctor")}
    assert "2026-01-01T00:00:00" in findings["schedule late"]["detail"]
    assert findings["schedule failing"]["detail"] == "no workflow shop/order is registered"
    assert "schedule paused" not in findings


def test_db_doctor_of_an_empty_database_is_a_problem_with_exit_code_1(empty_url: str) -> None:
    findings = {finding["check"]: finding for finding in told("db", "doctor", code=1)}
    assert findings["schema"]["verdict"] == "problem"
    assert findings["schema"]["advice"] == "run `tasker db migrate`"


def test_a_database_that_is_not_there_is_an_error_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:s3cret@127.0.0.1:1/none")
    result = tasker("db", "status", code=1)
    assert "does not answer" in result.stderr
    assert "s3cret" not in result.output
    assert "Traceback" not in result.output


# -- task -----------------------------------------------------------------------------------------------------


def test_task_create_show_and_list(core: Core) -> None:
    made = told("task", "create", "shop", "order", '{"n": 1}', "--tag", "big", "--key", "k", "--priority", "3")
    assert made["is_new"] is True
    again = told("task", "create", "shop", "order", '{"n": 2}', "--key", "k")
    assert (again["task_uuid"], again["is_new"], again["same_context"]) == (made["task_uuid"], False, False)

    shown = told("task", "show", made["task_uuid"], "--history")
    assert (shown["context"], shown["tags"], shown["priority"]) == ({"n": 1}, ["big"], 3)
    assert [(step["name"], step["state"], step["depends_on"]) for step in shown["steps"]] == [
        ("a", "enqueued", []),
        ("b", "pending", ["a"]),
    ]
    assert shown["history"][0]["to_state"] == "in_progress"
    assert "enqueued" in tasker("task", "show", made["task_uuid"]).stdout

    assert [task["task_uuid"] for task in told("task", "list", "--tag", "big", "--since", "1h")] == [made["task_uuid"]]
    assert told("task", "list", "--state", "complete") == []
    assert "No such tasks" in tasker("task", "list", "--name", "nothing").stderr
    core.create("order", 3)
    assert "--after" in tasker("task", "list", "--limit", "2").stderr


def test_task_create_takes_the_context_from_a_file_or_standard_input(core: Core, tmp_path: Path) -> None:
    (tmp_path / "context.json").write_text('{"from": "file"}')
    for argument, given, source in (
        (f"@{tmp_path}/context.json", None, "file"),
        ("-", '{"from": "input"}', "input"),
    ):
        made = told("task", "create", "shop", "order", argument, given=given)
        assert told("task", "show", made["task_uuid"])["context"] == {"from": source}


def test_task_create_waits_if_told_to(core: Core) -> None:
    result = tasker("--json", "task", "create", "shop", "order", "--wait", "--timeout", "0.05", code=1)
    assert json.loads(result.stderr)["error"]["type"] == "TaskTimeout"


@pytest.mark.parametrize(
    ("arguments", "kind", "field"),
    [
        (["create", "shop", "nothing"], "UnknownTemplate", "name"),
        (["create", "shop", "order", "{"], "InvalidRequest", "context"),
        (["create", "shop", "order", "[1]"], "ContextInvalid", "context"),
        (["create", "shop", "order", "@/no/such/file"], "InvalidRequest", "context"),
        (["create", "shop", "order", "--run-at", "soon"], "InvalidRequest", "run_at"),
        (["show", str(uuid.uuid4())], "NotFound", "task_uuid"),
        (["why", str(uuid.uuid4())], "NotFound", "task_uuid"),
        (["cancel", str(uuid.uuid4())], "NotFound", "task_uuid"),
        (["resolve-step", str(uuid.uuid4()), "a", "{}"], "NotFound", "task_uuid"),
    ],
)
def test_task_errors_name_what_is_wrong(core: Core, arguments: list[str], kind: str, field: str) -> None:
    error = complaint("task", *arguments)
    assert (error["type"], error["field"]) == (kind, field)


@pytest.mark.parametrize("arguments", [["show", "5"], ["list", "--state", "happy"], ["create", "shop"], ["dance"]])
def test_task_called_wrongly_ends_with_2(core: Core, arguments: list[str]) -> None:
    tasker("task", *arguments, code=2)


def test_task_watch_prints_each_change_and_ends_by_the_tasks_state(core: Core) -> None:
    good, bad = core.create("order", 2)
    core.call("cancel_tasks", {"task_uuids": [bad], "by": "me", "reason": "test"})
    core.executor().run_all()
    lines = [json.loads(line) for line in tasker("--json", "task", "watch", good).stdout.splitlines()]
    assert lines[0]["to_state"] == "in_progress"
    assert (lines[-1]["step"], lines[-1]["to_state"]) == (None, "complete")
    text = tasker("task", "watch", bad, code=1)
    assert "in_progress → cancelled  (test)" in text.stdout
    assert "is cancelled" in text.stderr


def test_task_why_says_what_to_do(core: Core) -> None:
    (task_uuid,) = core.create("order")
    found = told("task", "why", task_uuid)
    assert found["steps"][0]["reason"] == "no_executor"
    text = tasker("task", "why", task_uuid).stdout
    assert "celery -A tasker worker -Q shop" in text


def test_task_pause_resume_cancel_and_retry_take_several_tasks(core: Core) -> None:
    tasks = core.create("order", 2)
    assert [row["state"] for row in told("task", "pause", *tasks, "--reason", "r", "--by", "me")] == ["paused"] * 2
    assert [row["state"] for row in told("task", "resume", *tasks)] == ["in_progress"] * 2
    worker = core.executor()
    worker.fail(worker.claim())
    assert [row["state"] for row in told("task", "retry", *tasks)] == ["in_progress"] * 2
    assert [row["changed"] for row in told("task", "cancel", *tasks)] == [True, True]
    assert core.one("SELECT actor FROM tasker.task_transitions WHERE to_state = 'paused' LIMIT 1") == "me"
    # The first that refuses ends it; what was done before is told.
    (fresh,) = core.create("order")
    result = tasker("--json", "task", "cancel", fresh, str(uuid.uuid4()), code=1)
    assert [row["task_uuid"] for row in json.loads(result.stdout)] == [fresh]


def test_task_resolve_step_goes_on_with_the_given_result(core: Core) -> None:
    (task_uuid,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    told("task", "resolve-step", task_uuid, "a", '{"paid": true}', "--reason", "by phone")
    assert core.steps(task_uuid)["a"]["results"] == {"paid": True}
    assert core.states(task_uuid)["b"] == "enqueued"


# -- queue, worker, executor ----------------------------------------------------------------------------------


def test_queue_list_and_peek_change_nothing(core: Core) -> None:
    core.create("order", 3)
    queues = {queue["queue"]: queue for queue in told("queue", "list")}
    assert queues["shop_queue"]["length"] == 3
    assert "task_requests_queue" in queues
    messages = told("queue", "peek", "shop_queue", "--limit", "2")
    assert [message["read_count"] for message in messages] == [0, 0]
    assert set(messages[0]["message"]) >= {"task_uuid", "step_uuid", "position", "map_index"}
    assert core.depth("shop_queue") == 3
    assert "is empty" in tasker("queue", "peek", "step_enqueue").stderr
    assert complaint("queue", "peek", "nothing")["type"] == "NotFound"


def test_executor_list_shows_who_lives_and_what_they_hold(core: Core) -> None:
    core.create("order")
    worker = core.executor()
    worker.claim()
    (shown,) = told("executor", "list")
    assert (shown["executor"], shown["kind"], shown["claims"]) == (worker.uuid, "step_executor", 1)
    assert shown["heartbeat_age_seconds"] >= 0
    worker.die()
    core.call("recover_lost_steps", {"lease_seconds": 15, "limit": 10, "net_page": 0})
    assert told("executor", "list") == []
    assert [row["state"] for row in told("executor", "list", "--all")] == ["lost"]


def test_worker_list_shows_who_registered(core: Core) -> None:
    assert "tasker up" in tasker("worker", "list").stderr
    core.call(
        "worker_heartbeat", {"hostname": "w@h", "pid": 7, "pool": "prefork", "concurrency": 4, "queues": ["shop"]}
    )
    (shown,) = told("worker", "list")
    assert (shown["hostname"], shown["concurrency"], shown["executors"]) == ("w@h", 4, 0)


# -- schedule -------------------------------------------------------------------------------------------------


def test_a_schedule_is_added_listed_paused_resumed_and_removed(core: Core) -> None:
    (added,) = told(
        "schedule", "add", "nightly", "shop/order", '{"n": 1}', "--cron", "30 2 * * *", "--time-zone", "Europe/Berlin"
    )
    assert (added["outcome"], added["cron"], added["task"]["context"]) == ("new", "30 2 * * *", {"n": 1})
    assert told("schedule", "add", "often", "shop/order:1.0.0", "--every", "15m")[0]["every_seconds"] == 900
    shown = tasker("schedule", "list").stdout
    assert "30 2 * * * (Europe/Berlin)" in shown
    assert "every 900 s" in shown
    assert [row["outcome"] for row in told("schedule", "pause", "nightly", "often", "--by", "ann")] == ["paused"] * 2
    assert {row["state"] for row in told("schedule", "list")} == {"paused"}
    assert told("schedule", "resume", "often")[0]["outcome"] == "resumed"
    assert "removed" in tasker("schedule", "remove", "nightly", "often").stdout
    assert told("schedule", "list") == []


def test_a_schedule_that_is_wrong_is_refused_by_the_option_that_is(core: Core) -> None:
    for arguments, field in (
        (("shop/order", "--cron", "every day"), "cron"),
        (("shop/order", "--every", "soon"), "every"),
        (("shop/order", "--every", "0s"), "every"),
        (("shop/order",), "cron"),
        (("shop/order", "--every", "1m", "--time-zone", "Mars"), "time_zone"),
        (("shop/order", "--every", "1m", "--starts-at", "soon"), "starts_at"),
        (("shop/order", "{", "--every", "1m"), "context"),
    ):
        assert complaint("schedule", "add", "nightly", *arguments)["field"] == field
    assert complaint("schedule", "add", "nightly", "order", "--every", "1m")["type"] == "UnknownTemplate"
    assert "tasker schedule list" in complaint("schedule", "pause", "unheard_of")["hint"]
    tasker("schedule", "add", "nightly", "shop/order", "--every", "1m")
    assert complaint("schedule", "add", "nightly", "shop/order", "--every", "2m")["field"] == "name"
    assert told("schedule", "add", "nightly", "shop/order", "--every", "2m", "--replace")[0]["outcome"] == "replaced"


def test_what_was_done_before_one_of_several_schedules_was_refused_is_told(core: Core) -> None:
    tasker("schedule", "add", "nightly", "shop/order", "--every", "15m")
    result = tasker("--json", "schedule", "pause", "nightly", "unheard_of", code=1)
    assert [row["outcome"] for row in json.loads(result.stdout)] == ["paused"]
    assert json.loads(result.stderr)["error"]["message"] == "there is no schedule 'unheard_of'"


def test_circuits_are_listed_and_changed_by_hand(core: Core) -> None:
    assert "No system has failed yet" in tasker("circuit", "list").stderr
    core.call("report_circuit", {"name": "bank", "failures": 1, "failure_threshold": 1, "timeout_seconds": 30})
    (listed,) = told("circuit", "list")
    assert (listed["name"], listed["state"], listed["parked"], listed["forced"]) == ("bank", "open", 0, False)
    assert 0 < listed["retry_after_seconds"] <= 30
    opened = told("circuit", "open", "bank", "mail", "--reason", "maintenance", "--by", "ann")
    assert [(row["name"], row["state"], row["changed"]) for row in opened] == [
        ("bank", "open", True),
        ("mail", "open", True),
    ]
    by_name = {row["name"]: row for row in told("circuit", "list")}
    assert (by_name["mail"]["forced"], by_name["mail"]["reason"]) == (True, "maintenance")
    assert by_name["mail"]["changed_by"] == "ann"
    assert by_name["mail"]["retry_after_seconds"] is None
    assert "open (by hand)" in tasker("circuit", "list").stdout
    (closed,) = told("circuit", "close", "mail")
    assert (closed["state"], closed["changed"]) == ("closed", True)
    unused = told("circuit", "reset", "bank", "never used")
    assert [(row["state"], row["changed"]) for row in unused] == [("closed", True), ("closed", False)]
