"""The rules of the step protocol about claims, receipts and lost executors (1-9), one by one.

Each test replays the shortest trace that breaks without its rule. The numbers are those of the protocol; rules that
need two sessions at the same moment are in tests/races.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_kit import CHAIN, DIAMOND, Core, sweep

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
