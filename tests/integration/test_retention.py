"""Retention: what is over goes when its time has come, in batches; nothing else goes, and nobody waits."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tasker.cli import main
from tasker.config.manager import ConfigManager
from tasker.coordinator import retention as share
from tasker.coordinator.coordinator import Coordinator, TickReport
from tasker.coordinator.retention import RetentionShare
from tasker.core import OrchestrationCore
from tasker.database import retention
from tasker.database.calls import run
from tasker.database.partitions import drop_partitions, ensure_partitions, old_partitions
from tasker.database.verification import RULES, verify
from tasker.errors import TaskerError
from tests.integration.sql.test_plans import FILL, read_by
from tests.sql_kit import CHAIN, Core, lawful

AUDIT_TABLES = ("finalization_attempts", "task_transitions", "workflow_step_transitions")
A_MOMENT = 1e-9
"""In days: whatever is over."""


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    with lawful(tasker_database_url) as driver:
        driver.register("order", CHAIN, step={"max_attempts": 1})
        yield driver


def finish(core: Core, count: int = 1, **request: Any) -> list[str]:
    """Create tasks and run them to their end."""
    made = core.create("order", count, **request)
    core.executor().run_all()
    return made


def prune(core: Core, **request: Any) -> dict[str, Any]:
    return dict(core.call("prune_tasks", {"keep_seconds": 0, **request}))


def there(core: Core) -> set[str]:
    return {str(task) for (task,) in core.rows("SELECT task_uuid FROM tasker.tasks")}


def settings(**variables: str) -> Any:
    return ConfigManager.load("test", environ={f"TASKER_{name.upper()}": value for name, value in variables.items()})


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_finished_task_goes_with_all_that_is_its_and_its_history_stays(core: Core) -> None:
    (task,) = core.create("order", identity_key="7")
    worker = core.executor()
    worker.fail(worker.claim())
    core.call("retry_task", {"task_uuid": task, "by": "ann"})
    worker.run_all()
    tables = core.rows(
        "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'task_uuid'"
        " WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )
    assert prune(core) | {"last": None} == {
        "tasks": 1,
        "steps": 4,
        "passed": 0,
        "looked": 1,
        "last": None,
        "is_end": True,
        "first_kept": None,
    }
    left = {name: core.one(f"SELECT count(*) FROM tasker.{name} WHERE task_uuid = %s", task) for (name,) in tables}
    # A table that is new and knows tasks belongs into prune_tasks.sql, or here.
    assert {name for name, count in left.items() if count} == {"task_transitions", "workflow_step_transitions"}
    (again,) = core.create_many([{"namespace": "shop", "name": "order", "identity_key": "7"}])
    assert again["is_new"]


def test_what_is_not_over_stays(core: Core) -> None:
    core.register("hooked", CHAIN, has_after_work=True)
    waiting = core.create("order", run_at="2999-01-01T00:00:00Z")
    paused = core.create("order")
    core.call("pause_tasks", {"task_uuids": paused})
    unfinalized = core.create("hooked")
    core.executor().run_all()
    running = core.create("order")
    core.executor().claim()
    answer = prune(core)
    assert (answer["tasks"], answer["passed"]) == (0, 0)
    assert there(core) == {*waiting, *paused, *unfinalized, *running}
    assert answer["first_kept"] == min(there(core))


def test_a_task_stays_until_it_has_been_final_for_long_enough(core: Core) -> None:
    (old,) = finish(core)
    moment = core.one("SELECT clock_timestamp()")
    (young,) = finish(core)
    keep = "SELECT extract(epoch FROM clock_timestamp() - %s)::float8"
    assert prune(core, keep_seconds=3600)["tasks"] == 0
    assert prune(core, keep_seconds=core.one(keep, moment))["tasks"] == 1
    assert (old in there(core), young in there(core)) == (False, True)


def test_the_oldest_go_first_and_no_batch_is_larger_than_asked_for(core: Core) -> None:
    tasks = sorted(finish(core, 10))
    answer = prune(core, limit=3)
    assert (answer["tasks"], answer["is_end"], answer["last"]) == (3, False, tasks[2])
    assert there(core) == set(tasks[3:])
    answer = prune(core, after=answer["last"], max_steps=8)
    assert (answer["tasks"], answer["steps"], answer["is_end"]) == (2, 8, False)
    answer = prune(core, after=answer["last"])
    assert (answer["tasks"], answer["is_end"]) == (5, True)


def test_a_walk_past_tasks_that_stay_is_bounded_goes_on_where_it_stopped_and_misses_none(core: Core) -> None:
    pattern = [
        finish(core) if number % 9 == 8 else core.create("order", run_at="2999-01-01T00:00:00Z") for number in range(45)
    ]
    over = {tasks[0] for number, tasks in enumerate(pattern) if number % 9 == 8}
    after, calls = None, 0
    while True:
        answer = prune(core, look=10, after=after)
        assert answer["looked"] <= 10
        calls += 1
        after = answer["last"]
        if answer["is_end"]:
            break
    assert calls == 5
    assert not over & there(core)
    assert len(there(core)) == 40


def test_a_task_that_somebody_holds_is_passed_by_and_waited_for_by_nobody(core: Core) -> None:
    held, free = sorted(finish(core, 2))
    with psycopg.connect(core.url) as other:
        other.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR NO KEY UPDATE", (held,))
        core.connection.execute("SET lock_timeout = '5s'")
        answer = prune(core)
    assert (answer["tasks"], answer["passed"], answer["first_kept"]) == (1, 1, held)
    assert there(core) == {held}
    assert prune(core)["tasks"] == 1
    assert free not in there(core)


def test_a_child_stays_while_its_parent_is_there_and_goes_with_it(core: Core) -> None:
    core.register("slow", CHAIN, namespace="elsewhere")
    (parent,) = core.create("slow", namespace="elsewhere")
    (child,) = core.create("order", parent_task_uuid=parent)
    (grandchild,) = core.create("order", parent_task_uuid=child)
    core.executor().run_all()
    assert (prune(core)["passed"], there(core)) == (2, {parent, child, grandchild})
    core.executor("elsewhere_queue").run_all()
    assert (prune(core)["tasks"], there(core)) == (3, set())


def test_a_parent_does_not_wait_for_its_children(core: Core) -> None:
    (parent,) = finish(core)
    (child,) = core.create("order", parent_task_uuid=parent)
    assert prune(core)["tasks"] == 1
    assert there(core) == {child}


@pytest.mark.parametrize("request_", [{}, {"keep_seconds": None}, {"keep_seconds": -1}])
def test_no_task_goes_by_a_request_that_does_not_say_for_how_long(core: Core, request_: dict[str, Any]) -> None:
    finish(core)
    with pytest.raises(psycopg.Error, match="keep_seconds must be a number"):
        core.call("prune_tasks", request_)
    assert len(there(core)) == 1


def test_what_a_batch_reads_depends_on_the_batch_alone(core: Core) -> None:
    core.excuse(*RULES)  # the tables are filled with tasks that have no history
    finish(core, 50, identity_key=None)
    on_empty, _ = read_by(core, lambda: prune(core, limit=20))
    with psycopg.connect(core.url, autocommit=True) as filler:
        filler.execute(FILL.format(tasks=20_000).encode())
    finish(core, 30)
    on_full, answer = read_by(core, lambda: prune(core, limit=20))
    assert answer["tasks"] == 20
    core.rows_affected("ANALYZE")
    fresh = Core(core.url)
    planned_anew, answer = read_by(fresh, lambda: prune(fresh, limit=20))
    fresh.close()
    assert answer["tasks"] == 20
    for read in (on_full, planned_anew):
        assert {name: rows for name, rows in read.items() if rows > 3 * on_empty.get(name, 0) + 50} == {}


# -- all at once ------------------------------------------------------------------------------------------------------


def test_the_count_says_what_goes_and_changes_nothing(core: Core) -> None:
    (parent,) = core.create("order", run_at="2999-01-01T00:00:00Z")
    core.create("order", parent_task_uuid=parent)
    finish(core, 7)
    keep = retention.Retention(A_MOMENT, None, None)
    with psycopg.connect(core.url, autocommit=True) as connection:
        before = there(core)
        counted = retention.count(connection, keep)
        assert there(core) == before
        went = retention.prune(connection, keep)
    assert (counted.tasks, counted.steps) == (went.tasks, went.steps) == (7, 28)
    assert went.passed == 1


def test_resolved_letters_and_old_rows_of_other_histories_go_and_open_letters_stay(core: Core) -> None:
    tasks = core.create("order", 2)
    worker = core.executor()
    worker.fail(worker.claim())
    core.call("retry_task", {"task_uuid": tasks[0], "by": "ann"})
    core.rows_affected(
        "INSERT INTO tasker.circuit_transitions (name, from_state, to_state, at)"
        " VALUES ('bank', 'closed', 'open', clock_timestamp() - interval '3 days'), ('bank', 'open', 'closed', DEFAULT)"
    )
    answer = core.call("prune_history", {"keep_letters_seconds": 0, "keep_history_seconds": 86_400})
    assert {name: count for name, count in answer.items() if count} == {"dead_letters": 1, "circuit_transitions": 1}
    assert core.one("SELECT count(*) FROM tasker.dead_letters WHERE resolved_at IS NULL") == 1
    assert core.call("prune_history", {}) == {}


def test_letters_and_histories_are_kept_for_a_time_that_can_be_meant(core: Core) -> None:
    for name in ("keep_letters_seconds", "keep_history_seconds"):
        core.call("prune_history", {name: 1e300})
        with pytest.raises(psycopg.Error) as caught:
            core.call("prune_history", {name: -1})
        assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", name)


def test_events_that_nobody_reads_go_with_ticks_and_by_hand_and_can_be_counted(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    for namespace in ("shop", "stock"):
        core.call("queue_ensure", f"{namespace}_domain_events")
        core.call("ensure_namespace", namespace)
        query = "SELECT pgmq.send(%s, '{}') FROM generate_series(1, 5)"
        core.rows(query, f"{namespace}_domain_events")
        core.rows_affected(
            f"UPDATE pgmq.q_{namespace}_domain_events SET enqueued_at = enqueued_at - interval '1h' WHERE msg_id < 4"
        )

    def left() -> list[int]:
        return [core.depth(f"{namespace}_domain_events") for namespace in ("shop", "stock")]

    keep = retention.Retention(None, None, None, event_seconds=600)
    assert retention.count(core.connection, keep).domain_events == 6
    assert left() == [5, 5]
    monkeypatch.setattr(retention.prune_events, "__kwdefaults__", {"after": None, "limit": 2, "look": 1})
    report = TickReport()
    RetentionShare(settings(pgmq__event_retention_seconds="600")).take(core.connection, report)
    assert (report.pruned["domain_events"], left()) == (6, [2, 2])
    RetentionShare(settings(pgmq__event_retention_seconds="0")).take(core.connection, TickReport())
    assert (
        retention.prune(core.connection, retention.Retention(None, None, None, event_seconds=1e-9)).domain_events == 4
    )
    assert left() == [0, 0]


def test_archives_of_our_own_queues_are_pruned_and_others_are_left_alone(core: Core) -> None:
    core.connection.execute("SELECT pgmq.create('theirs')")
    for queue in ("shop_queue", "theirs"):
        for _ in range(3):
            core.connection.execute("SELECT pgmq.archive(%s, pgmq.send(%s, '{}'))", (queue, queue))
    keep = {"keep_seconds": 3600}
    assert core.call("prune_archives", keep)["messages"] == 0
    answer = core.call("prune_archives", {"keep_seconds": 0, "limit": 2})
    assert (answer["messages"], answer["is_end"]) == (2, False)
    answer = core.call("prune_archives", {"keep_seconds": 0, "limit": 2, "after": answer["last"]})
    assert (answer["messages"], answer["is_end"]) == (1, True)
    assert core.one("SELECT count(*) FROM pgmq.a_theirs") == 3


# -- partitions -------------------------------------------------------------------------------------------------------


def bounds(core: Core, table: str) -> dict[str, str]:
    query = (
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i"
        " JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s) AND NOT i.inhdetachpending"
    )
    return dict(core.rows(query, f"tasker.{table}"))


def grow_old(core: Core) -> None:
    """Give each audit table three partitions of the past, as if it were 13 days old."""
    for table in AUDIT_TABLES:
        (today,) = [name for name, bound in bounds(core, table).items() if "MINVALUE" in bound]
        (ends,) = core.rows("SELECT date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'")[0]
        core.connection.execute(f"ALTER TABLE tasker.{table} DETACH PARTITION tasker.{today}".encode())
        days = [ends - dt.timedelta(days=number) for number in (12, 11, 10)]
        starts = ["MINVALUE", *(f"'{day}'" for day in days)]
        stops = [f"'{day}'" for day in (*days, ends + dt.timedelta(days=1))]
        names = [*(f"{table}_p{day - dt.timedelta(days=1):%Y%m%d}" for day in days), today]
        for name, start, stop in zip(names, starts, stops, strict=True):
            make = f"CREATE TABLE IF NOT EXISTS tasker.{name} (LIKE tasker.{table} INCLUDING ALL)"
            attach = f"ALTER TABLE tasker.{table} ATTACH PARTITION tasker.{name} FOR VALUES FROM ({start}) TO ({stop})"
            core.connection.execute(f"{make}; {attach}".encode())


def test_partitions_go_when_all_of_their_rows_are_old_enough(core: Core) -> None:
    grow_old(core)
    with psycopg.connect(core.url, autocommit=True) as connection:
        assert drop_partitions(connection, keep_days=13) == ()
        assert old_partitions(connection, 13) == []
        dropped = drop_partitions(connection, keep_days=10.999)
        assert {each.parent for each in dropped} == set(AUDIT_TABLES)
        assert len(dropped) == 6
        assert drop_partitions(connection, keep_days=10.999) == ()
        assert len(drop_partitions(connection, keep_days=5, limit=1)) == 1
        assert ensure_partitions(connection) == ()
    for table in AUDIT_TABLES:
        firsts = [name for name, bound in bounds(core, table).items() if "MINVALUE" in bound]
        assert firsts == [f"{table}_early"]


def test_a_clock_that_is_set_back_stops_nobody_after_partitions_went(core: Core) -> None:
    grow_old(core)
    with psycopg.connect(core.url, autocommit=True) as connection:
        drop_partitions(connection, keep_days=5)
        for days in (0, 1, 11, 400):
            connection.execute(
                "INSERT INTO tasker.task_transitions (task_uuid, to_state, at)"
                " VALUES (gen_random_uuid(), 'pending', clock_timestamp() - make_interval(days => %s))",
                (days,),
            )
        connection.execute("DELETE FROM tasker.task_transitions")


def test_a_reader_delays_the_drop_and_sees_all_rows_and_no_writer_waits(core: Core) -> None:
    grow_old(core)
    core.rows_affected(
        "INSERT INTO tasker.task_transitions (task_uuid, to_state, at)"
        " VALUES (gen_random_uuid(), 'pending', clock_timestamp() - interval '20 days')"
    )
    with psycopg.connect(core.url) as reader, psycopg.connect(core.url, autocommit=True) as connection:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM tasker.task_transitions").fetchone() == (1,)
        with pytest.raises(TaskerError, match="could not be dropped within"):
            drop_partitions(connection, keep_days=5, wait_seconds=0.3)
        assert reader.execute("SELECT count(*) FROM tasker.task_transitions").fetchone() == (1,)
        core.connection.execute("SET lock_timeout = '5s'")
        core.create("order")
        reader.rollback()
        # What was begun is ended first.
        drop_partitions(connection, keep_days=5)
        assert old_partitions(connection, 5) == []
    assert core.one("SELECT count(*) FROM tasker.task_transitions") == 1
    assert core.one("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0


def test_a_partition_that_somebody_keeps_is_not_dropped(core: Core) -> None:
    grow_old(core)
    name = min(bounds(core, "task_transitions"))
    core.connection.execute(f"ALTER TABLE tasker.task_transitions DETACH PARTITION tasker.{name}".encode())
    with psycopg.connect(core.url, autocommit=True) as connection:
        drop_partitions(connection, keep_days=5)
    assert core.one("SELECT to_regclass(%s) IS NOT NULL", f"tasker.{name}")


def test_the_history_is_legal_when_tasks_and_partitions_are_gone(core: Core) -> None:
    core.register("hooked", CHAIN, has_after_work=True)
    (parent,) = finish(core)
    core.create("order", parent_task_uuid=parent)
    core.create("hooked", 2)
    core.executor().run_all()
    (claim, _) = core.call("claim_tasks_for_finalization", {"processor": "p", "limit": 5})["claims"]
    core.call("finalize_task", {"processor": "p", **claim})
    core.create("order")
    core.executor().claim()
    assert prune(core)["tasks"] == 3
    assert verify(core.url).findings == ()
    grow_old(core)
    with psycopg.connect(core.url, autocommit=True) as connection:
        drop_partitions(connection, keep_days=5)
    report = verify(core.url)
    assert report.findings == ()
    assert all(moment is not None for moment in report.history_from.values())


# -- ticks ------------------------------------------------------------------------------------------------------------


def take(core: Core, *, clock: float = 0.0, **variables: str) -> dict[str, int]:
    """One tick's share in a process of its own."""
    report = TickReport()
    with psycopg.connect(core.url, autocommit=True) as connection:
        RetentionShare(settings(**variables), lambda: 1e9 + clock).take(connection, report)
    return report.pruned


