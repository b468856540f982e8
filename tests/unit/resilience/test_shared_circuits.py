"""Circuits that processes share: the copies of each process, and the ledger that decides."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tasker.errors import CircuitOpen, ConfigurationError, PermanentError
from tasker.resilience.circuits import CircuitBreakers, CircuitConfig, SharedCircuit
from tests.waiting import wait_until

pytestmark = pytest.mark.circuit_breaker

CONFIG = CircuitConfig(failure_threshold=3, timeout_seconds=60, success_threshold=2)


class Ledger:
    """What the database does, for one process or several, in memory."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_away = False
        self.rows: dict[str, dict[str, Any]] = {}
        self.reports: list[Mapping[str, Any]] = []
        self.asked = 0
        self.wakes: list[Callable[[], object]] = []

    def subscribe(self, wake: Callable[[], object]) -> Subscription:
        self.wakes.append(wake)
        return Subscription()

    def report(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        with self.lock:
            row = self._row(request["name"])
            self.reports.append(request)
            failed, succeeded = request.get("failures", 0), request.get("successes", 0)
            if row["state"] == "closed":
                row["failures"] = (0 if succeeded else row["failures"]) + failed
                if row["failures"] >= request["failure_threshold"]:
                    self._set(row, "open", request["timeout_seconds"])
            elif row["state"] == "half_open" and request.get("is_probe"):
                row["successes"] += succeeded
                if failed:
                    self._set(row, "open", request["timeout_seconds"])
                elif row["successes"] >= request["success_threshold"]:
                    row["failures"] = 0
                    self._set(row, "closed", None)
                else:
                    row["retry_at"] = time.monotonic()
            return self._described(row)

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        with self.lock:
            self.asked += 1
            row = self._row(request["name"])
            due = not row["forced"] and row["retry_at"] is not None and row["retry_at"] <= time.monotonic()
            if row["state"] != "closed" and due:
                row["state"], row["retry_at"] = "half_open", time.monotonic() + 60
                return {**self._described(row), "allowed": True, "is_probe": True}
            return {**self._described(row), "allowed": row["state"] == "closed", "is_probe": False}

    def change(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        with self.lock:
            row = self._row(request["name"])
            row["forced"] = request["action"] == "open"
            row["failures"] = 0
            self._set(row, "open" if row["forced"] else "closed", None)
            return {**self._described(row), "changed": True}

    def states(self) -> Mapping[str, Mapping[str, Any]]:
        with self.lock:
            self._check()
            return {
                name: self._described(row)
                for name, row in self.rows.items()
                if row["state"] != "closed" or row["failures"]
            }

    def cool_down(self, name: str) -> None:
        """The circuit has been open for long enough."""
        with self.lock:
            self.rows[name]["retry_at"] = time.monotonic()
        self.tell_all()

    def tell_all(self) -> None:
        for wake in self.wakes:
            wake()

    def state(self, name: str) -> str | None:
        with self.lock:
            row = self.rows.get(name)
            return None if row is None else str(row["state"])

    def counted(self, name: str) -> int:
        with self.lock:
            return int(self.rows.get(name, {}).get("failures", 0))

    def _row(self, name: str) -> dict[str, Any]:
        self._check()
        fresh = {"name": name, "state": "closed", "failures": 0, "forced": False, "retry_at": None, "successes": 0}
        return self.rows.setdefault(name, fresh)

    def _check(self) -> None:
        if self.is_away:
            raise ConnectionError("away")

    def _set(self, row: dict[str, Any], state: str, seconds: float | None) -> None:
        row["state"], row["successes"] = state, 0
        row["retry_at"] = None if seconds is None else time.monotonic() + seconds
        self.tell_all()

    def _described(self, row: dict[str, Any]) -> dict[str, Any]:
        wait = None if row["retry_at"] is None else max(0.0, row["retry_at"] - time.monotonic())
        return {**{key: row[key] for key in ("name", "state", "failures", "forced")}, "retry_after_seconds": wait}


class Subscription:
    def close(self) -> None:
        pass


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def process(ledger: Ledger) -> Iterator[Callable[..., CircuitBreakers]]:
    """Makes what each process has."""
    made: list[CircuitBreakers] = []

    def make(**options: Any) -> CircuitBreakers:
        options = {"default": CONFIG, "ledger": ledger, "subscribe": ledger.subscribe, **options}
        made.append(CircuitBreakers(**options))
        return made[-1]

    yield make
    for circuits in made:
        circuits.close()


def bank(circuits: CircuitBreakers) -> SharedCircuit:
    circuit = circuits.get("bank")
    assert isinstance(circuit, SharedCircuit)
    return circuit


def fail(circuit: SharedCircuit, times: int = 1) -> None:
    def refuse() -> None:
        raise ConnectionError("refused")

    for _ in range(times):
        with pytest.raises(ConnectionError):
            circuit.call(refuse)


def may_try(circuit: SharedCircuit) -> bool:
    try:
        return circuit.shared.admit_here("bank") is None
    except CircuitOpen:
        return False


Process = Callable[..., CircuitBreakers]


def test_failures_of_several_processes_open_it_for_all(ledger: Ledger, process: Process) -> None:
    here, there = bank(process()), bank(process())
    there.call(int)  # it knows the circuit as closed
    fail(there, 2)
    wait_until(lambda: ledger.counted("bank") == 2, "the ledger is told")
    fail(here)
    wait_until(lambda: here.state == there.state == "open", "both know")
    for circuit in (here, there):
        with pytest.raises(CircuitOpen) as refused:
            circuit.call(int)
        assert refused.value.circuit == "bank"


def test_a_process_that_saw_enough_stops_at_once_and_not_a_call_later(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())
    circuit.call(int)
    with ledger.lock:  # it does not answer yet
        fail(circuit, 3)
        with pytest.raises(CircuitOpen):
            circuit.call(int)
    wait_until(lambda: ledger.state("bank") == "open", "the ledger is told")


def test_ordinary_successes_tell_the_ledger_nothing(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())
    for _ in range(100):
        assert circuit.call(int) == 0
    assert (ledger.reports, ledger.asked) == ([], 0)
    fail(circuit)
    wait_until(lambda: ledger.counted("bank") == 1, "the failure is told")
    for _ in range(100):
        circuit.call(int)
    wait_until(lambda: ledger.counted("bank") == 0, "and the first success that follows")
    assert [report["successes"] for report in ledger.reports] == [0, 1]


def test_one_call_tries_when_the_time_is_up_and_its_successes_close_it(ledger: Ledger, process: Process) -> None:
    here, there = bank(process()), bank(process())
    there.call(int)
    fail(here, 3)
    wait_until(lambda: there.state == "open", "the other one knows")
    ledger.cool_down("bank")

    wait_until(lambda: may_try(here), "a call may try")
    with here.guard():
        assert not _passes(there)
    wait_until(lambda: may_try(here), "the next one may try")
    wait_until(lambda: _passes(there), "a second success")
    wait_until(lambda: here.state == there.state == "closed", "both go on")


def _passes(circuit: SharedCircuit) -> bool:
    try:
        circuit.call(int)
    except CircuitOpen:
        return False
    return True


def test_a_failed_try_opens_it_again(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())
    fail(circuit, 3)
    wait_until(lambda: ledger.state("bank") == "open", "the ledger is told")
    ledger.cool_down("bank")
    wait_until(lambda: may_try(circuit), "it may try")
    fail(circuit)
    wait_until(lambda: ledger.reports[-1].get("is_probe"), "the ledger is told")
    assert ledger.rows["bank"]["state"] == "open"
    assert "ConnectionError: refused" in ledger.reports[-1]["reason"]


def test_a_try_that_says_nothing_frees_the_right_to_try(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())
    fail(circuit, 3)
    wait_until(lambda: ledger.state("bank") == "open", "the ledger is told")
    ledger.cool_down("bank")
    wait_until(lambda: may_try(circuit), "it may try")
    with pytest.raises(PermanentError), circuit.guard():
        raise PermanentError("no such account")
    wait_until(lambda: may_try(circuit), "another may try")
    assert ledger.rows["bank"]["state"] == "half_open"


def test_permanent_errors_say_nothing_of_the_system(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())
    for _ in range(10):
        with pytest.raises(PermanentError), circuit.guard():
            raise PermanentError("no such account")
    assert circuit.state == "closed"
    assert ledger.reports == []


def test_async_calls_are_guarded_alike(ledger: Ledger, process: Process) -> None:
    circuit = bank(process())

    async def refuse() -> None:
        raise ConnectionError("refused")

    async def work() -> None:
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await circuit.acall(refuse)
        with pytest.raises(CircuitOpen):
            async with circuit.guard():
                raise AssertionError("not reached")
        await asyncio.to_thread(wait_until, lambda: ledger.state("bank") == "open", "the ledger is told")
        ledger.cool_down("bank")
        await asyncio.to_thread(wait_until, lambda: may_try(circuit), "it may try")
        async with circuit.guard():
            assert circuit.state == "half_open"

    asyncio.run(work())


def test_while_the_ledger_is_away_a_process_decides_alone_and_nothing_crashes(ledger: Ledger, process: Process) -> None:
    config = CircuitConfig(failure_threshold=3, timeout_seconds=0.05, success_threshold=2)
    circuit = bank(process(default=config))
    circuit.call(int)
    ledger.is_away = True
    fail(circuit, 3)
    with pytest.raises(CircuitOpen):
        circuit.call(int)
    wait_until(lambda: _passes(circuit), "it tries by itself")
    assert circuit.state == "closed"
    ledger.is_away = False
    fail(circuit)
    wait_until(lambda: ledger.counted("bank") == 1, "the ledger hears of it again")


def test_what_was_asked_before_something_happened_does_not_undo_it(ledger: Ledger, process: Process) -> None:
    circuits = process()
    circuit = bank(circuits)
    asked_at = time.monotonic()
    fail(circuit, 3)
    wait_until(lambda: ledger.state("bank") == "open", "the ledger is told")
    wait_until(lambda: not circuit.shared._copies["bank"].untold_failures, "its answer is here")
    circuit.shared.learn({}, asked_at)
    assert circuit.state == "open"
    circuit.shared.learn({}, time.monotonic())
    assert circuit.state == "closed"


def test_a_claims_answer_tells_of_circuits_without_a_question(ledger: Ledger, process: Process) -> None:
    circuit = bank(process(subscribe=None))
    told = {"state": "open", "failures": 3, "forced": False, "retry_after_seconds": 20}
    circuit.shared.learn({"bank": told}, time.monotonic())
    with pytest.raises(CircuitOpen):
        circuit.call(int)
    assert ledger.asked == 0


def test_a_circuit_opened_by_hand_refuses_until_it_is_closed_by_hand(ledger: Ledger, process: Process) -> None:
    here, there = process(), process(enabled=False)
    bank(there).call(int)
    here.force_open("bank", reason="maintenance", by="ann")
    wait_until(lambda: there.states()["bank"] == "open", "the other one knows")
    for circuits in (here, there):
        with pytest.raises(CircuitOpen, match="opened by hand"):
            bank(circuits).call(int)
    (status,) = [status for status in here.list() if status.name == "bank"]
    assert (status.state, status.is_shared, status.forced) == ("open", True, True)
    assert here.force_close("bank").state == "closed"
    wait_until(lambda: _passes(bank(there)), "the other one goes on")


def test_circuits_that_are_switched_off_count_nothing(ledger: Ledger, process: Process) -> None:
    circuits = process(enabled=False)
    fail(bank(circuits), 10)
    assert bank(circuits).state == "closed"
    assert ledger.reports == []
    database = circuits.get("database")
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            database.call(lambda: 1 // 0)
    assert database.state == "closed"


def test_only_listed_systems_have_a_circuit_where_no_others_may_be_made(process: Process) -> None:
    circuits = process(configs={"bank": CONFIG}, auto_create=False)
    assert circuits.find("bank") is not None
    assert circuits.find("mail") is None
    with pytest.raises(ConfigurationError, match="component_configs"):
        circuits.get("mail")


def test_systems_beyond_the_maximum_are_not_guarded(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    circuits = process(max_circuits=1)
    assert circuits.find("a") is not None
    assert circuits.find("b") is None
    assert circuits.find("b") is None
    assert [record.message for record in caplog.records if "not guarded" in record.message][1:] == []
    with pytest.raises(ConfigurationError, match="no room"):
        circuits.get("b")
    circuits.get("database")
    circuits.get("pgmq")
    with pytest.raises(ConfigurationError, match="200 characters"):
        circuits.get("x" * 201)


def test_the_circuits_of_the_database_stay_in_memory(ledger: Ledger, process: Process) -> None:
    circuits = process()
    circuits.get("database")
    circuits.force_open("pgmq")
    assert circuits.states() == {"database": "closed", "pgmq": "open"}
    with pytest.raises(CircuitOpen):
        circuits.get("pgmq").call(int)
    circuits.reset("pgmq")
    assert circuits.get("pgmq").call(int) == 0
    assert ledger.rows == {}


def test_what_is_left_to_tell_is_told_at_the_end(ledger: Ledger, process: Process) -> None:
    circuits = process()
    fail(bank(circuits), 2)
    circuits.close()
    assert ledger.counted("bank") == 2
