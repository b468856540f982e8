"""What becomes of new tasks where there is too much to do: they wait in order, or are refused; nothing is lost."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql_kit import Core


def measure(core: Core, **limits: Any) -> dict[str, Any]:
    answer: dict[str, Any] = core.call("measure_admission", {"every_seconds": 0, **limits})
    assert answer["measured"]
    found: dict[str, Any] = answer["namespaces"]
    return found


def claim_tasks(core: Core, limit: int = 100) -> list[str]:
    answer = core.call("claim_ready_tasks", {"processor": "p", "limit": limit})
    return [task["task_uuid"] for task in answer["tasks"]]


def admit(core: Core, limit: int = 100) -> int:
    tasks = claim_tasks(core, limit)
    return int(core.call("enqueue_ready_steps", {"processor": "p", "task_uuids": tasks})["admitted"])


def states(core: Core) -> dict[str, int]:
    return dict(core.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY state"))


def test_above_the_soft_limit_new_tasks_wait_and_start_as_there_is_room(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 10)
    assert measure(core, soft_queue_depth=10)["shop"]["admission"] == "soft"
    late = core.create("order", 8)
    assert states(core) == {"in_progress": 10, "pending": 8}
    assert admit(core) == 0
    worker = core.executor("shop_queue")
    worker.complete(worker.claim(5))
    assert measure(core, soft_queue_depth=10)["shop"]["reason"].startswith("draining")
    assert claim_tasks(core) == late[:5], "in the order of their age, as many as there is room for"
    assert claim_tasks(core) == []
    core.call("enqueue_ready_steps", {"processor": "p", "task_uuids": late[:5]})
    newest = core.create("order")  # does not overtake those that wait
    assert core.task(newest[0])["state"] == "pending"
    worker.run_all()
    assert measure(core, soft_queue_depth=10) == {}
    assert admit(core) == 4
    worker.run_all()
    assert states(core) == {"complete": 19}


def test_waiting_tasks_start_by_priority_then_age(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 3)
    measure(core, soft_queue_depth=3)
    patient, urgent = core.create("order", priority=-1), core.create("order", priority=9)
    ordinary = core.create("order")
    core.executor("shop_queue").run_all()
    measure(core, soft_queue_depth=3)
    assert claim_tasks(core) == [*urgent, *ordinary, *patient]


def test_a_full_namespace_does_not_hold_up_another_however_much_of_it_waits(core: Core) -> None:
    core.register("order", {"a": []})
    core.register("stock", {"a": []}, namespace="store", input_schema={"type": "object"})
    core.create("order", 5)
    measure(core, soft_queue_depth=5)
    core.create("order", 300, priority=5)
    other = core.create("stock", 2, namespace="store")
    assert claim_tasks(core, limit=20) == other


def test_above_the_hard_limit_creating_is_refused_and_nothing_is_half_made(core: Core) -> None:
    core.register("order", {"a": []})
    core.register("stock", {"a": []}, namespace="store")
    core.create("order", 5)
    found = measure(core, soft_queue_depth=3, hard_queue_depth=5, retry_after_seconds=7)
    assert found["shop"]["admission"] == "hard"
    with pytest.raises(psycopg.Error) as refused:
        core.create_many([{"namespace": "store", "name": "stock"}, {"namespace": "shop", "name": "order"}])
    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("TK012", "7")
    assert "takes no more tasks" in str(refused.value)
    assert core.one("SELECT count(*) FROM tasker.tasks") == 5
    core.create("stock", namespace="store")


def test_what_nobody_measures_any_more_stops_nobody(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 5)
    measure(core, hard_queue_depth=1)
    core.rows_affected("UPDATE tasker.namespaces SET admission_at = clock_timestamp() - interval '61 seconds'")
    (task,) = core.create("order")
    assert core.task(task)["state"] == "in_progress"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_concurrent_tasks": 3}, "max_concurrent_tasks"),
        ({"max_concurrent_steps": 4}, "max_concurrent_steps"),
        ({"max_pool_usage": 0.0001}, "database_connections"),
        ({"max_oldest_message_seconds": 60}, "oldest_message"),
    ],
)
def test_each_soft_limit_says_what_it_is_about(core: Core, limits: dict[str, float], reason: str) -> None:
    core.register("order", {"a": []})
    core.create("order", 5)
    core.rows_affected("UPDATE pgmq.q_shop_queue SET enqueued_at = enqueued_at - interval '2 minutes'")
    assert measure(core, **limits)["shop"]["reason"].startswith(reason)
    core.create("order")
    assert admit(core) == 0
    core.executor("shop_queue").run_all()
    found = measure(core, **limits)
    if reason == "database_connections":
        assert found["shop"]["admission"] == "soft"
    else:
        assert admit(core) == 1
    core.executor("shop_queue").run_all()


def test_an_old_message_of_a_paused_namespace_closes_nothing(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    core.rows_affected("UPDATE pgmq.q_shop_queue SET enqueued_at = enqueued_at - interval '2 minutes'")
    core.call("pause_namespaces", {"namespaces": ["shop"]})
    assert measure(core, max_oldest_message_seconds=60) == {}


def test_measuring_waits_for_nobody_and_is_done_once_in_a_while(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 2)
    with psycopg.connect(core.url) as other:
        other.execute("SELECT FROM tasker.namespaces FOR UPDATE")
        core.connection.execute("SET lock_timeout = '1s'")
        measure(core, soft_queue_depth=1)
        other.rollback()
    measure(core, soft_queue_depth=1)
    assert core.call("measure_admission", {"soft_queue_depth": 1})["measured"] is False


def test_a_request_by_message_that_finds_a_namespace_full_stays_on_its_queue_unread(core: Core) -> None:
    core.call("queue_send", "task_requests_queue", [psycopg.types.json.Jsonb({"namespace": "shop", "name": "order"})])
    (msg_id,) = core.rows("SELECT msg_id FROM pgmq.q_task_requests_queue")[0]
    core.rows_affected("UPDATE pgmq.q_task_requests_queue SET read_ct = 1, vt = clock_timestamp() + interval '60 s'")
    core.call("process_task_requests", {"messages": [{"msg_id": msg_id, "again_seconds": 3}]})
    (left,) = core.rows("SELECT read_ct, vt < clock_timestamp() + interval '4 s' FROM pgmq.q_task_requests_queue")
    assert left == (0, True)
