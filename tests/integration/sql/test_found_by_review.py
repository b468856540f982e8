"""Found by reading the core against its rules: odd requests, messages sent twice, rows that outlive their task."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql_kit import CHAIN, Core, fan


@pytest.mark.parametrize("outcomes", [{"outcomes": []}, {}])
def test_a_completion_without_outcomes_only_drops_its_finished_receipts(core: Core, outcomes: dict[str, Any]) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    worker.complete(worker.claim(), finished=[])
    request = {"executor": worker.uuid, "call_no": 3, "queues": worker.queues, "finished": [1], **outcomes}
    answer = core.call("complete_steps", request)
    assert (answer["outcomes"], answer["steps"]) == ([], [])
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0


def test_a_queue_named_twice_hands_out_each_step_once(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 3)
    worker = core.executor("shop_queue", "shop_queue")
    steps = worker.claim(10)
    assert len({s["step_uuid"] for s in steps}) == len(steps) == 3
    worker.complete(steps)


def test_messages_of_one_step_on_two_queues_claim_it_once_in_one_call(core: Core) -> None:
    core.register("order", {"a": []})
    core.register("stock", {"a": []}, namespace="inventory")
    core.create("order", 3)
    core.rows_affected("INSERT INTO pgmq.q_inventory_queue (vt, message) SELECT vt, message FROM pgmq.q_shop_queue")
    worker = core.executor("shop_queue", "inventory_queue")
    steps = worker.claim(10)
    assert len({s["step_uuid"] for s in steps}) == len(steps) == 3
    worker.complete(steps)
    assert worker.claim(10) == []
    assert core.depth("shop_queue") + core.depth("inventory_queue") == 0


def test_only_a_step_that_its_workflow_delegates_can_be_reported_as_delegated(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    worker = core.executor()
    steps = worker.claim()
    with pytest.raises(psycopg.Error) as caught:
        worker.complete(steps, outcome={"status": "delegated", "deadline_seconds": 60})
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", "outcomes[0].status")
    worker.complete(steps)


def test_a_deferred_message_of_a_task_that_does_not_exist_is_used_up(core: Core) -> None:
    core.rows(
        """SELECT tasker.queue_send('step_enqueue', ARRAY[jsonb_build_object(
               'task_uuid', gen_random_uuid(), 'position', 0, 'map_index', 0, 'from_index', 256)])"""
    )
    assert core.call("enqueue_deferred_steps", {"limit": 10}) == {"taken": 1, "sent": 0, "queues": []}
    assert core.depth("step_enqueue") == 0


@pytest.mark.parametrize("run_at", ["infinity", "-infinity"])
def test_a_task_cannot_wait_for_a_time_that_never_comes(core: Core, run_at: str) -> None:
    core.register("order", {"a": []})
    with pytest.raises(psycopg.Error) as caught:
        core.create("order", run_at=run_at)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", "run_at")
    assert core.call("claim_ready_tasks", {"processor": "p"})["tasks"] == []


def test_two_messages_of_one_finished_task_make_one_claim(core: Core) -> None:
    core.register("order", {"a": []}, has_after_work=True)
    (task,) = core.create("order")
    core.executor().run_all()
    core.rows("SELECT tasker.queue_send('task_finalization', ARRAY[jsonb_build_object('task_uuid', %s::text)])", task)
    answer = core.call("claim_tasks_for_finalization", {"processor": "f", "limit": 10, "timeout_seconds": 30})
    assert (answer["read"], [c["task_uuid"] for c in answer["claims"]]) == (2, [task])
    assert core.depth("task_finalization") == 1
    (claim,) = answer["claims"]
    request = {"task_uuid": task, "processor": "f", "claim_no": claim["claim_no"], "msg_id": claim["msg_id"]}
    assert core.call("finalize_task", request)["answer"] == "finalized"
    assert core.depth("task_finalization") == 0


def test_a_refused_task_counts_as_open_only_the_steps_that_are(core: Core) -> None:
    core.register("order", CHAIN, input_schema={"type": "object"})
    (task,) = core.create("order")
    core.call("resolve_step", {"task_uuid": task, "step": "a", "results": 1, "by": "me", "reason": "done by hand"})
    core.call("claim_ready_tasks", {"processor": "p"})
    core.call("reject_tasks", {"processor": "p", "tasks": [{"task_uuid": task, "reason": "invalid_context"}]})
    row = core.task(task)
    assert (row["state"], row["open"], row["failed"]) == ("error", 3, 0)


def test_a_workflow_of_ten_thousand_steps_is_registered_and_fans_out(core: Core) -> None:
    core.connection.execute("SET statement_timeout = '20s'")
    core.register("order", fan(9998))
    (task,) = core.create("order")
    worker = core.executor()
    worker.complete(worker.claim(), finished=[1])
    assert core.task(task)["active"] == 9998
    assert (core.depth("shop_queue"), core.depth("step_enqueue")) == (256, 1)
    while core.call("enqueue_deferred_steps", {"limit": 10})["taken"]:
        pass
    assert core.depth("shop_queue") == 9998


def test_a_duplicate_message_in_a_paused_task_does_not_take_a_due_deadline_away(core: Core) -> None:
    core.register("order", {"a": []}, step={"delegated": True, "timeout_seconds": 60})
    (task,) = core.create("order")
    core.rows_affected("INSERT INTO pgmq.q_shop_queue (vt, message) SELECT vt, message FROM pgmq.q_shop_queue")
    worker = core.executor()
    worker.complete(worker.claim(1), outcome={"status": "delegated", "deadline_seconds": 0}, finished=[1])
    core.call("pause_tasks", {"task_uuids": [task]})
    assert worker.claim() == []
    assert core.depth("shop_queue") == 0
    core.call("resume_tasks", {"task_uuids": [task]})
    assert core.broken_rules() == []
    assert len(core.call("process_step_results", {})["timed_out"]) == 1
