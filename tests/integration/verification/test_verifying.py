"""How ``tasker db verify`` looks: in one snapshot, without locks, at what is asked for, and at late history."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo

from tasker.database.scratch import ScratchDatabases
from tasker.database.verification import RULES, Progress, Report, verify, verify_connection
from tasker.errors import InvalidRequest, SchemaVersionError
from tests.integration.test_roles import login
from tests.integration.verification.healthy import Healthy, build
from tests.sql_kit import CHAIN, DIAMOND, Core, sweep


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    made = Core(tasker_database_url)
    yield made
    made.close()


def broken(report: Report) -> dict[str, int]:
    assert report.unchecked == {}
    return {finding.rule.name: finding.count for finding in report.findings}


def test_all_rules_see_the_moment_of_the_first(core: Core) -> None:
    core.register("order", DIAMOND)
    core.create("order", 3)

    def spoil(progress: Progress) -> None:
        if progress.number == 2:
            core.rows_affected("UPDATE tasker.tasks SET active = 3")

    assert broken(verify(core.url, watch=spoil)) == {}
    assert broken(verify(core.url, rules=["active-counter"])) == {"active-counter": 3}


def test_it_holds_no_lock_that_keeps_anybody_from_working(core: Core) -> None:
    core.register("order", DIAMOND)
    core.create("order")
    held: set[tuple[str, str]] = set()

    def look(progress: Progress) -> None:
        held.update(
            core.rows(
                """SELECT l.locktype, l.mode FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                   WHERE a.application_name = 'tasker verify' AND a.datname = current_database()
                     AND l.locktype NOT IN ('virtualxid')"""
            )
        )

    assert broken(verify(core.url, watch=look)) == {}
    assert held == {("relation", "AccessShareLock")}


def test_it_finds_nothing_wrong_while_others_work(core: Core) -> None:
    for name, graph in (("chain", CHAIN), ("diamond", DIAMOND)):
        core.register(name, graph, step={"max_attempts": 2})
    stop = threading.Event()

    def work(name: str) -> None:
        driver = Core(core.url)
        worker = driver.executor()
        while not stop.is_set():
            tasks = driver.create(name, 5)
            driver.call("pause_tasks", {"task_uuids": tasks[:2]})
            steps = worker.claim(8)
            worker.fail(steps[:2])
            worker.complete(steps[2:], continue_limit=4)
            driver.call("resume_tasks", {"task_uuids": tasks[:2]})
            driver.call("cancel_tasks", {"task_uuids": tasks[4:]})
            worker.release(worker.claim(3))
        driver.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("chain", "diamond", "chain")]
    for thread in threads:
        thread.start()
    try:
        reports = [verify(core.url) for _ in range(6)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for report in reports:
        assert broken(report) == {}
    assert core.one("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete'") > 0


def test_of_many_broken_rows_some_are_told_and_all_are_counted(core: Core) -> None:
    core.register("order", DIAMOND)
    core.create("order", 50)
    core.rows_affected("UPDATE tasker.tasks SET total = 5")
    (finding,) = verify(core.url, examples=3).findings
    assert (finding.rule.name, finding.count, len(finding.examples)) == ("total-counter", 50, 3)
    assert "total is 5, steps are 4" in str(finding.examples[0])
    assert "restore them" in finding.rule.advice


def test_a_task_a_namespace_or_a_time_leaves_the_others_out(core: Core) -> None:
    for namespace in ("shop", "stock"):
        core.register("order", DIAMOND, namespace=namespace)
    first, second = core.create("order", 2)
    core.create("order", namespace="stock")
    begun = core.one("SELECT clock_timestamp()")
    core.executor("shop_queue").run_all(1)
    core.rows_affected("UPDATE tasker.tasks SET total = 5")
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour'")
    assert broken(verify(core.url)) == {"total-counter": 3, "silent-executors": 1}
    assert broken(verify(core.url, task=first)) == {"total-counter": 1}
    assert broken(verify(core.url, namespace="shop")) == {"total-counter": 2}
    assert broken(verify(core.url, namespace="stock", task=second)) == {}
    assert broken(verify(core.url, since=begun)) == {"total-counter": 2}
    assert broken(verify(core.url, since=begun, namespace="stock")) == {}
    assert broken(verify(core.url, since=begun + dt.timedelta(hours=1))) == {}
    assert broken(verify(core.url, rules=["silent-executors"])) == {"silent-executors": 1}


def test_an_unknown_rule_and_a_task_that_is_no_uuid_are_refused(core: Core) -> None:
    with pytest.raises(InvalidRequest, match="there is no rule all-is-well"):
        verify(core.url, rules=["all-is-well"])
    with pytest.raises(InvalidRequest, match="'5' is not a uuid"):
        verify(core.url, task="5")


def test_a_database_without_the_schema_is_not_judged(tasker_server: ScratchDatabases) -> None:
    url = tasker_server.create(migrated=False)
    with pytest.raises(SchemaVersionError, match="no Tasker schema"):
        verify(url)
    tasker_server.drop(url)


def test_what_takes_too_long_is_told_apart_from_what_holds(core: Core) -> None:
    with psycopg.connect(core.url) as other:
        other.execute("LOCK TABLE tasker.task_contexts IN ACCESS EXCLUSIVE MODE")
        report = verify(core.url, timeout_seconds=0.5)
    assert set(report.unchecked) == {"task-has-context", "context-has-task"}
    assert "timeout" in report.unchecked["task-has-context"]
    assert len(report.rules) == len(RULES) - 2
    assert report.findings == ()


def test_an_operators_login_may_verify(core: Core) -> None:
    healthy = build(core)
    with login(core.url, "tasker_operator") as address:
        assert broken(verify(address)) == {}
        assert broken(verify(address, task=healthy.tasks["complete"])) == {}
        assert conninfo.conninfo_to_dict(address)["user"] != conninfo.conninfo_to_dict(core.url)["user"]


# -- history that begins late ---------------------------------------------------------------------------------------


def prune(core: Core, moment: dt.datetime) -> None:
    """Drop the history before ``moment``, as dropping old partitions does; here the bound lies within today."""
    for table in ("task_transitions", "workflow_step_transitions", "finalization_attempts"):
        ((name, bound),) = core.rows(
            """SELECT c.relname, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\((.*)\\)'))[1]
               FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
               WHERE i.inhparent = to_regclass(%s) AND pg_get_expr(c.relpartbound, c.oid) LIKE '%%MINVALUE%%'""",
            f"tasker.{table}",
        )
        for statement in (
            f"ALTER TABLE tasker.{table} DETACH PARTITION tasker.{name}",
            f"CREATE TABLE tasker.{table}_kept (LIKE tasker.{table} INCLUDING ALL)",
            f"INSERT INTO tasker.{table}_kept SELECT * FROM tasker.{name} WHERE at >= '{moment.isoformat()}'",
            f"DROP TABLE tasker.{name}",
            f"ALTER TABLE tasker.{table} ATTACH PARTITION tasker.{table}_kept"
            f" FOR VALUES FROM ('{moment.isoformat()}') TO ({bound})",
        ):
            core.connection.execute(statement.encode())


@pytest.fixture
def pruned(core: Core) -> Healthy:
    """Tasks from before and after the history begins, and one that was under way."""
    made = build(core)
    made.start("under_way", CHAIN, has_after_work=True, step={"max_attempts": 2})
    worker = made.worker("under_way")
    worker.complete(worker.claim())
    worker.fail(worker.claim())
    moment = core.one("SELECT clock_timestamp()")
    worker.run_all()
    made.act("retry_task", "failed")
    made.executors["failed"].run_all()
    made.start("later", CHAIN)
    made.worker("later").run_all()
    prune(core, moment)
    return made


def test_history_that_begins_late_is_no_violation(pruned: Healthy) -> None:
    report = verify(pruned.core.url)
    assert broken(report) == {}
    assert all(moment is not None for moment in report.history_from.values())


@pytest.mark.parametrize(
    ("kind", "spoil", "rule"),
    [
        (
            "under_way",
            "DELETE FROM tasker.workflow_step_transitions WHERE to_state = 'complete' AND position = 1",
            "step-chain",
        ),
        ("under_way", "UPDATE tasker.workflow_steps SET fence = 9 WHERE position = 1", "step-fences"),
        ("later", "DELETE FROM tasker.workflow_step_transitions WHERE position = 3", "step-chain"),
        ("later", "DELETE FROM tasker.task_transitions WHERE from_state IS NULL", "task-chain"),
        ("later", "UPDATE tasker.workflow_steps SET losses = 1 WHERE position = 1", "attempts-as-in-history"),
        ("failed", "DELETE FROM tasker.task_transitions WHERE to_state = 'complete'", "task-chain"),
    ],
)
def test_what_is_left_of_the_history_is_judged(pruned: Healthy, kind: str, spoil: str, rule: str) -> None:
    connection = pruned.core.connection
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    done = connection.execute(f"{spoil} AND task_uuid = %s".encode(), (pruned.tasks[kind],)).rowcount
    assert done > 0
    assert list(broken(verify_connection(connection))) == [rule]
    connection.rollback()


# -- pending repairs ------------------------------------------------------------------------------------------------


def test_what_the_sweep_will_put_right_is_pending_until_it_did(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    worker.claim()
    worker.die()
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour'")
    found = {finding.rule.name: finding.rule for finding in verify(core.url).findings}
    assert set(found) == {"silent-executors"}
    assert found["silent-executors"].severity == "pending"
    core.rows_affected("UPDATE tasker.executors SET lost_at = clock_timestamp()")
    report = verify(core.url)
    assert (broken(report), report.violations) == ({"receipts-of-the-dead": 1}, ())
    sweep(core)
    assert broken(verify(core.url)) == {}


def test_a_step_whose_claim_was_never_answered_is_pending_and_a_receipt_that_waits_to_be_named_is_nothing(
    core: Core,
) -> None:
    core.register("order", {"a": []})
    core.create("order", 2)
    worker = core.executor()
    worker.complete(worker.claim(1), finished=[])
    worker.claim(1)
    assert core.one("SELECT array_agg(call_no ORDER BY call_no) FROM tasker.step_claims") == [1, 3]
    worker.heartbeat(3, next_call_no=4, held_calls=[3])
    assert broken(verify(core.url)) == {}
    worker.heartbeat(4, next_call_no=4, held_calls=[])
    report = verify(core.url)
    assert (broken(report), report.violations) == ({"receipts-of-answers-that-got-lost": 1}, ())
    assert "steps of a call that it does not hold, the first is call 3" in report.findings[0].examples[0].detail
    sweep(core)
    assert broken(verify(core.url)) == {}
