"""Tasks that somebody else has locked hold up nobody but themselves."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


def test_a_users_open_transaction_on_one_task_does_not_stop_the_others(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    tasks = engine.create(60)
    executor = engine.executor()
    loop = engine.loop(executor)
    thread = threading.Thread(target=loop.run_until_idle)

    with engine.database.connect(application_name="the user") as user, user.transaction():
        user.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", (tasks[3],))
        thread.start()
        wait_until(lambda: engine.task_states() == {"complete": 59, "in_progress": 1}, "the other 59")
        # It is waited for, and more work passes by.
        wait_until(
            lambda: executor._completer._set_aside.waiting + executor._completer._set_aside._in_flight,
            "its outcome to be set aside",
        )
        engine.create(20)
        wait_until(lambda: engine.task_states() == {"complete": 79, "in_progress": 1}, "the next 20")
    thread.join(20)

    assert not thread.is_alive()
    assert engine.task_states() == {"complete": 80}
    counters = executor.counters.snapshot()
    assert counters["busy"] >= 1
    assert counters["completed"] == 80
    loop.close()
    assert engine.receipts() == 0


def test_two_executors_that_finish_the_same_join_lose_nothing(engine: Engine) -> None:
    width = 40
    engine.workflow(
        {"name": "first", "handler": lambda ctx: {}},
        *({"name": f"branch_{n}", "handler": lambda ctx: {}, "depends_on": ["first"]} for n in range(width)),
        {"name": "last", "handler": lambda ctx: len(ctx.results), "depends_on": [f"branch_{n}" for n in range(width)]},
    )
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    tasks = engine.create(6)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            engine.run_until_idle(batch_size=10)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    engine.run_until_idle()

    assert not failures
    assert engine.task_states() == {"complete": 6}
    assert {engine.step(task, width + 1)["results"] for task in tasks} == {width}


def test_an_outcome_that_was_set_aside_keeps_its_receipt_until_it_is_recorded(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    (task,) = engine.create()
    executor = engine.executor()
    loop = engine.loop(executor)
    thread = threading.Thread(target=loop.run_until_idle)

    with engine.database.connect(application_name="the user") as user, user.transaction():
        user.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", (task,))
        thread.start()
        wait_until(lambda: executor.counters.snapshot().get("busy"), "the first attempt")
        # More calls pass, and none of them names the receipt.
        empty = executor.counters.snapshot().get("empty_claims", 0)
        wait_until(lambda: executor.counters.snapshot().get("empty_claims", 0) > empty + 3, "four more calls")
        assert engine.receipts() == 1
        oldest = engine.value("SELECT max(oldest_call_no) FROM tasker.executors")
        assert oldest in (1, *executor.incarnation.ledger.standing()[1])
    thread.join(20)
    assert engine.step(task)["state"] == "complete"


def test_a_delayed_join_is_run_by_whoever_completed_its_last_parent(engine: Engine) -> None:
    order: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def slow(ctx: Any) -> Any:
        begun.set()
        release.wait(20)
        order.append("slow")

    engine.workflow(
        {"name": "slow", "handler": slow},
        {"name": "quick", "handler": lambda ctx: order.append("quick")},
        {"name": "join", "handler": lambda ctx: order.append("join"), "depends_on": ["slow", "quick"]},
    )
    (task,) = engine.create()
    other = threading.Thread(target=engine.run_until_idle)
    thread = threading.Thread(target=engine.run_until_idle)
    thread.start()
    begun.wait(20)
    other.start()
    wait_until(lambda: "quick" in order, "the quick step to run")
    release.set()
    thread.join(20)
    other.join(20)
    engine.run_until_idle()

    assert order == ["quick", "slow", "join"]
    assert engine.step(task, 2)["state"] == "complete"
