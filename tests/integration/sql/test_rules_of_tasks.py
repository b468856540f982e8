"""The rules of the step protocol about waiting, pauses, operators and delegated steps (11-20), one by one.

Each test replays the shortest trace that breaks without its rule. The numbers are those of the protocol; rules that
need two sessions at the same moment are in tests/races, 10 (fan-out) is in test_claiming_and_completing, 21 and 22 are
in test_finalization.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_kit import CHAIN, Core, lost_messages, sweep

# -- parking, timers, messages (11-14) ------------------------------------------------------------------------


def test_rule_11_a_due_timer_starts_a_parked_step(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    core.rows_affected("DELETE FROM pgmq.q_shop_queue")
    core.rows_affected(
        """INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)
           SELECT task_uuid, 0, 'retry', 'shop_queue', tasker.now() + interval '9 s', tasker.now(), 0
           FROM tasker.tasks"""
    )
    worker = core.executor()
    assert worker.claim() == []
    core.move_clock(10)
    assert worker.run_all() == 1


@pytest.mark.parametrize("way_out", ["resolve_step", "cancel_tasks", "resolve_task", "reset_step"])
def test_rule_12_every_way_out_of_a_live_state_takes_the_timer_along(core: Core, way_out: str) -> None:
    core.register("order", {"a": [], "b": ["a"]}, step={"backoff": "fixed", "backoff_base_ms": 60_000})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 1
    core.call(way_out, {"task_uuid": task, "task_uuids": [task], "step": "a", "results": {}, "by": "me"})
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0


def test_rule_13_a_step_requeued_in_a_paused_task_gets_its_message(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    core.call("pause_tasks", {"task_uuids": [task]})
    worker.die()
    sweep(core)
    assert core.depth("shop_queue") == 1
    core.call("resume_tasks", {"task_uuids": [task]})
    assert core.executor().run_all() == 1


def test_rule_14_a_result_of_a_busy_task_stays_on_its_queue(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    outcome = {**a, "executor": worker.uuid, "status": "complete"}
    core.rows_affected("SELECT tasker.queue_send('orchestration_step_results', ARRAY['{}'::jsonb])")
    ((msg_id,),) = core.rows("SELECT msg_id FROM tasker.queue_read('orchestration_step_results', 30, 10)")
    messages = {"messages": [{"msg_id": msg_id, "outcome": outcome}]}
    other = Core(core.url)
    with other.connection.transaction():
        other.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", task)
        assert core.call("process_step_results", messages)["outcomes"][0]["answer"] == "busy"
    other.close()
    assert core.depth("orchestration_step_results") == 1
    assert core.call("process_step_results", messages)["outcomes"][0]["answer"] == "accepted"
    assert core.depth("orchestration_step_results") == 0
    assert core.task(task)["state"] == "complete"


def test_rule_14_a_deferred_message_of_a_busy_task_stays_on_its_queue(core: Core) -> None:
    core.register("wide", {f"s{i}": [] for i in range(300)})
    (task,) = core.create("wide")
    other = Core(core.url)
    with other.connection.transaction():
        other.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", task)
        assert core.call("enqueue_deferred_steps", {"limit": 5})["taken"] == 0
    other.close()
    assert core.call("enqueue_deferred_steps", {"limit": 5}) == {"taken": 1, "sent": 44, "queues": []}


# -- pause and admission (15-17) ------------------------------------------------------------------------------


def test_rule_15_a_paused_task_readies_its_dependents_without_messages_and_goes_on_when_resumed(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    core.call("pause_tasks", {"task_uuids": [task], "by": "me", "reason": "look"})
    assert worker.complete([a], continue_limit=5)["steps"] == []
    assert core.states(task)["b"] == "enqueued"
    assert core.depth("shop_queue") == 0
    assert core.task(task)["state"] == "paused"
    assert worker.claim() == []
    core.call("resume_tasks", {"task_uuids": [task]})
    assert worker.run_all() == 3
    assert core.task(task)["state"] == "complete"


def test_rule_15_a_paused_task_ends_with_its_last_running_step(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    core.call("pause_tasks", {"task_uuids": [task]})
    assert worker.complete([a])["finished_tasks"] == [{"task_uuid": task, "state": "complete"}]


def test_rule_16_messages_and_due_timers_of_a_paused_task_are_dropped_and_resume_brings_them_back(core: Core) -> None:
    core.register("order", {"a": [], "b": []})
    (task,) = core.create("order")
    worker = core.executor()
    a, b = worker.claim()
    worker.fail([a])
    worker.release([b])
    core.call("pause_tasks", {"task_uuids": [task]})
    assert worker.claim() == []
    assert core.depth("shop_queue") == 0
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0
    assert core.states(task) == {"a": "waiting_for_retry", "b": "enqueued"}
    core.call("resume_tasks", {"task_uuids": [task]})
    assert lost_messages(core) == []
    assert worker.run_all() == 2


def test_rule_17_a_task_never_admitted_resumes_to_pending(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order", run_at="2999-01-01T00:00:00Z")
    core.call("pause_tasks", {"task_uuids": [task]})
    answer = core.call("resume_tasks", {"task_uuids": [task]})
    assert answer["tasks"] == [{"task_uuid": task, "changed": True, "state": "pending"}]
    assert core.task(task)["active"] == 0


def test_rule_17_admission_ends_a_task_with_nothing_left_to_run(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]})
    (task,) = core.create("order", run_at="2999-01-01T00:00:00Z")
    for step in ("a", "b"):
        core.call("resolve_step", {"task_uuid": task, "step": step, "results": {}, "by": "me"})
    assert core.task(task)["state"] == "pending"
    core.rows_affected("UPDATE tasker.tasks SET scheduled = false")
    assert core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "p"})["admitted"] == 1
    assert core.task(task)["state"] == "complete"


def test_rule_17_admission_starts_after_steps_that_were_resolved_while_it_waited(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]})
    (task,) = core.create("order", run_at="2999-01-01T00:00:00Z")
    core.call("resolve_step", {"task_uuid": task, "step": "a", "results": 1, "by": "me"})
    assert core.states(task)["b"] == "pending"
    core.rows_affected("UPDATE tasker.tasks SET scheduled = false")
    core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "p"})
    assert core.states(task) == {"a": "resolved_manually", "b": "enqueued"}
    assert core.executor().run_all() == 1


# -- the operator (18-19) -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["complete", "resolved_manually", "cancelled", "pending"])
def test_rule_18_a_step_in_such_a_state_cannot_be_reset(core: Core, state: str) -> None:
    core.register("order", {"a": [], "b": ["a"]})
    (task,) = core.create("order")
    step = "b" if state == "pending" else "a"
    if state == "complete":
        worker = core.executor()
        worker.complete(worker.claim())
    elif state == "resolved_manually":
        core.call("resolve_step", {"task_uuid": task, "step": "a", "results": {}, "by": "me"})
    elif state == "cancelled":
        core.call("cancel_tasks", {"task_uuids": [task]})
    with pytest.raises(psycopg.Error) as caught:
        core.call("reset_step", {"task_uuid": task, "step": step, "by": "me"})
    assert caught.value.sqlstate == "TK005"
    assert core.states(task)[step] == state


def test_rule_19_retry_and_reset_begin_with_fresh_attempts_and_close_the_dead_letter(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    core.rows_affected("UPDATE tasker.workflow_steps SET losses = 3")
    core.call("reset_step", {"task_uuid": task, "step": "a", "by": "ann", "reason": "mended"})
    assert core.task(task)["state"] == "in_progress"
    assert [core.steps(task)["a"][key] for key in ("state", "attempts", "losses", "fence")] == ["enqueued", 0, 0, 1]
    worker.complete(worker.claim())
    assert core.task(task)["state"] == "error"
    core.call("retry_task", {"task_uuid": task, "by": "bob", "reason": "again"})
    assert core.states(task) == {"a": "complete", "b": "enqueued"}
    letters = core.rows("SELECT position, resolution, resolved_by, resolved_reason FROM tasker.dead_letters ORDER BY 1")
    assert letters == [(0, "reset", "ann", "mended"), (1, "retried", "bob", "again")]
    assert worker.run_all() == 1
    assert core.task(task)["state"] == "complete"


# -- delegated steps (20) -------------------------------------------------------------------------------------


def test_rule_20_a_delegated_steps_result_needs_no_living_executor(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, steps={"a": {"delegated": True, "timeout_seconds": 60}})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.complete([a], outcome={"status": "delegated", "deadline_seconds": 60}, finished=[1])
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0
    core.call("deregister_executor", {"executor": worker.uuid})
    assert sweep(core)["requeued"] == 0
    outcome = {**a, "executor": worker.uuid, "status": "complete", "results": {"sent": True}}
    answer = core.call("process_step_results", {"messages": [{"msg_id": 0, "outcome": outcome}]})
    assert answer["outcomes"][0]["answer"] == "accepted"
    assert core.states(task) == {"a": "complete", "b": "enqueued"}
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0


def test_rule_20_a_delegated_report_under_an_old_fence_changes_nothing(core: Core) -> None:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 60})
    core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.release([a])
    answer = worker.complete([a], outcome={"status": "delegated", "deadline_seconds": 60})
    assert answer["outcomes"][0]["answer"] == "stale"
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0


def test_a_delegated_step_without_a_result_times_out_by_its_deadline_and_runs_again(core: Core) -> None:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 60})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.complete([a], outcome={"status": "delegated", "deadline_seconds": 60})
    assert 50 < core.call("process_step_results", {})["next_due_seconds"] <= 60
    core.move_clock(61)
    answer = core.call("process_step_results", {})
    assert answer["revoke"] == [f"{a['step_uuid']}:1"]
    assert core.steps(task)["a"]["error"]["timeout"] is True
    assert core.states(task) == {"a": "waiting_for_retry"}
    (again,) = worker.claim()
    assert (again["fence"], again["attempt"]) == (2, 2)
    worker.complete([again])


@pytest.mark.parametrize("action", ["cancel_tasks", "resolve_step"])
def test_a_delegated_step_that_is_taken_away_is_revoked_through_its_deadline(core: Core, action: str) -> None:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 60})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.complete([a], outcome={"status": "delegated", "deadline_seconds": 60})
    core.call(action, {"task_uuid": task, "task_uuids": [task], "step": "a", "results": {}, "by": "me"})
    assert core.call("process_step_results", {})["revoke"] == [f"{a['step_uuid']}:1"]
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0
