"""The rules of the step protocol, one by one. Each test replays the shortest trace that breaks without its rule.

The numbers are those of the protocol; rules that need two sessions at the same moment are in tests/races.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_kit import CHAIN, DIAMOND, Core, lost_messages, sweep

# -- claims and receipts (1-9) --------------------------------------------------------------------------------


def test_rule_1_a_repeated_claim_returns_what_the_first_one_claimed(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order", 4)
    worker = core.executor()
    first = worker.claim(2)
    repeated = worker.claim(2, call_no=worker.call_no)
    assert [s["step_uuid"] for s in repeated] == [s["step_uuid"] for s in first]
    assert core.depth("shop_queue") == 2
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 1
    worker.complete(first)


def test_rule_1_a_repeated_claim_leaves_out_what_was_settled_since(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 2)
    worker = core.executor()
    one, two = worker.claim()
    worker.complete([one], finished=[])
    assert [s["step_uuid"] for s in worker.claim(call_no=1)] == [two["step_uuid"]]
    worker.complete([two])


def test_a_repeated_claim_tells_whether_outcomes_sent_by_message_were_taken_and_claims_nothing(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 3)
    worker = core.executor()
    steps = worker.claim(2)

    def still_held() -> list[str]:
        return [step["task_uuid"] for step in worker.claim(2, call_no=1)]

    left = [step["task_uuid"] for step in steps]
    assert still_held() == left
    for step in steps:
        outcome = {**step, "executor": worker.uuid, "status": "complete", "results": {}}
        core.call("process_step_results", {"messages": [{"msg_id": 0, "outcome": outcome}]})
        left.remove(step["task_uuid"])
        assert still_held() == left
    assert core.depth("shop_queue") == 1


def test_rule_2_a_late_repeat_of_a_release_does_not_take_a_running_step_away(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    (first,) = worker.claim()
    assert worker.release([first], finished=[1])["released"] == 1
    (second,) = worker.claim()
    assert second["fence"] == first["fence"] + 1
    assert worker.release([first])["released"] == 0
    assert core.states(task) == {"a": "in_progress"}
    worker.complete([second])
    assert core.steps(task)["a"]["attempts"] == 1


def test_rule_3_a_claim_whose_answer_was_lost_is_given_back_without_a_loss(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    worker.heartbeat(oldest_call_no=1)
    assert sweep(core)["requeued"] == 0
    worker.heartbeat(oldest_call_no=2)
    assert sweep(core)["requeued"] == 1
    step = core.steps(task)["a"]
    assert (step["state"], step["losses"], step["attempts"], step["fence"]) == ("enqueued", 0, 0, 1)


def test_rule_3_a_call_below_the_oldest_held_is_refused(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    worker.heartbeat(oldest_call_no=5)
    for call in (worker.claim, lambda call_no: worker.complete([], call_no=call_no)):
        with pytest.raises(psycopg.Error) as caught:
            call(call_no=4)
        assert caught.value.sqlstate == "TK008"
    assert core.depth("shop_queue") == 1


def test_rule_4_a_receipt_that_still_holds_a_step_is_not_deleted(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 2)
    worker = core.executor()
    one, two = worker.claim()
    worker.complete([one], finished=[1])
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 1
    worker.complete([two], finished=[1])
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0


def test_rule_5_a_receipt_that_appears_after_its_executor_was_marked_lost_is_recovered(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.die()
    other = Core(core.url)
    with other.connection.transaction():
        # The claim read the executor as alive and commits only after the sweep.
        worker.core = other
        assert len(worker.claim()) == 1
        assert worker.uuid in sweep(core)["lost_executors"]
    other.close()
    assert core.states(task) == {"a": "in_progress"}
    assert sweep(core)["requeued"] == 1
    assert core.steps(task)["a"]["losses"] == 1


def test_rule_5_a_step_that_was_busy_keeps_its_receipt_for_the_next_sweep(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    worker.die()
    other = Core(core.url)
    with other.connection.transaction():
        other.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", task)
        answer = sweep(core)
        assert (answer["requeued"], answer["skipped"]) == (0, 1)
    other.close()
    assert sweep(core)["requeued"] == 1


def test_rule_6_a_claim_skips_a_locked_step_and_leaves_its_message_and_timer(core: Core) -> None:
    core.register("order", {"a": []}, step={"backoff": "none"})
    core.create("order", 2)
    worker = core.executor()
    one, two = worker.claim()
    worker.fail([one])
    worker.release([two])
    other = Core(core.url)
    with other.connection.transaction():
        other.rows("SELECT FROM tasker.workflow_steps FOR UPDATE")
        assert worker.claim() == []
    other.close()
    assert core.depth("shop_queue") == 1
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 1
    again = worker.claim()
    assert len(again) == 2
    worker.complete(again)


def test_rule_6_a_claim_takes_no_deadline(core: Core) -> None:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 5})
    core.create("order")
    worker = core.executor("shop_queue", "orchestration_step_results")
    worker.complete(worker.claim(), outcome={"status": "delegated", "deadline_seconds": 0})
    assert worker.claim() == []
    assert core.one("SELECT kind FROM tasker.step_timers") == "deadline"


def test_rule_7_the_net_finds_a_running_step_that_nothing_holds(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    core.rows_affected("DELETE FROM tasker.step_claims")
    assert sweep(core)["netted"] == 1
    assert core.states(task) == {"a": "enqueued"}
    assert worker.run_all() == 1


def test_rule_7_the_net_leaves_delegated_and_held_steps_alone(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, steps={"b": {"delegated": True, "timeout_seconds": 60}})
    (task,) = core.create("order")
    worker = core.executor()
    a, b = worker.claim()
    worker.complete([b], outcome={"status": "delegated", "deadline_seconds": 60}, finished=[1])
    assert sweep(core)["netted"] == 0
    assert core.states(task) == {"a": "in_progress", "b": "in_progress"}
    worker.complete([a])


def test_rule_7_the_net_pages_through_all_open_tasks_round_and_round(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 5)
    worker = core.executor()
    worker.claim()
    core.rows_affected("DELETE FROM tasker.step_claims")
    assert [sweep(core, net_page=2)["netted"] for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize("status", ["complete", "error"])
def test_rule_8_a_repeated_report_is_accepted_once_recorded(core: Core, status: str) -> None:
    core.register("order", DIAMOND, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    outcome = {"status": status, "error": {"message": "x", "type": "X"}}
    worker.complete([a], call_no=2, outcome=outcome)
    again = worker.complete([a], call_no=2, outcome=outcome)
    assert (again["outcomes"][0]["answer"], again["outcomes"][0]["reason"]) == ("accepted", "repeated")
    assert core.steps(task)["d"]["unmet"] == 2
    assert core.one("SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = %s", status) == 1


def test_rule_8_a_repeated_report_also_returns_the_steps_it_continued(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    (b,) = worker.complete([a], call_no=2, continue_limit=5)["steps"]
    repeated = worker.complete([a], call_no=2, continue_limit=5)["steps"]
    assert [s["step_uuid"] for s in repeated] == [b["step_uuid"]]
    assert core.depth("shop_queue") == 0
    worker.call_no = 2
    worker.complete(repeated)


def test_rule_8_a_report_for_a_released_step_is_stale(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.release([a])
    answer = worker.complete([a])["outcomes"][0]
    assert (answer["answer"], answer["reason"]) == ("stale", "step_is_enqueued")


def test_rule_8_a_report_under_an_old_fence_is_stale(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker, other = core.executor(), core.executor()
    (a,) = worker.claim()
    worker.release([a])
    (stolen,) = other.claim()
    answer = worker.complete([a])["outcomes"][0]
    assert (answer["answer"], answer["reason"]) == ("stale", "fence_is_old")
    assert other.complete([stolen])["finished_tasks"] == [{"task_uuid": task, "state": "complete"}]


def test_rule_8_a_report_by_another_executor_is_stale(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker, other = core.executor(), core.executor()
    (a,) = worker.claim()
    answer = other.complete([a])["outcomes"][0]
    assert (answer["answer"], answer["reason"]) == ("stale", "executor_differs")
    worker.complete([a])


def test_rule_9_a_start_mark_is_refused_once_the_step_is_no_longer_held(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step={"retryable": False})
    core.create("order")
    worker = core.executor()
    a, b = worker.claim()
    worker.release([b])
    steps = {"executor": worker.uuid, "steps": [a, b]}
    assert core.call("mark_steps_started", steps) == {"started": [True, False]}
    worker.complete([a])
    worker.run_all()


def test_a_lost_step_that_may_not_run_twice_goes_on_only_if_it_had_not_started(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step={"retryable": False})
    (task,) = core.create("order")
    worker = core.executor()
    a, _ = worker.claim()
    core.call("mark_steps_started", {"executor": worker.uuid, "steps": [a]})
    worker.die()
    answer = sweep(core)
    assert (answer["requeued"], answer["unknown"]) == (1, 1)
    assert core.states(task) == {"a": "error", "b": "enqueued"}
    assert core.steps(task)["a"]["error"]["type"] == "outcome_unknown"
    assert core.executor().run_all() == 1
    assert core.task(task)["state"] == "error"


# -- loss -----------------------------------------------------------------------------------------------------


def test_a_lost_executors_steps_return_and_spend_a_loss_but_no_attempt(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    worker.die()
    answer = sweep(core)
    assert (answer["lost_executors"], answer["requeued"]) == ([worker.uuid], 1)
    step = core.steps(task)["a"]
    assert (step["state"], step["attempts"], step["losses"], step["fence"]) == ("enqueued", 0, 1, 1)
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0
    assert core.executor().run_all() == 1


def test_one_silent_sweep_declares_nobody_lost(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    worker.claim()
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 day'")
    for _ in range(3):
        assert sweep(core)["lost_executors"] == []
    worker.heartbeat(oldest_call_no=1)
    core.rows_affected("UPDATE tasker.executors SET suspected_at = suspected_at - interval '1 day'")
    assert sweep(core)["lost_executors"] == []
    worker.complete(worker.claim(call_no=1))


def test_every_call_of_a_lost_executor_is_refused(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.die()
    sweep(core)
    again = {"executor": worker.uuid, "kind": "step_executor", "worker": "w", "queues": []}
    for call in (
        worker.claim,
        lambda: worker.complete([a]),
        worker.heartbeat,
        lambda: core.call("mark_steps_started", {"executor": worker.uuid, "steps": [a]}),
        lambda: core.call("register_executor", again),
    ):
        with pytest.raises(psycopg.Error) as caught:
            call()
        assert caught.value.sqlstate == "TK006"
    assert core.executor().run_all() == 1


def test_a_step_that_loses_five_executors_is_poison(core: Core) -> None:
    core.register("order", {"a": [], "b": []})
    (task,) = core.create("order")
    core.excuse("attempts-as-in-history")
    core.rows_affected("UPDATE tasker.workflow_steps SET losses = 4 WHERE position = 0")
    worker = core.executor()
    while not (claimed := [s for s in worker.claim() if s["position"] == 0]):
        worker.complete(worker.last["steps"])
    assert claimed[0]["losses"] == 4
    worker.die()
    assert sweep(core)["poisoned"] == 1
    assert core.steps(task)["a"]["error"]["type"] == "poison"
    assert core.rows("SELECT reason FROM tasker.dead_letters") == [("poison",)]
    core.executor().run_all()
    assert core.task(task)["state"] == "error"


def test_a_deregistered_executors_forgotten_receipt_is_recovered(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    worker.claim()
    core.call("deregister_executor", {"executor": worker.uuid, "finished": [1]})
    assert sweep(core)["requeued"] == 1
    assert core.states(task) == {"a": "enqueued"}


# -- fan-out (10): test_claiming_and_completing ---------------------------------------------------------------

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


# -- finalization (21-22): test_finalization ------------------------------------------------------------------
