"""Connections that stay open and never answer: executors get over them as over connections that were cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tasker.database.connection import Database
from tasker.executors.stop import StopSignal
from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import CountedChain, HeldStep
from tests.proxies import SilentProxy, nth
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration

IMPATIENT = {"statement_timeout_ms": 400, "answer_timeout_seconds": 0.5}


@contextmanager
def reached_through(proxy: SilentProxy, **timeouts: Any) -> Iterator[Database]:
    database = Database(proxy.url, **timeouts)
    try:
        yield database
    finally:
        database.close()


@pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])
@pytest.mark.parametrize("function", [b"complete_steps", b"claim_steps"])
def test_a_call_that_is_never_answered_is_repeated_and_counts_once(
    engine: Engine, function: bytes, arrives: bool
) -> None:
    counted = CountedChain(engine, 5)
    with (
        SilentProxy(engine.database.url, nth(function, 2), arrives=arrives) as proxy,
        reached_through(proxy, **IMPATIENT) as database,
    ):
        engine.run_until_idle(engine.executor(database=database))

    assert proxy.silenced == 1
    counted.check_once()


@pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])
def test_a_release_that_is_never_answered_is_repeated_and_counts_once(engine: Engine, arrives: bool) -> None:
    held = HeldStep()
    engine.workflow({"name": "only", "handler": held.handle})
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    tasks = engine.create(3)
    with (
        SilentProxy(engine.database.url, lambda message: b"release_steps" in message, arrives=arrives) as proxy,
        reached_through(proxy, **IMPATIENT) as database,
    ):
        loop = engine.loop(engine.executor(database=database))
        thread = threading.Thread(target=lambda: (loop.run(), loop.close()))
        thread.start()
        held.runs.wait(20)
        engine.stop.set()
        wait_until(
            lambda: engine.value("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'enqueued'") == 2,
            "the others to be given back",
        )
        held.may_end.set()
        thread.join(20)
        assert not thread.is_alive()

    assert proxy.silenced == 1
    assert sorted(engine.step(task)["attempts"] for task in tasks) == [0, 0, 1]
    assert engine.receipts() == 0


def test_heartbeats_go_on_over_another_connection(engine: Engine) -> None:
    held = HeldStep()
    engine.workflow({"name": "only", "handler": held.handle})
    engine.create()
    with (
        SilentProxy(engine.database.url, nth(b"tasker.heartbeat", 2), arrives=False) as proxy,
        reached_through(proxy) as patient,
    ):
        executor = engine.executor()
        before = executor.incarnation
        loop = engine.loop(executor, heartbeat_seconds=0.05, heartbeat_patience_seconds=0.3, database=patient)
        thread = threading.Thread(target=loop.run_until_idle)
        thread.start()
        held.runs.wait(20)
        wait_until(lambda: proxy.silenced, "the silence")
        silent_since = engine.value("SELECT clock_timestamp()")
        # A lease that had passed meanwhile would be another test: here the same executor is heard of again.
        wait_until(lambda: engine.value("SELECT heartbeat_at FROM tasker.executors") > silent_since, "a heartbeat")
        held.may_end.set()
        thread.join(20)
        assert not thread.is_alive()
        loop.close()

    assert executor.incarnation.registered is False
    assert before.lost is False
    assert engine.task_states() == {"complete": 1}


def test_a_heartbeat_that_is_not_answered_does_not_keep_a_loop_from_ending(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    with (
        SilentProxy(engine.database.url, lambda message: b"tasker.heartbeat" in message) as proxy,
        reached_through(proxy) as patient,
    ):
        loop = engine.loop(engine.executor(), heartbeat_seconds=0.05, database=patient)
        loop.run(lifetime_seconds=0.1)
        wait_until(lambda: proxy.silenced, "the silence")
        thread = threading.Thread(target=loop.close)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    assert engine.value("SELECT count(*) FROM tasker.executors") == 0


@pytest.mark.parametrize("running", [True, False], ids=["with a step", "idle"])
def test_a_loop_that_is_told_to_stop_ends_although_nothing_answers_any_more(engine: Engine, running: bool) -> None:
    """With the time-outs as they are by default: it is the stop that cuts the waiting short."""
    held = HeldStep()
    engine.workflow({"name": "only", "handler": held.handle})
    tasks = engine.create(int(running))
    with SilentProxy(engine.database.url) as proxy, reached_through(proxy) as patient:
        executor = engine.executor(database=patient, grace_seconds=1)
        loop = engine.loop(executor, heartbeat_seconds=0.05, database=patient)
        thread = threading.Thread(target=lambda: (loop.run(), loop.close()))
        thread.start()
        wait_until(
            lambda: held.runs.is_set() if running else executor.counters.snapshot().get("empty_claims"),
            "work, or none",
        )
        proxy.die()
        engine.stop.set()
        held.may_end.set()
        thread.join(30)
        assert not thread.is_alive()

    # What it could not report is found when its executor counts as lost, and is run again.
    for _ in range(2):
        engine.connection.execute(
            'SELECT tasker.recover_lost_steps(\'{"limit": 100, "lease_seconds": 0, "max_losses": 5}\')'
        )
    stop = StopSignal()
    with engine.loop(engine.executor(stop=stop), stop=stop) as later:
        later.run_until_idle()
    stop.close()
    assert engine.task_states() == ({"complete": 1} if running else {})
    assert [engine.step(task)["losses"] for task in tasks] == [1] * running


@pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])
def test_a_commit_that_is_never_answered_leaves_no_locks_behind(engine: Engine, arrives: bool) -> None:
    """The server hears of no end of the connection either."""
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    (task,) = engine.create()
    with (
        SilentProxy(engine.database.url, lambda message: b"COMMIT" in message, arrives=arrives, lingers=True) as proxy,
        reached_through(proxy, **IMPATIENT) as database,
    ):
        executor = engine.executor(database=database)
        loop = engine.loop(executor)
        thread = threading.Thread(target=loop.run_until_idle)
        with engine.database.connect(application_name="the user") as user, user.transaction():
            user.execute("SELECT FROM tasker.tasks WHERE task_uuid = %s FOR UPDATE", (task,))
            thread.start()
            wait_until(lambda: executor.counters.snapshot().get("busy"), "the outcome to be set aside")
        thread.join(30)
        assert not thread.is_alive()
        loop.close()

    assert proxy.silenced == 1
    assert engine.task_states() == {"complete": 1}
    assert engine.receipts() == 0
