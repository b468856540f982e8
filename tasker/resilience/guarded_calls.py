"""Calls of external systems through shared circuits: each is admitted, made, and counted once.

pybreaker's rules decide what a call's end means. Each call has a breaker of its own, whose storage shows the shared
circuit as that call may take it: closed for one that was admitted, half open for the one that tries.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import pybreaker

from tasker.errors import CircuitOpen, PermanentError, StepCancelled
from tasker.resilience.circuit_config import CircuitConfig
from tasker.resilience.shared_circuits import SharedCircuits, Verdict

T = TypeVar("T")

Judge = Callable[[BaseException], Verdict]
"""What the error of a call says of the system."""


def judge(error: BaseException) -> Verdict:
    """How errors of guarded calls count unless their caller knows better.

    A permanent error is the caller's, a cancelled step or another circuit says nothing, and what is no ``Exception``
    (an interrupt, the end of the process) comes from elsewhere.
    """
    if not isinstance(error, Exception) or isinstance(error, PermanentError | StepCancelled | CircuitOpen):
        return "neutral"
    return "failure"


class _Call(pybreaker.CircuitBreakerStorage):
    """A shared circuit as pybreaker sees it during one call, which counts once, whoever is first to say as what."""

    def __init__(self, circuit: SharedCircuit, *, is_probe: bool, settled: Callable[[Verdict], object]) -> None:
        super().__init__("shared")
        self._shared = circuit.shared
        self._circuit = circuit.name
        self._is_probe = is_probe
        self._settled = settled
        # The one call that is let through is always told of: somebody waits for it.
        self._counts = circuit.enabled or is_probe
        self._lock = threading.Lock()
        self._is_settled = False
        self._state = pybreaker.STATE_HALF_OPEN if is_probe else pybreaker.STATE_CLOSED
        self.excused: Verdict = "success"
        self.error = ""

    def settle(self, verdict: Verdict) -> None:
        """Count the call as ``verdict``, unless it has been counted."""
        with self._lock:
            if self._is_settled:
                return
            self._is_settled = True
        if self._counts:
            self._shared.record(self._circuit, verdict, is_probe=self._is_probe, error=self.error)
        self._settled(verdict)

    @property
    def state(self) -> str:
        """As this call may take it: one that was admitted finds the circuit closed, or is the one that tries."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state
        if state == pybreaker.STATE_OPEN and self._counts:
            self._shared.opened(self._circuit)

    def increment_counter(self) -> None:
        """The call failed."""
        self.settle("failure")

    def reset_counter(self) -> None:
        """The call succeeded, or failed with an error that does not count."""
        self.settle(self.excused)

    @property
    def counter(self) -> int:
        """Failures in a row, in all processes."""
        return self._shared.failures(self._circuit)

    @property
    def success_counter(self) -> int:
        """Nothing: when enough calls have succeeded is for the ledger to say."""
        return 0

    @property
    def opened_at(self) -> datetime | None:
        """Now: a circuit that opens during a call has just opened."""
        return datetime.now(UTC)

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        pass  # the ledger takes the time


class Guard:
    """One guarded call, as a block: ``with`` and ``async with`` alike.

    Entering raises ``CircuitOpen`` when the circuit is not closed, and this is not the call that may try. ``async
    with`` never blocks the event loop.
    """

    def __init__(
        self,
        circuit: SharedCircuit,
        *,
        judge: Judge,
        take_right: Callable[[], bool],
        refused: Callable[[], object],
        entered: Callable[[Guard], object],
        settled: Callable[[Guard, Verdict], object],
    ) -> None:
        self._circuit = circuit
        self._judge = judge
        self._take_right = take_right
        self._refused = refused
        self._entered = entered
        self._on_settled = settled
        self._call: _Call | None = None
        self._calling: contextlib.AbstractContextManager[Any] | None = None

    def settle(self, verdict: Verdict) -> None:
        """Count the call now, though its block has not ended: somebody knows that it timed out."""
        if self._call is not None:
            self._call.settle(verdict)

    def __enter__(self) -> Self:
        right = self._take_right()
        try:
            self._begin(right or self._circuit.admit())
        except CircuitOpen:
            self._refused()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        calling, self._calling = self._calling, None
        if calling is not None:
            calling.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        right = self._take_right()
        try:
            self._begin(right or await self._circuit.aadmit())
        except CircuitOpen:
            self._refused()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _begin(self, is_probe: bool) -> None:
        circuit = self._circuit
        self._call = _Call(circuit, is_probe=is_probe, settled=self._settled)
        self._calling = _breaker(circuit, self._call, self._judge).calling()
        self._calling.__enter__()
        self._entered(self)

    def _settled(self, verdict: Verdict) -> None:
        self._on_settled(self, verdict)


