"""An executor that is told to stop finishes or gives back what it holds, and spends no attempt."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest

from tasker.database import functions
from tasker.executors import watchdog
from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import HeldStep
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


def _run(engine: Engine, **options: Any) -> tuple[Any, Any, threading.Thread]:
    executor = engine.executor(**options)
    loop = engine.loop(executor)

    def work() -> None:
        with loop:
            loop.run()

    thread = threading.Thread(target=work)
    thread.start()
    return executor, loop, thread


def test_an_idle_loop_ends_within_milliseconds_of_the_signal(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    executor = engine.executor()
    loop = engine.loop(executor, longest_poll_seconds=60)
    ended: list[float] = []

    def work() -> None:
        assert loop.run().ended == "stopped"
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: executor.counters.snapshot().get("empty_claims", 0) > 2, "three empty claims")
    told = time.monotonic()
    engine.stop.set()
    thread.join(20)
    assert ended[0] - told < 1.0  # milliseconds on an idle machine
    loop.close()


def test_what_runs_is_finished_and_what_has_not_started_is_given_back(engine: Engine) -> None:
    held = HeldStep()
    engine.workflow({"name": "only", "handler": held.handle})
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    tasks = engine.create(10)
    _executor, _loop, thread = _run(engine)
    held.runs.wait(20)
    engine.stop.set()
    # At once, while the first still runs.
    wait_until(
        lambda: engine.value("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'enqueued'") == 9,
        "the others to be given back",
    )
    held.may_end.set()
    thread.join(20)

    assert engine.task_states() == {"complete": 1, "in_progress": 9}
    assert sorted(engine.step(task)["attempts"] for task in tasks) == [0] * 9 + [1]
    assert engine.receipts() == 0
    assert engine.value("SELECT count(*) FROM tasker.executors") == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_outlives_the_grace_period_is_interrupted_and_given_back(engine: Engine, asynchronous: bool) -> None:
    runs = threading.Event()

    def handler(ctx: Any) -> Any:
        runs.set()
        while True:
            time.sleep(0.01)

    async def async_handler(ctx: Any) -> Any:
        runs.set()
        await asyncio.sleep(60)

    engine.workflow({"name": "only", "handler": async_handler if asynchronous else handler})
    (task,) = engine.create()
    _executor, _loop, thread = _run(engine, grace_seconds=0.2)
    runs.wait(20)
    engine.stop.set()
    thread.join(20)

    assert not thread.is_alive()
    step = engine.step(task)
    assert (step["state"], step["attempts"], step["losses"]) == ("enqueued", 0, 0)
    assert engine.receipts() == 0


def test_a_stop_waits_for_a_step_that_another_thread_has_settled_and_not_given_back_yet(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = threading.Event()
    logger = watchdog.logger
    warning = logger.warning

    def slow(*args: Any) -> None:
        if threading.current_thread().name == "tasker-watchdog":
            time.sleep(0.3)
        warning(*args)

    # A log on a full disk: nothing is held any more by then, and nothing is on its way yet.
    monkeypatch.setattr(logger, "warning", slow)

    async def handler(ctx: Any) -> Any:  # the executor's thread is free to stop meanwhile
        runs.set()
        await asyncio.sleep(60)

    engine.workflow({"name": "only", "handler": handler})
    (task,) = engine.create()
    executor, _loop, thread = _run(engine, grace_seconds=0.2)
    runs.wait(20)
    monkeypatch.setattr(executor.grace, "sleep", lambda seconds: time.sleep(0.1))  # the watchdog comes first
    engine.stop.set()
    thread.join(20)

    step = engine.step(task)
    assert (step["state"], step["attempts"], step["losses"]) == ("enqueued", 0, 0)
    assert engine.receipts() == 0


def test_a_step_that_must_not_run_twice_is_not_given_back_once_it_runs(engine: Engine) -> None:
    runs = threading.Event()

    def handler(ctx: Any) -> Any:
        runs.set()
        while True:
            time.sleep(0.01)

    engine.workflow({"name": "only", "handler": handler, "retryable": False})
    (task,) = engine.create()
    _executor, _loop, thread = _run(engine, grace_seconds=0.2)
    runs.wait(20)
    engine.stop.set()
    thread.join(20)

    step = engine.step(task)
    assert (step["state"], step["error"]["type"]) == ("error", "outcome_unknown")


def test_ctrl_c_in_a_handler_gives_its_step_back(engine: Engine) -> None:
    def handler(ctx: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)

    engine.workflow({"name": "only", "handler": handler})
    (task,) = engine.create()
    loop = engine.loop(engine.executor())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_idle()
    loop.close()

    step = engine.step(task)
    assert (step["state"], step["attempts"]) == ("enqueued", 0)
    assert engine.receipts() == 0


def test_a_stop_request_in_the_database_ends_the_executor_it_names(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    executor = engine.executor()
    loop = engine.loop(executor)
    statistics: list[Any] = []
    thread = threading.Thread(target=lambda: statistics.append(loop.run()))
    thread.start()
    wait_until(lambda: executor.incarnation.registered, "registration")
    request = {"executor": executor.incarnation.executor}
    functions.run(engine.connection, functions.request_executor_stop(request))
    thread.join(20)

    assert statistics[0].ended == "requested"


def test_a_loop_runs_again_after_its_lifetime_with_the_same_executor(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    executor = engine.executor()
    loop = engine.loop(executor)
    assert loop.run(lifetime_seconds=0.1).ended == "lifetime"
    before = executor.incarnation
    engine.create(3)
    statistics = loop.run(lifetime_seconds=0.3)

    assert statistics.taken == {"step_executor": 3}
    assert statistics.counters["step_executor"]["completed"] == 3
    assert executor.incarnation is before
    assert engine.value("SELECT count(*) FROM tasker.executors") == 1
    loop.close()
    assert engine.value("SELECT count(*) FROM tasker.executors") == 0
