"""Connections that die, servers that restart, executors that are declared lost: nothing is lost, nothing done twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from typing import Any

import pytest

from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.connection import Database
from tasker.executors.executor import ORCHESTRATION_KINDS
from tasker.executors.stop import StopSignal
from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import CountedChain, chain
from tests.proxies import AnswerLosingProxy, nth
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


@pytest.mark.parametrize("function", [b"complete_steps", b"claim_steps"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_call_whose_answer_is_lost_after_its_commit_counts_once(engine: Engine, function: bytes, number: int) -> None:
    counted = CountedChain(engine, 5)
    with (
        AnswerLosingProxy(engine.database.url, nth(function, number)) as proxy,
        closing(Database(proxy.url)) as database,
    ):
        engine.run_until_idle(engine.executor(database=database))

    assert proxy.lost == 1
    counted.check_once()


@pytest.mark.parametrize("backends", ["tasker step_executor%", "%"])
def test_connections_that_are_cut_again_and_again_lose_nothing(engine: Engine, backends: str) -> None:
    runs: Counter[tuple[str, str]] = Counter()

    def handler(ctx: Any) -> Any:
        runs[ctx.task_uuid, ctx.step_name] += 1
        time.sleep(0.002)
        return {}

    engine.workflow(*chain(handler, handler, handler, handler))
    engine.create(50)
    done = threading.Event()

    def cut() -> None:
        with engine.database.connect(application_name="the cutter") as connection:
            while not done.wait(0.1):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE %s AND application_name NOT LIKE 'the %%' AND pid <> pg_backend_pid()",
                    (backends,),
                )

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        engine.run_until_idle()
    finally:
        done.set()
        thread.join()

    assert engine.task_states() == {"complete": 50}
    assert engine.value("SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = 'complete'") == 200
    assert set(runs.values()) == {1}


def _declare_lost(engine: Engine) -> None:
    """What two sweeps a lease apart would do to executors that gave no sign of life."""
    engine.connection.execute("UPDATE tasker.executors SET lost_at = clock_timestamp()")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_executor_that_was_declared_lost_registers_anew_and_drops_what_it_held(
    engine: Engine, asynchronous: bool
) -> None:
    started, go_on = threading.Event(), threading.Event()
    reasons: list[Any] = []

    def first_run(ctx: Any) -> None:
        if not started.is_set():
            started.set()
            go_on.wait(20)
            reasons.append(ctx.cancellation())

    def handler(ctx: Any) -> Any:
        first_run(ctx)
        return {"attempt": ctx.attempt}

    async def async_handler(ctx: Any) -> Any:
        import asyncio

        await asyncio.to_thread(first_run, ctx)
        return {"attempt": ctx.attempt}

    engine.workflow({"name": "only", "handler": async_handler if asynchronous else handler})
    (task,) = engine.create()
    executor = engine.executor()
    before = executor.incarnation
    loop = engine.loop(executor, heartbeat_seconds=0.05)
    thread = threading.Thread(target=loop.run_until_idle)
    thread.start()
    started.wait(20)
    _declare_lost(engine)
    wait_until(lambda: executor.incarnation is not before, "a heartbeat that is told")
    # The sweep gives its step to others, here to its own next incarnation.
    engine.connection.execute(
        'SELECT tasker.recover_lost_steps(\'{"limit": 100, "lease_seconds": 0, "max_losses": 5}\')'
    )
    go_on.set()
    thread.join(20)
    assert not thread.is_alive()
    engine.loop(executor).run_until_idle()

    assert reasons == ["the executor was declared lost"]
    assert executor.counters.snapshot()["lost"] == 1
    step = engine.step(task)
    assert (step["state"], step["losses"], step["fence"]) == ("complete", 1, 2)


def test_waiting_for_a_database_ends_with_the_grace_period(engine: Engine, tasker_server: Any) -> None:
    url = tasker_server.create()
    database = Database(url)
    executor = engine.executor(database=database, grace_seconds=0.3)
    loop = engine.loop(executor)
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_until(lambda: executor.incarnation.registered, "registration")
    tasker_server.drop(url)
    began = time.monotonic()
    engine.stop.set()
    thread.join(20)
    loop.close()
    database.close()

    assert not thread.is_alive()
    assert time.monotonic() - began < 10


def test_orchestration_executors_that_were_declared_lost_register_anew(engine: Engine) -> None:
    settings = Settings(database=DatabaseSettings(url=engine.database.url))
    stop = StopSignal()
    with (
        OrchestrationCore.from_settings(settings) as core,
        core.build_loop(ORCHESTRATION_KINDS, stop=stop, worker="test") as loop,
    ):
        loop.run_until_idle()
        before = set(engine.rows("SELECT executor FROM tasker.executors"))
        _declare_lost(engine)
        # As their heartbeats would find out.
        for slot in loop._slots:
            slot.executor.beat(slot.executor._link)
        loop.run_until_idle()
        alive = set(engine.rows("SELECT executor FROM tasker.executors WHERE lost_at IS NULL"))
    stop.close()

    assert len(before) == len(alive) == 5
    assert before.isdisjoint(alive)


def test_a_loop_that_is_stopped_before_the_database_ever_answered_ends(engine: Engine) -> None:
    stop = StopSignal()
    database = Database("postgresql:///nowhere?host=/nowhere/at/all")
    executor = engine.executor(database=database, stop=stop, grace_seconds=0)
    loop = engine.loop(executor, stop=stop)
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(loop.run().ended))
    thread.start()
    wait_until(lambda: engine.circuits.get("database").failures > 0, "a first attempt")
    stop.set()
    thread.join(20)
    loop.close()

    assert ended == ["stopped"]
    stop.close()