SOON = {"database__retention__finished_task_days": str(A_MOMENT)}
NEVER = {"database__retention__finished_task_days": "0", "database__retention__audit_days": "0"}


def test_a_tick_removes_what_is_over_and_leaves_the_rest(core: Core) -> None:
    finish(core, 3)
    (kept,) = core.create("order")
    assert take(core) == {}
    assert take(core, **NEVER) == {}
    assert take(core, **SOON) == {"tasks": 3, "steps": 12}
    assert there(core) == {kept}


def test_ticks_in_other_processes_go_on_where_the_last_one_stopped(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "LOOKS_PER_TICK", 1)
    monkeypatch.setattr(retention.prune_tasks, "__kwdefaults__", {**retention.prune_tasks.__kwdefaults__, "look": 4})
    blocked = [task for _ in range(3) for task in core.create("order", 4, run_at="2999-01-01T00:00:00Z")]
    finish(core, 2)
    went = [take(core, clock=number, **SOON) for number in range(5)]
    assert went == [{}, {}, {}, {"tasks": 2, "steps": 8}, {}]
    # And begin anew: what comes later is found, too.
    finish(core, 1)
    assert {"tasks": 1, "steps": 4} in [take(core, clock=number, **SOON) for number in range(5, 10)]
    assert there(core) == set(blocked)


