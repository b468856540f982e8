"""Shortest traces of the protocol's models (tests/model), replayed against the SQL core, which keeps their rules."""

from __future__ import annotations

from tests.sql_kit import Core, lost_messages


def test_rule_4_a_late_claim_that_made_its_receipt_again_keeps_it_when_a_repeated_call_names_it(core: Core) -> None:
    core.register("order", {"a": [], "c": ["a"]})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim(call_no=1)  # the repeat; its original is late
    worker.complete([a], call_no=2, finished=[])
    (c,) = worker.claim(call_no=3, finished=[1])  # and its answer is lost
    worker.release([c])
    late = worker.claim(call_no=1)  # the original, at last
    assert [step["position"] for step in late] == [c["position"]]
    worker.claim(call_no=3, finished=[1])  # the repeat of what named the receipt

    assert core.rows("SELECT call_no FROM tasker.step_claims WHERE positions = '{1}' AND fences = '{2}'") == [(1,)]
    worker.complete(late, call_no=4, finished=[1, 3])
    assert core.task(task)["state"] == "complete"


def test_a_fan_out_of_several_pages_runs_once_though_it_is_paused_and_resumed_between_them(core: Core) -> None:
    width = 700
    core.register("wide", {"first": [], **{f"s{number}": ["first"] for number in range(width)}})
    (task,) = core.create("wide")
    worker = core.executor()
    worker.complete(worker.claim())
    core.call("enqueue_deferred_steps", {"limit": 1})  # the second page; the third is deferred
    core.call("pause_tasks", {"task_uuids": [task]})
    core.call("resume_tasks", {"task_uuids": [task]})  # all messages once more, from the first on; again deferred
    # Holes in the pages that are still to come.
    ran = worker.claim(300)
    worker.complete(ran)
    count = len(ran)
    while core.depth("step_enqueue"):
        core.call("enqueue_deferred_steps", {"limit": 1})
        assert lost_messages(core) == []
        some = worker.claim(37)
        worker.complete(some)
        count += len(some)
    count += worker.run_all(300)

    assert count == width
    assert core.task(task)["state"] == "complete"
    assert core.depth("shop_queue") == 0


def test_a_step_of_a_paused_namespace_is_not_continued_and_its_message_waits(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, steps={"b": {"namespace": "stock"}})
    (task,) = core.create("order")
    worker = core.executor("shop_queue", "stock_queue")
    steps = worker.claim()
    core.rows_affected("UPDATE tasker.namespaces SET paused_at = now() WHERE name = 'stock'")
    assert worker.complete(steps, continue_limit=10)["steps"] == []
    assert worker.claim() == []
    assert core.depth("stock_queue") == 1

    core.rows_affected("UPDATE tasker.namespaces SET paused_at = NULL")
    worker.complete(worker.claim())
    assert core.task(task)["state"] == "complete"
