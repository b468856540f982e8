"""An idle executor is quiet, and awake at once when there is work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.connection import Database
from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind
from tasker.executors.loop import ExecutorLoop
from tasker.executors.stop import StopSignal
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


class _Counting(psycopg.Cursor[Any]):
    """Notes the statements of executors."""

    statements: list[str] = []  # noqa: RUF012

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        _Counting.statements.append(str(query))
        return super().execute(query, *args, **kwargs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    connect = Database.connect

    def counting(self: Database, **options: Any) -> psycopg.Connection[Any]:
        connection = connect(self, **options)
        connection.cursor_factory = _Counting
        return connection

    monkeypatch.setattr(Database, "connect", counting)
    _Counting.statements = []
    return _Counting.statements


@contextmanager
def _running(core: OrchestrationCore, kinds: Any, queues: Any = ()) -> Iterator[ExecutorLoop]:
    stop = StopSignal()
    loop = core.build_loop(kinds, queues, stop=stop, worker="test")
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        stop.set()
        thread.join(20)
        loop.close()
        stop.close()


@pytest.fixture
def core(engine: Engine) -> Iterator[OrchestrationCore]:
    # With the defaults that people run with, not those of the test environment.
    settings = Settings(database=DatabaseSettings(url=engine.database.url))
    with OrchestrationCore.from_settings(settings) as core:
        core.handlers = engine.handlers
        yield core


def test_a_notification_wakes_an_idle_executor(engine: Engine, core: OrchestrationCore) -> None:
    began: list[float] = []
    engine.workflow({"name": "only", "handler": lambda ctx: began.append(time.monotonic())})
    with _running(core, [ExecutorKind.STEP_EXECUTOR], ["testing_queue"]) as loop:
        schedule = loop._slots[0].schedule
        wait_until(lambda: schedule._next >= 1.0, "an executor that polls rarely")
        created = time.monotonic()
        engine.create()
        wait_until(lambda: engine.task_states() == {"complete": 1}, "its end")

    # Far sooner than it would have looked by itself.
    assert began[0] - created < 0.5


def test_an_executor_says_that_it_is_idle_and_then_looks_twice_more(
    engine: Engine, core: OrchestrationCore, counted: list[str]
) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    with _running(core, [ExecutorKind.STEP_EXECUTOR], ["testing_queue"]):
        wait_until(lambda: sum("claim_steps" in statement for statement in counted) >= 4, "four claims")
        assert engine.value("SELECT idle FROM tasker.executors")
    first_flag = next(index for index, statement in enumerate(counted) if "set_executor_idle" in statement)
    assert sum("claim_steps" in statement for statement in counted[:first_flag]) == 1
    assert sum("claim_steps" in statement for statement in counted[first_flag:]) >= 2


def test_a_busy_executor_takes_its_idle_flag_back(engine: Engine, core: OrchestrationCore) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: time.sleep(0.02)})
    with _running(core, [ExecutorKind.STEP_EXECUTOR], ["testing_queue"]):
        wait_until(lambda: engine.value("SELECT bool_and(idle) FROM tasker.executors"), "the idle flag")
        engine.create(60)
        wait_until(lambda: not engine.value("SELECT bool_or(idle) FROM tasker.executors"), "its withdrawal")


@pytest.mark.parametrize(
    ("kinds", "queues"),
    [([ExecutorKind.STEP_EXECUTOR], ["testing_queue"]), (list(ORCHESTRATION_KINDS), [])],
    ids=["step_executor", "orchestration"],
)
@pytest.mark.long
def test_an_idle_executor_costs_less_than_one_statement_a_second(
    engine: Engine, core: OrchestrationCore, counted: list[str], kinds: Any, queues: Any
) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    with _running(core, kinds, queues) as loop:
        wait_until(lambda: all(slot.schedule._next >= 5.0 for slot in loop._slots), "executors that poll rarely")
        counted.clear()
        time.sleep(12)
        rate = len(counted) / 12 / len(kinds)
    print(f"idle {kinds[0]} and {len(kinds) - 1} more: {rate:.2f} statements/s each")
    assert rate <= 1