def test_between_two_walks_from_the_front_what_was_removed_is_not_passed_again(core: Core) -> None:
    finish(core, 5)
    take(core, **SOON)
    finish(core, 1)
    assert take(core, clock=10, **SOON)["tasks"] == 1
    progress = run(core.connection, retention.progress())
    assert progress["tasks"]["after"] is not None
    assert progress["tasks"]["front_at"] == 1e9
    take(core, clock=4000, **SOON)
    assert run(core.connection, retention.progress())["tasks"]["front_at"] == 1e9 + 4000


def test_partitions_that_cannot_be_dropped_now_are_told_and_tried_later(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "PARTITION_WAIT_SECONDS", 0.2)
    grow_old(core)
    days = SOON | {"database__retention__audit_days": "5"}
    finish(core)
    with psycopg.connect(core.url) as reader:
        for table in AUDIT_TABLES:
            reader.execute(f"SELECT count(*) FROM tasker.{table}".encode())
        with pytest.raises(TaskerError, match="could not be dropped within"):
            take(core, **days)
        assert there(core) == set()
    assert take(core, clock=10, **days) == {}
    assert take(core, clock=400, **days)["partitions"] >= 2


def test_the_coordinator_prunes(tasker_core: OrchestrationCore) -> None:
    report = Coordinator(tasker_core).tick()
    assert report.problems == {}
    with tasker_core.database.connect() as connection:
        assert "tasks" in run(connection, retention.progress())


