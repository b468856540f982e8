"""What one step executor does about the circuits of the systems that its steps need.

Handlers may guard their calls themselves (``ctx.circuit``); of a step that does not, the outcome counts for its
``system_dependency``. Steps that were claimed before a circuit opened are parked instead of run. Whoever was given the
right to try, by the claim that brought the step, says in any case what came of it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from tasker.database.calls import Call
from tasker.database.circuits import probes_among
from tasker.executors.counters import Counters
from tasker.executors.held import HeldStep
from tasker.executors.outcomes import Outcome
from tasker.handlers.circuit import Block, StepCircuit
from tasker.resilience.circuits import Circuit, CircuitBreakers, SharedCircuit
from tasker.resilience.guarded_calls import Guard, judge
from tasker.resilience.shared_circuits import Verdict

T = TypeVar("T")

_rights = threading.Lock()
"""Guards the exchange of rights: a handler, its time-out and the end of its executor may meet."""


class Ask(Protocol):
    """Makes a call to the database on the calling thread."""

    def __call__(self, call: Call[T], /) -> T:
        """The answer."""
        ...


class StepCircuits:
    """The circuits of one executor's steps. Safe from any thread, and nothing here waits, but ``tell``.

    Args:
        circuits: the process's circuits.
        counters: of the executor; gets ``circuit_calls_success``, ``circuit_calls_failure``, ``circuit_calls_neutral``
            and ``circuit_calls_rejected``.
    """

    def __init__(self, circuits: CircuitBreakers, counters: Counters) -> None:
        self._circuits = circuits
        self._counters = counters

    def learn(self, answer: Mapping[str, Any], asked_at: float, steps: Sequence[HeldStep]) -> None:
        """Take over what the answer of a claim or completion says.

        Args:
            answer: of ``claim_steps`` or ``complete_steps``.
            asked_at: when it was asked for, by ``time.monotonic()``.
            steps: what it brought.
        """
        shared = self._circuits.shared
        if shared is None:
            return
        told = answer.get("circuits")
        if told is not None:
            shared.learn(told, asked_at)
        if any(step.template.system_dependency is not None for step in steps):
            shared.watch()

    def closed_to(self, step: HeldStep) -> str | None:
        """The circuit for which ``step``, which has not started, has to wait; ``None`` when it may run."""
        name = step.template.system_dependency
        if name is None or step.probe is not None:
            return None
        circuit = self._circuits.find(name)
        if not isinstance(circuit, SharedCircuit) or circuit.lets_through:
            return None
        self._counters.add(circuit_calls_rejected=1)
        return name

    def attempt(self, step: HeldStep) -> Callable[[str, bool], StepCircuit | None]:
        """For the context of ``step``: finds circuits for its handler."""
        if step.template.system_dependency is None:
            return functools.partial(self._find, step)
        step.uses = uses = _Uses(self._circuits, self._counters, step)
        return uses

    def _find(self, step: HeldStep, name: str, needed: bool) -> StepCircuit | None:
        """For steps that need no system, of which few use a circuit: nothing is made before."""
        uses: _Uses = step.uses or _Uses(self._circuits, self._counters, step)
        step.uses = uses
        return uses(name, needed)

    def ended(self, outcome: Outcome) -> None:
        """An outcome is on its way: count it, unless the handler's own calls have been counted."""
        step = outcome.step
        name = step.template.system_dependency
        if outcome.status == "delegated":
            return  # its result comes by message, and counts then
        if name is None and step.uses is None and step.probe is None:
            return
        verdict = _verdict_of(outcome.body)
        uses: _Uses | None = step.uses
        if uses is not None and outcome.is_timeout:
            uses.timed_out()
        if verdict == "failure" and (uses is None or uses.has_failed or step.template.delegated):
            verdict = "neutral"  # the handler was not called, or it was another system's failure, or a broker's
        right = take_right(step)
        if right is not None:
            self._count(right, verdict, outcome, is_probe=True)
        elif name is not None and (uses is None or name not in uses.names):
            self._count(name, verdict, outcome)

    def unused(self, steps: Iterable[HeldStep]) -> None:
        """Steps that are given back, or are others' now: who was to try may be another."""
        for step in steps:
            right = take_right(step)
            if right is not None:
                circuit = self._circuits.find(right)
                if isinstance(circuit, SharedCircuit):
                    circuit.count("neutral", is_probe=True)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Before ``outcomes`` are reported: the database learns first why the parked ones of them are parked."""
        shared = self._circuits.shared
        if shared is not None:
            names = {outcome.body["circuit"] for outcome in outcomes if outcome.status == "parked"}
            if names:
                shared.tell(names)

    def _count(self, name: str, verdict: Verdict, outcome: Outcome, *, is_probe: bool = False) -> None:
        circuit = self._circuits.find(name)
        if not isinstance(circuit, SharedCircuit):
            return
        error = ""
        if verdict == "failure":
            failure = outcome.body["error"]
            error = f"{failure['type']}: {failure['message']}"[:300]
        circuit.count(verdict, is_probe=is_probe, error=error)
        if outcome.status != "parked":
            _add(self._counters, verdict)


class DelegatedCircuits:
    """The circuits of steps that run elsewhere: their outcomes count when they come back.

    Args:
        circuits: the process's circuits.
        counters: as of ``StepCircuits``.
    """

    def __init__(self, circuits: CircuitBreakers, counters: Counters) -> None:
        self._circuits = circuits
        self._counters = counters

    def ended(self, outcomes: Sequence[tuple[str, Mapping[str, Any]]], ask: Ask) -> None:
        """Count what was recorded.

        Args:
            outcomes: name of the system that the step needs, and the outcome: ``task_uuid``, ``position``,
                ``map_index``, ``status``, ``error``.
            ask: makes a call to the database.
        """
        shared = self._circuits.shared
        if shared is None:
            return
        shared.know()
        # Of an attempt that another process let go, only the database can say whether it was to try.
        doubtful = [
            {"circuit": name, **{part: outcome[part] for part in ("task_uuid", "position", "map_index")}}
            for name, outcome in outcomes
            if not shared.is_closed(name)
        ]
        probes = ask(probes_among(doubtful)) if doubtful else set()
        for name, outcome in outcomes:
            circuit = self._circuits.find(name)
            if not isinstance(circuit, SharedCircuit):
                continue
            verdict = _verdict_of(outcome)
            failure = outcome["error"] if verdict == "failure" else {}
            error = f"{failure.get('type') or 'Error'}: {failure['message']}"[:300] if failure else ""
            key = (str(UUID(outcome["task_uuid"])), outcome["position"], outcome["map_index"])
            circuit.count(verdict, is_probe=key in probes, error=error)
            _add(self._counters, verdict)


class _Uses:
    """The circuits of one attempt. ``_lock`` owns ``_open``; handlers may guard calls on threads of their own."""

    def __init__(self, circuits: CircuitBreakers, counters: Counters, step: HeldStep) -> None:
        self._circuits = circuits
        self._counters = counters
        self.step = step
        self.names: set[str] = set()
        """Circuits that the handler has used itself."""
        self.has_failed = False
        """Whether a call through one of them has failed."""

        self._lock = threading.Lock()
        self._open: set[Guard] = set()

    def __call__(self, name: str, needed: bool) -> StepCircuit | None:
        circuit = self._circuits.get(name) if needed else self._circuits.find(name)
        return circuit if circuit is None or isinstance(circuit, Circuit) else _Use(circuit, self)

    def guard(self, circuit: SharedCircuit) -> Guard:
        """A block that counts for ``circuit``."""
        return circuit.guard(
            judge=self._judge,
            take_right=lambda: take_right(self.step, circuit.name) is not None,
            refused=lambda: self._refused(circuit.name),
            entered=lambda guard: self._entered(guard, circuit.name),
            settled=self._settled,
        )

    def timed_out(self) -> None:
        """The attempt took too long, so the calls that it still waits for have failed."""
        with self._lock:
            guards = list(self._open)
        for guard in guards:
            guard.settle("failure")

    def _judge(self, error: BaseException) -> Verdict:
        if not isinstance(error, Exception) and self.step.cancelled == "timeout":
            return "failure"
        return judge(error)

    def _entered(self, guard: Guard, name: str) -> None:
        self.names.add(name)
        with self._lock:
            self._open.add(guard)

    def _refused(self, name: str) -> None:
        self.names.add(name)
        self._counters.add(circuit_calls_rejected=1)

    def _settled(self, guard: Guard, verdict: Verdict) -> None:
        with self._lock:
            self._open.discard(guard)
        self.has_failed = self.has_failed or verdict == "failure"
        _add(self._counters, verdict)


class _Use:
    """One circuit, as the handler of one attempt sees it."""

    def __init__(self, circuit: SharedCircuit, uses: _Uses) -> None:
        self._circuit = circuit
        self._uses = uses

    def guard(self) -> Block:
        """A block whose end counts."""
        return self._uses.guard(self._circuit)

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, guarded."""
        with self.guard():
            return function(*args, **kwargs)

    async def acall(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """As ``call``, for a coroutine function."""
        async with self.guard():
            return await function(*args, **kwargs)


def take_right(step: HeldStep, name: str | None = None) -> str | None:
    """The circuit that ``step`` was given the right to try, once; ``None`` afterwards, or if it is not ``name``."""
    if step.probe is None or (name is not None and step.probe != name):
        return None
    with _rights:
        right, step.probe = step.probe, None
    return right


def _verdict_of(outcome: Mapping[str, Any]) -> Verdict:
    """What an outcome, as it is reported, says of the system that its step needs."""
    if outcome["status"] == "complete":
        return "success"
    if outcome["status"] == "error" and outcome["error"].get("retryable") in (True, None):
        return "failure"
    return "neutral"


def _add(counters: Counters, verdict: Verdict) -> None:
    match verdict:
        case "success":
            counters.add(circuit_calls_success=1)
        case "failure":
            counters.add(circuit_calls_failure=1)
        case "neutral":
            counters.add(circuit_calls_neutral=1)
