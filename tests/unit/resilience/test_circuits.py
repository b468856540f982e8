"""Circuits open after repeated failures and close again."""

from __future__ import annotations

import datetime as dt
import threading

import pybreaker
import pytest

from tasker.errors import CircuitOpen, ConfigurationError
from tasker.resilience import circuits as module
from tasker.resilience.circuits import CircuitBreakers, CircuitConfig
from tasker.resilience.reconnecting import GaveUp, retry_connection
from tests.waiting import wait_until

pytestmark = pytest.mark.circuit_breaker


def fail() -> None:
    raise ConnectionError("down")


def test_a_circuit_opens_after_so_many_failures_in_a_row_and_then_refuses() -> None:
    circuit = CircuitBreakers({"mail": CircuitConfig(failure_threshold=3, timeout_seconds=60)}).get("mail")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            circuit.call(fail)
    circuit.call(lambda: None)
    for _ in range(3):
        assert circuit.state == "closed"
        with pytest.raises(ConnectionError):
            circuit.call(fail)
    assert circuit.state == "open"
    with pytest.raises(CircuitOpen) as refused:
        circuit.call(fail)
    assert refused.value.retry_after_seconds == 60
    assert "mail" in str(refused.value)


def test_an_open_circuit_lets_a_call_try_after_its_timeout_and_closes_after_successes() -> None:
    config = CircuitConfig(failure_threshold=1, timeout_seconds=0.05, success_threshold=2)
    circuit = CircuitBreakers({"mail": config}).get("mail")
    with pytest.raises(ConnectionError):
        circuit.call(fail)

    def lets_a_call_try() -> bool:
        try:
            circuit.call(lambda: None)
        except CircuitOpen:
            return False
        return True

    wait_until(lets_a_call_try, "the circuit to let a call try")
    assert circuit.state == "half_open"
    circuit.call(lambda: None)
    assert circuit.state == "closed"


@pytest.mark.parametrize("jump", [dt.timedelta(hours=-2), dt.timedelta(hours=2)], ids=["back", "forward"])
def test_a_circuit_is_open_for_its_timeout_however_the_clock_is_set(
    jump: dt.timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wall(dt.datetime):
        offset = dt.timedelta()

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + cls.offset

    monkeypatch.setattr(pybreaker, "datetime", Wall)
    monkeypatch.setattr(module, "datetime", Wall)
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    circuit = CircuitBreakers({"mail": CircuitConfig(failure_threshold=1, timeout_seconds=60)}).get("mail")
    with pytest.raises(ConnectionError):
        circuit.call(fail)
    Wall.offset = jump
    clock[0] += 59
    with pytest.raises(CircuitOpen):
        circuit.call(lambda: None)
    clock[0] += 2
    assert circuit.call(lambda: "tried") == "tried"


def test_errors_that_do_not_count_close_nothing_and_open_nothing() -> None:
    circuits = CircuitBreakers({"mail": CircuitConfig(failure_threshold=1)})
    circuit = circuits.get("mail", counts=lambda error: isinstance(error, ConnectionError))
    with pytest.raises(ValueError, match="mine"):
        with circuit.guard():
            raise ValueError("mine")
    assert circuit.state == "closed"


def test_guarded_calls_do_not_wait_for_each_other() -> None:
    circuit = CircuitBreakers().get("mail")
    inside = threading.Barrier(3, timeout=20)
    threads = [threading.Thread(target=circuit.call, args=(inside.wait,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    for thread in threads:
        thread.join()


def test_an_operator_can_close_a_circuit() -> None:
    circuit = CircuitBreakers({"mail": CircuitConfig(failure_threshold=1, timeout_seconds=60)}).get("mail")
    with pytest.raises(ConnectionError):
        circuit.call(fail)
    circuit.reset()
    assert circuit.call(lambda: 5) == 5


def test_circuits_are_shared_by_name_and_bounded_in_number() -> None:
    circuits = CircuitBreakers(max_circuits=2)
    assert circuits.get("a") is circuits.get("a")
    circuits.get("b")
    assert circuits.states() == {"a": "closed", "b": "closed"}
    with pytest.raises(ConfigurationError, match="no room"):
        circuits.get("c")


def test_a_lost_connection_is_tried_again_and_other_errors_are_not() -> None:
    attempts = iter([ConnectionError("away"), CircuitOpen("open"), None])

    def attempt() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "there"

    waits: list[float] = []
    found = retry_connection(
        attempt,
        is_lost=lambda error: isinstance(error, ConnectionError),
        give_up=lambda: False,
        sleep=waits.append,
        what="test",
    )
    assert found == "there"
    assert len(waits) == 2
    with pytest.raises(ZeroDivisionError):
        retry_connection(
            lambda: 1 / 0, is_lost=lambda error: False, give_up=lambda: False, sleep=waits.append, what="test"
        )


def test_whoever_waits_may_give_up() -> None:
    with pytest.raises(GaveUp) as gave_up:
        retry_connection(
            fail, is_lost=lambda error: True, give_up=lambda: True, sleep=lambda seconds: None, what="test"
        )
    assert isinstance(gave_up.value.__cause__, ConnectionError)


def test_waits_grow_and_stay_bounded() -> None:
    waits: list[float] = []
    with pytest.raises(GaveUp):
        retry_connection(
            fail, is_lost=lambda error: True, give_up=lambda: len(waits) >= 12, sleep=waits.append, what="test"
        )
    assert waits[0] < 0.2
    assert waits[-1] > 1
    assert max(waits) < 3
