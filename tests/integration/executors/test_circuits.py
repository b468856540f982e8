"""Circuits of external systems: counted by executors, parked steps, one step that tries, and no attempt spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasker.database import functions
from tasker.database.circuits import DatabaseLedger, circuits, troubled
from tasker.errors import PermanentError
from tasker.executors.step_executor import StepExecutor
from tasker.handlers.context import StepContext
from tasker.resilience.circuits import CircuitBreakers, CircuitConfig
from tests.integration.executors.engine import Engine
from tests.waiting import wait_until

pytestmark = pytest.mark.circuit_breaker

CONFIG = CircuitConfig(failure_threshold=3, timeout_seconds=1000, success_threshold=2)


class Bank:
    """An external system that works, or does not, and counts its calls."""

    def __init__(self) -> None:
        self.works = True
        self.calls = 0

    def call(self, ctx: StepContext[Any]) -> dict[str, int]:
        self.calls += 1
        if not self.works:
            raise ConnectionError("refused")
        return {"call": self.calls}

    async def acall(self, ctx: StepContext[Any]) -> dict[str, int]:
        await asyncio.sleep(0)
        return self.call(ctx)

    def guarded(self, ctx: StepContext[Any]) -> dict[str, int]:
        with ctx.circuit("bank").guard():
            return self.call(ctx)

    async def aguarded(self, ctx: StepContext[Any]) -> dict[str, int]:
        return await ctx.circuit().acall(self.acall, ctx)


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def breakers(engine: Engine) -> Iterator[Callable[..., CircuitBreakers]]:
    """Makes what each process has."""
    made: list[CircuitBreakers] = []

    def make(config: CircuitConfig = CONFIG, **options: Any) -> CircuitBreakers:
        made.append(CircuitBreakers(default=config, ledger=DatabaseLedger(engine.database), **options))
        return made[-1]

    yield make
    for process in made:
        process.close()


def run(engine: Engine, process: CircuitBreakers) -> StepExecutor:
    return engine.run_until_idle(engine.executor(circuits=process))


def circuit(engine: Engine, name: str = "bank") -> Any:
    """The row, or ``None``."""
    found = {record.name: record for record in functions.run(engine.connection, circuits())}
    return found.get(name)


def attempts(engine: Engine) -> list[int]:
    return sorted(row[0] for row in engine.rows("SELECT attempts FROM tasker.workflow_steps"))


def cool_down(engine: Engine) -> None:
    """The open circuit's time is up."""
    engine.rows(
        "UPDATE tasker.circuit_breakers SET retry_at = tasker.now() - interval '1 second' WHERE state = 'open'"
        " RETURNING name"
    )


Breakers = Callable[..., CircuitBreakers]


@pytest.mark.parametrize("handler", ["call", "acall", "guarded", "aguarded"])
def test_a_system_that_is_down_costs_its_threshold_of_attempts_and_its_steps_go_on_when_it_is_back(
    engine: Engine, bank: Bank, breakers: Breakers, handler: str
) -> None:
    step = {"name": "pay", "handler": getattr(bank, handler), "system_dependency": "bank", "backoff_base_ms": 3_600_000}
    engine.workflow({**step, "backoff_max_ms": 3_600_000})
    process = breakers()
    bank.works = False
    engine.create(20)
    executor = run(engine, process)
    wait_until(lambda: circuit(engine).state == "open", "it is open")
    assert "ConnectionError: refused" in circuit(engine).reason
    if "a" not in handler[:1]:  # async ones are under way together
        assert bank.calls == 3
    assert circuit(engine).parked == 20 - bank.calls
    assert attempts(engine) == [0] * (20 - bank.calls) + [1] * bank.calls
    assert executor.counters.snapshot()["circuit_calls_failure"] == bank.calls
    failed, bank.works = bank.calls, True
    cool_down(engine)

    def goes_on() -> bool:
        run(engine, process)
        return bank.calls == 20

    wait_until(goes_on, "the parked steps go on, with a ramp")
    wait_until(lambda: circuit(engine).state == "closed", "it is closed")
    assert engine.task_states() == {"complete": 20 - failed, "in_progress": failed}
    assert max(attempts(engine)) == 1


def test_steps_that_were_claimed_before_it_opened_are_parked_and_not_run(
    engine: Engine, bank: Bank, breakers: Breakers
) -> None:
    engine.workflow({"name": "pay", "handler": bank.call, "system_dependency": "bank"})
    engine.rows("UPDATE tasker.named_steps SET expected_ms = 1 RETURNING position")  # so that one claim takes them all
    here, there = breakers(), breakers()
    engine.create(10)
    executor = engine.executor(circuits=here)
    there_connection = engine.database.connect()

    def opens(ctx: StepContext[Any]) -> None:
        there.force_open("bank")
        told = functions.run(there_connection, troubled())
        assert here.shared is not None
        here.shared.learn(told, time.monotonic())

    engine.handlers.register("flow_pay", _first(opens, bank.call))
    engine.run_until_idle(executor)
    assert bank.calls == 0
    assert attempts(engine) == [0] * 9 + [1]
    assert circuit(engine).parked == 9
    counters = executor.counters.snapshot()
    assert (counters["parked"], counters["circuit_calls_rejected"]) == (9, 9)
    there.force_close("bank")
    there_connection.close()
    run(engine, here)
    assert engine.task_states() == {"complete": 10}
    assert attempts(engine) == [1] * 10