# -- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["db", "prune", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_command_says_what_would_go_and_what_went(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", core.url)
    finish(core, 3)
    days = ("--finished-days", str(A_MOMENT))
    assert json.loads(command("--json").stdout)["tasks"] == 0
    told = json.loads(command("--dry-run", "--json", *days).stdout)
    assert (told["dry_run"], told["tasks"], told["steps"], told["partitions"]) == (True, 3, 12, [])
    assert "finished tasks: 3 would go, with 12 steps" in command("--dry-run", *days).stdout
    assert len(there(core)) == 3
    assert "finished tasks: 3 went, with 12 steps" in command(*days).stdout
    assert there(core) == set()


def test_the_command_keeps_for_ever_what_it_is_told_to(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", core.url)
    finish(core)
    told = json.loads(command("--json", "--finished-days", "0", "--audit-days", "0").stdout)
    assert (told["tasks"], told["finished_task_days"], told["audit_days"]) == (0, None, None)
    assert "they would be shown without it" in command("--audit-days", "7", code=2).output


@pytest.mark.parametrize("days", [("--finished-days", "nan"), ("--finished-days", "36501"), ("--audit-days", "36501")])
def test_the_command_takes_as_many_days_as_the_settings_do(days: tuple[str, str]) -> None:
    assert days[0] in command(*days, code=2).output
