"""Completion hooks run under a finalization claim, at least once, and again when they fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tasker.config.sections import DatabaseSettings, ExecutorPools, OrchestrationSettings, PoolSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


@pytest.fixture
def core(engine: Engine) -> Iterator[OrchestrationCore]:
    settings = Settings(
        database=DatabaseSettings(url=engine.database.url),
        orchestration=OrchestrationSettings(finalization_claim_timeout_seconds=1),
        executor_pools=ExecutorPools(task_finalizer=PoolSettings(processing_timeout_ms=1000)),
    )
    with OrchestrationCore.from_settings(settings) as core:
        core.handlers = engine.handlers
        yield core


def run(core: OrchestrationCore) -> dict[str, dict[str, int]]:
    stop = StopSignal()
    with core.build_loop(list(ExecutorKind), ["testing_queue"], stop=stop, worker="test") as loop:
        counters = loop.run_until_idle(20).counters
    stop.close()
    return counters


def workflow(engine: Engine, handler: Any, **hooks: Any) -> None:
    """A workflow of one step with these hooks."""
    names: dict[str, list[str]] = {}
    for kind, hook in hooks.items():
        engine.handlers.register(f"hook_{kind}", hook)
        names[kind] = [f"hook_{kind}"]
    engine.workflow(
        {"name": "only", "handler": handler, "max_attempts": 1}, document={"hooks": names}, has_after_work=True
    )


def finalized(engine: Engine) -> int:
    count: int = engine.value("SELECT count(*) FROM tasker.tasks WHERE finalized_at IS NOT NULL")
    return count


def test_the_hook_of_the_final_state_sees_the_task(engine: Engine, core: OrchestrationCore) -> None:
    seen: list[Any] = []
    workflow(engine, lambda ctx: {"paid": 7}, on_complete=seen.append, on_error=lambda outcome: 1 / 0)
    (task,) = engine.create(tags=["a"], correlation_id="c-1")
    run(core)

    (outcome,) = seen
    assert (outcome.task_uuid, outcome.namespace, outcome.name, outcome.version) == (task, "testing", "flow", "1.0.0")
    assert (outcome.state, outcome.finish_no, outcome.context) == ("complete", 1, {"number": 0})
    assert (outcome.results, outcome.errors) == ({"only": {"paid": 7}}, {})
    assert (outcome.tags, outcome.correlation_id) == (("a",), "c-1")
    assert finalized(engine) == 1
    assert engine.value("SELECT count(*) FROM pgmq.q_task_finalization") == 0


def test_an_async_hook_of_a_failed_task_sees_its_error(engine: Engine, core: OrchestrationCore) -> None:
    seen: list[Any] = []

    async def on_error(outcome: Any) -> None:
        seen.append(outcome.errors["only"]["type"])

    workflow(engine, lambda ctx: 1 / 0, on_error=on_error)
    engine.create()
    run(core)

    assert seen == ["ZeroDivisionError"]
    assert finalized(engine) == 1


def test_a_hook_that_fails_runs_again_and_its_task_is_not_final_before(
    engine: Engine, core: OrchestrationCore, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def fail_once(outcome: Any) -> None:
        runs.append(outcome.finish_no)
        if len(runs) == 1:
            raise ConnectionError("mail server away")

    workflow(engine, lambda ctx: {}, on_complete=fail_once)
    engine.create()
    counters = run(core)
    assert counters["task_finalizer"]["hooks_failed"] == 1
    assert (len(runs), finalized(engine)) == (1, 0)
    assert "mail server away" in caplog.text

    wait_until(lambda: run(core) and finalized(engine) == 1, "the end of the task")
    assert runs == [1, 1]


def test_a_hook_that_outlasts_its_claim_keeps_it(engine: Engine, core: OrchestrationCore) -> None:
    runs: list[Any] = []
    running = threading.Event()

    def slow(outcome: Any) -> None:
        runs.append(outcome)
        running.set()
        time.sleep(2.5)

    workflow(engine, lambda ctx: {}, on_complete=slow)
    engine.create()
    thread = threading.Thread(target=run, args=(core,))
    thread.start()
    running.wait(20)
    # Another finalizer looks all the time and never gets it, although the claim would have expired twice.
    while thread.is_alive():
        run(core)
    thread.join()

    assert len(runs) == 1
    assert finalized(engine) == 1
    assert engine.value("SELECT count(*) FROM tasker.finalization_attempts WHERE action = 'extend'") >= 2
