"""Async handlers run side by side, and hold up neither each other nor sync ones."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


def test_async_handlers_of_one_executor_run_concurrently(engine: Engine) -> None:
    together = 20
    arrived = 0
    everybody = asyncio.Event()

    async def meet(ctx: Any) -> Any:
        # Nobody leaves before all are there: one after the other this would never end.
        nonlocal arrived
        arrived += 1
        if arrived == together:
            everybody.set()
        await everybody.wait()
        return {"number": ctx.context["number"]}

    engine.workflow({"name": "only", "handler": meet})
    engine.create(together)
    engine.run_until_idle()

    assert engine.task_states() == {"complete": together}


def test_a_slow_async_handler_does_not_delay_its_neighbours_results(engine: Engine) -> None:
    slow_may_end = threading.Event()

    async def handler(ctx: Any) -> Any:
        if ctx.context["number"] == 0:
            await asyncio.to_thread(slow_may_end.wait, 20)

    engine.workflow({"name": "only", "handler": handler})
    engine.create(30)
    thread = threading.Thread(target=engine.run_until_idle)
    thread.start()
    wait_until(lambda: engine.task_states() == {"complete": 29, "in_progress": 1}, "all but the slow one")
    slow_may_end.set()
    thread.join(20)

    assert engine.task_states() == {"complete": 30}


def test_a_slow_sync_handler_does_not_delay_its_neighbours_results(engine: Engine) -> None:
    slow_runs, slow_may_end = threading.Event(), threading.Event()

    def handler(ctx: Any) -> Any:
        if ctx.context["number"] == 9:
            slow_runs.set()
            slow_may_end.wait(20)

    engine.workflow({"name": "only", "handler": handler})
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    engine.create(10)
    thread = threading.Thread(target=engine.run_until_idle)
    thread.start()
    slow_runs.wait(20)
    wait_until(lambda: engine.task_states() == {"complete": 9, "in_progress": 1}, "all but the slow one")
    slow_may_end.set()
    thread.join(20)

    assert engine.task_states() == {"complete": 10}


def test_steps_that_were_claimed_behind_a_slow_one_are_given_back(engine: Engine) -> None:
    slow_runs, slow_may_end = threading.Event(), threading.Event()

    def handler(ctx: Any) -> Any:
        if ctx.context["number"] == 0:
            slow_runs.set()
            slow_may_end.wait(20)

    engine.workflow({"name": "only", "handler": handler})
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    tasks = engine.create(10)
    thread = threading.Thread(target=engine.run_until_idle)
    thread.start()
    slow_runs.wait(20)
    # Another executor gets them, although the first is still at its slow step.
    wait_until(
        lambda: engine.value("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'enqueued'") == 9,
        "the others to be given back",
    )
    engine.run_until_idle()
    assert engine.task_states() == {"complete": 9, "in_progress": 1}
    slow_may_end.set()
    thread.join(20)

    assert engine.task_states() == {"complete": 10}
    # It cost none of them an attempt.
    assert {engine.step(task)["attempts"] for task in tasks} == {1}


def test_an_executor_takes_no_more_async_steps_than_its_batch_size(engine: Engine) -> None:
    running = most = 0

    async def handler(ctx: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    engine.workflow({"name": "only", "handler": handler})
    engine.create(40)
    engine.run_until_idle(batch_size=5)

    assert engine.task_states() == {"complete": 40}
    assert most == 5


def test_handlers_of_one_task_do_not_see_each_others_changes(engine: Engine) -> None:
    seen: list[Any] = []

    def spoil(ctx: Any) -> Any:
        seen.append((dict(ctx.context), {name: dict(result) for name, result in ctx.results.items()}))
        ctx.context["number"] = "spoilt"
        for result in ctx.results.values():
            result["n"] = "spoilt"

    engine.workflow(
        {"name": "first", "handler": lambda ctx: {"n": 1}},
        {"name": "left", "handler": spoil, "depends_on": ["first"]},
        {"name": "right", "handler": spoil, "depends_on": ["first"]},
    )
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    engine.create()
    engine.run_until_idle()

    assert seen == [({"number": 0}, {"first": {"n": 1}})] * 2