def _first(first: Callable[..., Any], others: Callable[..., Any]) -> Callable[[StepContext[Any]], Any]:
    """A handler that is one function at its first call, and another one later."""
    calls = iter([first])

    def call(ctx: StepContext[Any]) -> Any:
        return next(calls, others)(ctx)

    return call


def test_one_step_tries_whether_the_system_is_back_and_the_others_wait(
    engine: Engine, bank: Bank, breakers: Breakers
) -> None:
    step = {"name": "pay", "handler": bank.call, "system_dependency": "bank", "backoff_base_ms": 3_600_000}
    engine.workflow({**step, "backoff_max_ms": 3_600_000})
    process = breakers()
    process.force_open("bank")
    engine.create(8)
    run(engine, process)
    assert bank.calls == 0
    bank.works = False
    engine.rows("UPDATE tasker.circuit_breakers SET forced = false, retry_at = tasker.now() RETURNING name")
    run(engine, process)
    assert bank.calls == 1
    wait_until(lambda: circuit(engine).state == "open", "it is open")
    assert "the call that was let through failed" in circuit(engine).reason
    assert attempts(engine) == [0] * 7 + [1]


def test_a_permanent_error_of_the_step_that_tries_lets_another_try(
    engine: Engine, bank: Bank, breakers: Breakers
) -> None:
    def refuse(ctx: StepContext[Any]) -> None:
        raise PermanentError("no such account")

    engine.workflow({"name": "pay", "handler": _first(refuse, bank.call), "system_dependency": "bank"})
    process = breakers()
    for _ in range(3):
        functions.run(engine.connection, functions.report_circuit({"name": "bank", "failures": 5}))
    cool_down(engine)
    engine.create(3)
    wait_until(lambda: run(engine, process) and bank.calls == 2, "two others succeed")
    wait_until(lambda: circuit(engine).state == "closed", "it is closed")
    assert engine.task_states() == {"complete": 2, "error": 1}


def test_permanent_errors_never_open_a_circuit_and_time_outs_do(engine: Engine, bank: Bank, breakers: Breakers) -> None:
    def refuse(ctx: StepContext[Any]) -> None:
        raise PermanentError("no such account")

    def hang(ctx: StepContext[Any]) -> None:
        with ctx.circuit("ledger").guard():
            time.sleep(30)

    engine.workflow({"name": "pay", "handler": refuse, "system_dependency": "bank"}, name="refused")
    hanging = {"name": "book", "handler": hang, "timeout_seconds": 0.05, "max_attempts": 1}
    engine.workflow(hanging, name="hanging")
    process = breakers()
    engine.create(6, name="refused")
    engine.create(3, name="hanging")
    executor = run(engine, process)
    wait_until(lambda: circuit(engine, "ledger").state == "open", "time-outs count")
    assert circuit(engine, "bank") is None
    assert executor.counters.snapshot()["circuit_calls_neutral"] == 6


def test_a_step_without_a_system_is_nobodys_business(engine: Engine, bank: Bank, breakers: Breakers) -> None:
    engine.workflow({"name": "pay", "handler": bank.call, "max_attempts": 1})
    bank.works = False
    engine.create(10)
    executor = run(engine, breakers())
    assert functions.run(engine.connection, circuits()) == ()
    assert not [name for name in executor.counters.snapshot() if name.startswith("circuit")]


def test_a_handler_that_waits_for_another_system_than_its_steps_own_is_parked_for_that(
    engine: Engine, bank: Bank, breakers: Breakers
) -> None:
    def mail(ctx: StepContext[Any]) -> None:
        with ctx.circuit("mail").guard():
            bank.call(ctx)

    engine.workflow({"name": "pay", "handler": mail, "system_dependency": "bank"})
    process = breakers()
    process.force_open("mail")
    engine.create(2)
    run(engine, process)
    assert bank.calls == 0
    assert circuit(engine, "mail").parked == 2
    assert attempts(engine) == [0, 0]
    process.force_close("mail")
    run(engine, process)
    assert engine.task_states() == {"complete": 2}
    assert attempts(engine) == [1, 1]


def test_the_ledger_makes_no_more_circuits_than_allowed(engine: Engine) -> None:
    ledger = DatabaseLedger(engine.database)
    for number in range(4):
        ledger.report({"name": f"host{number}", "failures": 1, "max_circuits": 3})
    ledger.report({"name": "host0", "failures": 1, "max_circuits": 3})
    assert {record.name: record.failures for record in functions.run(engine.connection, circuits())} == {
        "host0": 2,
        "host1": 1,
        "host2": 1,
    }