class SharedCircuit:
    """One circuit of an external system, for any number of threads and tasks.

    Args:
        shared: the copies of this process.
        name: of the system.
        config: when it opens and closes.
        enabled: whether calls count, and open it; what operators opened holds in any case.
    """

    def __init__(self, shared: SharedCircuits, name: str, config: CircuitConfig, *, enabled: bool = True) -> None:
        self.shared = shared
        self.name = name
        self.config = config
        self.enabled = enabled

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``, as this process knows it."""
        return self.shared.status(self.name).state

    @property
    def failures(self) -> int:
        """Failures since the last success, as this process knows it."""
        return self.shared.failures(self.name)

    @property
    def lets_through(self) -> bool:
        """Whether ordinary calls go through now."""
        if self.shared.is_closed(self.name):
            return True
        return not self.enabled and not self.shared.status(self.name).forced

    def guard(
        self,
        *,
        judge: Judge = judge,
        take_right: Callable[[], bool] = lambda: False,
        refused: Callable[[], object] = lambda: None,
        entered: Callable[[Guard], object] = lambda guard: None,
        settled: Callable[[Guard, Verdict], object] = lambda guard, verdict: None,
    ) -> Guard:
        """A block whose end counts, for ``with`` or ``async with``.

        Args:
            judge: what an error says of the system.
            take_right: asked at the entrance whether this call has been given the right to try already.
            refused: called when the block may not be entered.
            entered: called inside.
            settled: called when the call was counted, on whatever thread did it.
        """
        return Guard(self, judge=judge, take_right=take_right, refused=refused, entered=entered, settled=settled)

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """``function(*args, **kwargs)``, counted.

        Raises:
            CircuitOpen: the circuit is open; the function was not called.
        """
        with self.guard():
            return function(*args, **kwargs)

    async def acall(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """As ``call``, for a coroutine function."""
        async with self.guard():
            return await function(*args, **kwargs)

    def count(self, verdict: Verdict, *, is_probe: bool = False, error: str = "") -> None:
        """Count a call that was not guarded here. Never waits."""
        call = _Call(self, is_probe=is_probe, settled=lambda verdict: None)
        call.error = error
        if verdict == "neutral":
            call.settle(verdict)
            return

        def happened() -> None:
            if verdict == "failure":
                raise _Happened

        with contextlib.suppress(_Happened):
            _breaker(self, call, lambda _error: verdict).call(happened)

    def admit(self) -> bool:
        """Whether a call is the one that a half-open circuit lets through; it has that right then.

        Raises:
            CircuitOpen: no call is let through now.
        """
        self.shared.know()
        admitted = self.shared.admit_here(self.name, only_by_hand=not self.enabled)
        return self.shared.ask(self.name) if admitted is None else admitted

    async def aadmit(self) -> bool:
        """As ``admit``, off the event loop where somebody else must be asked."""
        if not self.shared.known:
            await asyncio.to_thread(self.shared.know)
        admitted = self.shared.admit_here(self.name, only_by_hand=not self.enabled)
        return await asyncio.to_thread(self.shared.ask, self.name) if admitted is None else admitted


def _breaker(circuit: SharedCircuit, call: _Call, judge: Judge) -> pybreaker.CircuitBreaker:
    """The rules of pybreaker, applied to one call that has been admitted."""

    def excused(error: BaseException) -> bool:
        call.excused = judge(error)
        if call.excused == "failure":
            call.error = call.error or f"{type(error).__name__}: {error}"[:300]
            return False
        return True

    return pybreaker.CircuitBreaker(
        fail_max=circuit.config.failure_threshold,
        reset_timeout=circuit.config.timeout_seconds,
        success_threshold=circuit.config.success_threshold,
        exclude=[excused],
        state_storage=call,
        throw_new_error_on_trip=False,
        name=circuit.name,
    )


class _Happened(Exception):
    """A failure that is only counted here."""
