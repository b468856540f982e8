"""What models of the protocol and storms found in the SQL (docs/explanation/protocol_models.md)."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql_kit import Core, sweep

ONE = {"a": []}


def test_each_of_two_queues_gets_its_turn_when_claims_and_completions_alternate(core: Core) -> None:
    for namespace in ("aa", "bb"):
        core.register("flow", ONE, namespace=namespace, expected_ms=None)
        core.create("flow", 30, namespace=namespace)
    worker = core.executor("aa_queue", "bb_queue")
    first = []
    for _ in range(20):
        steps = worker.claim(10, budget_ms=50)
        first += [step["queue"] for step in steps]
        worker.complete(steps)
    # Drawn, not counted: fewer than 3 of 20 has a chance of 1 in 5,000 for each of the two.
    assert min(first.count("aa_queue"), first.count("bb_queue")) >= 3


def test_a_claim_whose_repeat_found_nothing_is_given_back_while_an_older_call_is_still_held(core: Core) -> None:
    core.register("flow", ONE)
    core.create("flow")
    worker = core.executor()
    (long,) = worker.claim(1)
    (task,) = core.create("flow")
    lost_connection = Core(core.url)
    with lost_connection.connection.transaction():
        request = {"executor": worker.uuid, "call_no": 2, "queues": worker.queues, "limit": 1, "budget_ms": 1000}
        assert len(lost_connection.call("claim_steps", request)["steps"]) == 1
        assert worker.claim(1, call_no=2) == []
    worker.call_no = 2
    worker.heartbeat(1, next_call_no=3, held_calls=[1])
    sweep(core)
    step = core.steps(task)["a"]
    assert (step["state"], step["losses"], step["attempts"]) == ("enqueued", 0, 0)
    assert core.states(str(long["task_uuid"]))["a"] == "in_progress"
    lost_connection.close()
    worker.complete([long])
    worker.run_all()
    assert core.task(task)["state"] == "complete"


def test_a_continuation_whose_repeat_found_its_task_locked_is_given_back(core: Core) -> None:
    core.register("flow", {"a": [], "b": ["a"]})
    core.register("one", ONE)
    core.create("one")
    worker = core.executor()
    (long,) = worker.claim(1)
    (task,) = core.create("flow")
    (a,) = worker.claim(1)
    lost_connection = Core(core.url)
    with lost_connection.connection.transaction():
        worker.complete([a], continue_limit=1, call_no=3, core=lost_connection, finished=[])
        repeated = worker.complete([a], continue_limit=1, call_no=3, finished=[])
        assert repeated["outcomes"][0]["answer"] == "busy"
    lost_connection.close()
    worker.call_no = 3
    worker.complete([a], wait=True, finished=[])
    worker.heartbeat(1, next_call_no=5, held_calls=[1])
    sweep(core)
    assert core.states(task)["b"] == "enqueued"
    worker.complete([long])
    worker.run_all()


def test_a_call_that_its_executor_no_longer_holds_is_refused_and_an_older_heartbeat_changes_nothing(core: Core) -> None:
    core.register("flow", ONE)
    core.create("flow", 2)
    worker = core.executor()
    worker.heartbeat(1, next_call_no=9, held_calls=[1, 5])
    worker.heartbeat(1, next_call_no=4, held_calls=[2, 3])
    for call_no in (2, 8):
        request = {"executor": worker.uuid, "call_no": call_no, "queues": worker.queues, "limit": 1}
        with pytest.raises(psycopg.Error) as refused:
            core.call("claim_steps", request)
        assert refused.value.sqlstate == "TK008"
    steps = [worker.claim(1, call_no=call_no) for call_no in (5, 9)]
    worker.complete([step for claimed in steps for step in claimed])


def test_what_an_executor_left_behind_when_it_said_goodbye_is_no_loss(core: Core) -> None:
    core.register("flow", ONE)
    (task,) = core.create("flow")
    worker = core.executor()
    worker.claim(1)
    core.call("deregister_executor", {"executor": worker.uuid, "finished": []})
    sweep(core)
    step = core.steps(task)["a"]
    assert (step["state"], step["losses"]) == ("enqueued", 0)
    assert core.history(task, "a")[-1].startswith("in_progress>enqueued")


def test_receipts_whose_tasks_are_locked_do_not_stand_in_front_of_the_others(core: Core) -> None:
    core.register("flow", ONE)
    worker = core.executor()
    tasks = []
    for _ in range(3):
        tasks += core.create("flow")
        worker.claim(1)
    worker.die()
    with psycopg.connect(core.url) as user:
        user.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", [tasks[0]])
        for _ in range(4):
            sweep(core, limit=1, net_page=0)
    assert [core.states(task)["a"] for task in tasks] == ["in_progress", "enqueued", "enqueued"]
    sweep(core)
    assert core.states(tasks[0])["a"] == "enqueued"


def test_messages_of_locked_steps_do_not_stand_in_front_of_a_queue(core: Core) -> None:
    core.register("wide", {f"s{number}": [] for number in range(40)})
    core.register("one", ONE)
    (wide,) = core.create("wide")
    (other,) = core.create("one")
    worker = core.executor()
    with psycopg.connect(core.url) as user:
        user.execute("SELECT tasker.cancel_tasks(%s)", [Jsonb({"task_uuids": [wide]})])
        (step,) = worker.claim(1)
        assert str(step["task_uuid"]) == other
        user.rollback()
    worker.complete([step])
    worker.run_all()


def test_timers_of_locked_steps_do_not_stand_in_front_of_those_that_are_due(core: Core) -> None:
    core.register("one", ONE)
    core.create("one", 2)
    worker = core.executor()
    worker.fail(worker.claim(2))
    ((first,), (second,)) = core.rows("SELECT task_uuid::text FROM tasker.step_timers ORDER BY due_at, task_uuid")
    with psycopg.connect(core.url) as user:
        user.execute("SELECT tasker.cancel_tasks(%s)", [Jsonb({"task_uuids": [first]})])
        (step,) = worker.claim(1)
        assert str(step["task_uuid"]) == second
        user.rollback()
    worker.complete([step])
    worker.run_all()


def test_an_executor_that_died_before_the_clock_was_set_back_is_found(core: Core) -> None:
    core.register("one", ONE)
    (task,) = core.create("one")
    worker = core.executor()
    worker.claim()
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at + interval '1 hour'")
    core.call("recover_lost_steps", {"limit": 10})
    assert core.one("SELECT suspected_at FROM tasker.executors") is not None
    # Set back once more, behind the suspicion: it begins anew instead of waiting for the hour to come again.
    core.rows_affected("UPDATE tasker.executors SET suspected_at = suspected_at + interval '1 hour'")
    core.call("recover_lost_steps", {"limit": 10})
    core.rows_affected("UPDATE tasker.executors SET suspected_at = suspected_at - interval '1 minute'")
    assert core.call("recover_lost_steps", {"limit": 10})["lost_executors"] == [worker.uuid]
    assert core.states(task)["a"] == "enqueued"
    core.executor().run_all()


def test_null_is_an_empty_list_for_those_whose_language_writes_it_so(core: Core) -> None:
    core.register("one", ONE)
    core.create("one")
    worker = core.executor()
    (step,) = worker.claim(1, finished=None, known_templates=None)
    worker.complete([step], finished=None, known_templates=None)
    for function in ("claim_steps", "complete_steps", "release_steps", "mark_steps_started"):
        worker.call_no += 1
        nothing = dict.fromkeys(("queues", "outcomes", "steps", "finished", "known_templates"))
        assert core.call(function, {"executor": worker.uuid, "call_no": worker.call_no, **nothing})


def test_the_net_of_finalization_works_beside_a_message_that_never_goes(core: Core) -> None:
    core.register("order", ONE, has_after_work=True)
    lost, failing = core.create("order", 2)
    core.executor().run_all()
    core.rows_affected("DELETE FROM pgmq.q_task_finalization WHERE message->>'task_uuid' = %s", lost)
    core.excuse("task-dates")
    core.rows_affected("UPDATE tasker.tasks SET finished_at = finished_at - interval '1 hour'")
    (claim,) = core.call("claim_tasks_for_finalization", {"processor": "f", "limit": 10})["claims"]
    core.rows("SELECT tasker.release_finalization_claim(%s, 'f', %s)", failing, claim["claim_no"])
    assert core.one("SELECT tasker.resend_finalizations(100)") == 1
    assert core.one("SELECT tasker.resend_finalizations(100)") == 0
