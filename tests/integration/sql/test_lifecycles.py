"""Stuck tasks: what takes or waits longer than its workflow allows is given up, or paused for somebody to look."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql_kit import DIAMOND, Core

HOUR = 3600.0
MAX = "max_duration_minutes"
IN_PROCESS = "max_steps_in_process_minutes"
RETRY = "max_waiting_for_retry_minutes"
DEPENDENCIES = "max_waiting_for_dependencies_minutes"
LATER = {"backoff": "fixed", "backoff_base_ms": 1_000_000_000}


def sweep(core: Core, **request: Any) -> dict[str, Any]:
    return dict(core.call("act_on_stuck_tasks", request))


def after(core: Core, seconds: float, **request: Any) -> dict[str, Any]:
    """What a sweep does once so much time has passed."""
    core.move_clock(seconds)
    try:
        return sweep(core, **request)
    finally:
        core.move_clock(0)


def age(core: Core) -> None:
    """Let all tasks be admitted two hours ago, and a workflow with a short limit make the sweep look at young ones."""
    core.register("short", {"a": []}, lifecycle={MAX: 1})
    core.rows_affected("UPDATE tasker.tasks SET admitted_at = admitted_at - interval '2 hours'")
    core.rows_affected("UPDATE tasker.task_transitions SET at = at - interval '2 hours'")
    core.excuse("task-dates", "task-audit-times")


def reasons(core: Core) -> dict[str, str]:
    """The open letters: step and reason."""
    query = "SELECT snapshot->>'step', reason FROM tasker.dead_letters WHERE resolved_at IS NULL"
    return dict(core.rows(query))


def test_without_lifecycles_the_sweep_looks_at_nothing(core: Core) -> None:
    core.register("order", DIAMOND)
    core.create("order")
    assert after(core, HOUR)["looked"] == 0


def test_a_task_past_its_maximum_ends_in_error_and_its_live_steps_have_letters(core: Core) -> None:
    core.register("order", {"a": [], "b": [], "c": [], "d": ["a", "b"]}, lifecycle={MAX: 30}, step=LATER)
    (task,) = core.create("order")
    worker = core.executor()
    a, b = worker.claim(2)
    worker.fail([b])
    assert after(core, HOUR / 2 - 60)["tasks"] == []
    answer = after(core, HOUR / 2 + 60)
    assert answer["tasks"] == [{"task_uuid": task, "reason": "lifecycle_max_duration", "steps": 3, "action": "ended"}]
    assert (answer["given_up"], answer["finished_tasks"]) == (3, [{"task_uuid": task, "state": "error"}])
    assert core.states(task) == {"a": "error", "b": "error", "c": "error", "d": "pending"}
    assert reasons(core) == dict.fromkeys("abc", "lifecycle_max_duration")
    row = core.task(task)
    assert (row["state"], row["failed"], row["open"]) == ("error", 3, 1)
    why = core.call("explain_task", task)
    assert "lifecycle_max_duration: its task has run since" in why["detail"]
    assert why["steps"][0]["detail"].startswith("lifecycle_max_duration: its task has run since")
    assert "its last attempt failed: boom" in core.steps(task)["b"]["error"]["message"]
    # Its handler is told, and what it still returns counts no more.
    lost = [step["step_uuid"] for step in worker.heartbeat(oldest_call_no=1)["steps_lost"]]
    assert a["step_uuid"] in lost
    late = worker.complete([a])["outcomes"][0]
    assert (late["answer"], late["reason"]) == ("stale", "step_is_error")


def test_a_task_that_was_given_up_is_retried_and_its_clock_starts_anew(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, lifecycle={MAX: 30})
    (task,) = core.create("order")
    age(core)
    assert after(core, 120)["given_up"] == 1
    core.call("retry_task", {"task_uuid": task, "by": "ann"})
    assert after(core, 120)["given_up"] == 0
    assert core.executor().run_all() == 2
    assert core.task(task)["state"] == "complete"


def test_a_single_letter_retried_starts_the_clock_anew_too(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, lifecycle={MAX: 30}, steps={"a": {"lifecycle": {IN_PROCESS: 1}}})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim(1)
    assert after(core, 120)["tasks"][0]["reason"] == "lifecycle_steps_in_process"
    assert core.task(task)["state"] == "in_progress"
    core.call("retry_dead_letters", {"filter": {}})
    age(core)
    assert after(core, 120)["given_up"] == 0


def test_an_attempt_that_runs_too_long_is_given_up_and_the_others_go_on(core: Core) -> None:
    core.register("order", {"a": [], "b": [], "c": ["b"]}, lifecycle={IN_PROCESS: 10})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim(1)
    answer = after(core, HOUR)
    assert answer["tasks"][0] | {"task_uuid": ""} == {
        "task_uuid": "",
        "reason": "lifecycle_steps_in_process",
        "steps": 1,
        "action": "gave_up_steps",
    }
    assert core.states(task) == {"a": "error", "b": "enqueued", "c": "pending"}
    assert core.task(task)["active"] == 1
    assert core.executor().run_all() == 2
    assert core.task(task)["state"] == "error"


def test_a_step_that_waits_too_long_for_its_retry_is_given_up(core: Core) -> None:
    core.register("order", {"a": []}, steps={"a": {"lifecycle": {RETRY: 5}, **LATER}})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    assert after(core, 240)["given_up"] == 0
    assert after(core, 360)["given_up"] == 1
    assert reasons(core) == {"a": "lifecycle_waiting_for_retry"}
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0
    assert core.task(task)["state"] == "error"


def test_a_step_past_its_own_maximum_is_given_up_even_if_nobody_ran_it(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, steps={"b": {"lifecycle": {MAX: 5}}})
    (task,) = core.create("order")
    worker = core.executor()
    assert after(core, 600)["given_up"] == 0
    worker.complete(worker.claim())
    assert after(core, 600)["given_up"] == 1
    assert core.states(task) == {"a": "complete", "b": "error"}
    assert core.history(task, "b") == ["pending>enqueued", "enqueued>error"]
    core.call("retry_dead_letters", {"filter": {}})
    assert worker.run_all() == 1
    assert core.task(task)["state"] == "complete"


def test_a_wait_for_dependencies_that_takes_too_long_gives_up_what_is_waited_for(core: Core) -> None:
    graph = {"a": [], "b": ["a"], "c": ["b"], "aside": []}
    core.register("order", graph, steps={"c": {"lifecycle": {DEPENDENCIES: 15}}})
    (task,) = core.create("order")
    worker = core.executor()
    worker.complete(worker.claim(1))
    answer = after(core, 1200)
    assert answer["tasks"][0]["reason"] == "lifecycle_waiting_for_dependencies"
    assert core.states(task) == {"a": "complete", "b": "error", "c": "pending", "aside": "enqueued"}
    # The one that failed blocks it now: nothing more is given up for its sake.
    assert after(core, 2400)["given_up"] == 0
    core.call("retry_dead_letters", {"filter": {}})
    assert sweep(core)["given_up"] == 0
    assert worker.run_all() == 3
    assert core.task(task)["state"] == "complete"


def test_what_a_step_leaves_out_it_has_from_its_task_except_for_the_maximum(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, lifecycle={MAX: 60, RETRY: 5}, steps={"b": {"lifecycle": {RETRY: 9}}})
    stored = dict(core.rows("SELECT name, lifecycle FROM tasker.named_steps"))
    assert stored == {"a": {RETRY: 5}, "b": {RETRY: 9}}
    assert core.rows("SELECT lifecycle FROM tasker.named_tasks") == [({MAX: 60, RETRY: 5, "earliest_minutes": 5},)]


@pytest.mark.parametrize("said", [{"staleness_action": "manual_review"}, {"auto_fail_on_timeout": False}])
def test_a_stuck_task_is_paused_where_somebody_is_to_look_at_it(core: Core, said: dict[str, Any]) -> None:
    core.register("order", {"a": []}, lifecycle={MAX: 5, **said})
    (task,) = core.create("order")
    answer = after(core, 600)
    assert (answer["paused"], answer["given_up"], answer["tasks"][0]["action"]) == (1, 0, "paused")
    assert core.task(task)["state"] == "paused"
    assert "by lifecycle: lifecycle_max_duration: " in core.call("explain_task", task)["detail"]
    assert after(core, 600)["tasks"] == []
    core.call("resume_tasks", {"task_uuids": [task]})
    assert sweep(core)["tasks"] == []
    core.executor().run_all()
    assert core.task(task)["state"] == "complete"


def test_what_has_not_begun_or_is_paused_or_over_is_never_stuck(core: Core) -> None:
    core.register("order", {"a": []}, lifecycle={MAX: 5})
    later, paused, done = (core.create("order", **more)[0] for more in ({"run_at": "2999-01-01T00:00:00Z"}, {}, {}))
    core.call("pause_tasks", {"task_uuids": [paused]})
    core.executor().run_all()
    assert after(core, HOUR)["tasks"] == []
    states = [core.task(task)["state"] for task in (later, paused, done)]
    assert states == ["pending", "paused", "complete"]


def test_a_delegated_step_that_is_given_up_has_its_celery_task_revoked(core: Core) -> None:
    sent = {"delegated": True, "timeout_seconds": 100_000}
    core.register("order", {"a": []}, step=sent, lifecycle={IN_PROCESS: 5})
    (task,) = core.create("order")
    worker = core.executor()
    (step,) = worker.claim()
    worker.complete([step], outcome={"status": "delegated", "deadline_seconds": 100_000})
    core.move_clock(600)
    assert sweep(core)["given_up"] == 1
    answer = core.call("process_step_results", {"messages": []})
    assert (answer["revoke"], answer["timed_out"]) == ([f"{step['step_uuid']}:1"], [])
    assert core.task(task)["state"] == "error"


def test_the_sweep_goes_on_in_the_next_round_where_it_ended(core: Core) -> None:
    core.register("order", {"a": []}, lifecycle={MAX: 5})
    core.register("other", {"a": []})
    tasks = core.create("order", 2) + core.create("other", 3) + core.create("order", 2)
    first = after(core, 600, page=3)
    assert (first["looked"], len(first["tasks"]), first["more"]) == (3, 2, True)
    second = after(core, 600, page=3)
    assert (second["looked"], len(second["tasks"]), second["more"]) == (3, 1, True)
    third = after(core, 600, page=3)
    assert (third["looked"], len(third["tasks"]), third["more"]) == (1, 1, False)
    assert [core.task(task)["state"] for task in tasks] == ["error"] * 2 + ["in_progress"] * 3 + ["error"] * 2


def test_the_sweep_acts_on_no_more_than_it_was_asked_for(core: Core) -> None:
    core.register("order", {"a": []}, lifecycle={MAX: 5})
    core.create("order", 5)
    sizes = [len(after(core, 600, limit=2)["tasks"]) for _ in range(4)]
    assert sizes == [2, 2, 1, 0]


def test_what_somebody_works_on_is_left_to_the_next_round(core: Core) -> None:
    core.register("order", {"a": []}, lifecycle={MAX: 5})
    (task,) = core.create("order")
    for locked in ("tasks", "workflow_steps"):
        with psycopg.connect(core.url) as other:
            other.execute(f"SELECT FROM tasker.{locked} WHERE task_uuid = %s FOR NO KEY UPDATE", [task])
            answer = after(core, 600)
            assert (answer["skipped"], answer["tasks"]) == (1, [])
    assert len(after(core, 600)["tasks"]) == 1


@pytest.mark.parametrize(
    ("lifecycle", "column"),
    [
        ({MAX: 0}, f"lifecycle.{MAX}"),
        ({MAX: 1.5}, f"lifecycle.{MAX}"),
        ({MAX: "5"}, f"lifecycle.{MAX}"),
        ({MAX: 525_601}, f"lifecycle.{MAX}"),
        ({"max_minutes": 5}, "lifecycle.max_minutes"),
        ({"staleness_action": "forget"}, "lifecycle.staleness_action"),
        ({"auto_fail_on_timeout": "no"}, "lifecycle.auto_fail_on_timeout"),
        (3, "lifecycle"),
    ],
)
def test_a_lifecycle_that_cannot_be_meant_is_refused_at_registration(core: Core, lifecycle: Any, column: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        core.register("order", {"a": []}, lifecycle=lifecycle)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", column)
    with pytest.raises(psycopg.Error) as caught:
        core.register("order", {"a": []}, step={"lifecycle": lifecycle})
    assert caught.value.diag.column_name == f"steps[0].{column}"
