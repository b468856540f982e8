"""What a handler is given: which step of which task runs, its input, its parents' results, and a way to stop early."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic

from typing_extensions import TypeVar

from tasker.errors import PermanentError, StepCancelled
from tasker.handlers.circuit import StepCircuit, Unguarded

ContextT = TypeVar("ContextT", default=Any)


def never_cancelled() -> str | None:
    """The answer of a context that nobody can cancel, as in a user's unit test."""
    return None


def _unguarded(_name: str, _needed: bool) -> StepCircuit:
    return Unguarded()


@dataclass(slots=True, kw_only=True)
class StepContext(Generic[ContextT]):
    """One attempt of one step, as its handler sees it.

    Every field has a default, so that a handler is called in a plain unit test with
    ``charge(StepContext(context={"order_id": 1}))``. ``StepContext[OrderRequest]`` tells a type checker what
    ``context`` is.

    Attributes:
        context: the task's context; an instance of the input schema's model where the workflow declares one.
        results: results of the steps this one depends on, by their names.
        settings: the template's ``handler.initialization``, with ``${ENV_VAR}`` replaced.
        task_uuid: the workflow run.
        step_uuid: the step of the run; the same for all its attempts, so fit as an idempotency key.
        namespace: namespace of the workflow.
        task_name: name of the workflow.
        task_version: version of the workflow that this run is pinned to.
        step_name: name of the step.
        attempt: number of this attempt, from 1.
        max_attempts: how many attempts there can be, the first included.
        deadline: when this attempt times out; ``None`` without a timeout.
        correlation_id: what the creator of the task gave to find it by.
        system_dependency: name of the external system that the step needs, which is also that of its circuit.
        cancellation: asked by ``check_cancelled``; returns why the step shall stop, or ``None``.
        circuits: finds what ``circuit`` returns; without an executor nothing is guarded.
    """

    context: ContextT
    results: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    task_uuid: str = "00000000-0000-0000-0000-000000000000"
    step_uuid: str = "00000000-0000-0000-0000-000000000000"
    namespace: str = ""
    task_name: str = ""
    task_version: str = ""
    step_name: str = ""
    attempt: int = 1
    max_attempts: int = 1
    deadline: datetime | None = None
    correlation_id: str | None = None
    system_dependency: str | None = None
    cancellation: Callable[[], str | None] = field(default=never_cancelled, repr=False, compare=False)
    circuits: Callable[[str, bool], StepCircuit | None] = field(default=_unguarded, repr=False, compare=False)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the workflow's step, whose records carry the task's and the step's identifiers."""
        name = ".".join(part for part in ("tasker.steps", self.namespace, self.task_name, self.step_name) if part)
        return logging.LoggerAdapter(
            logging.getLogger(name),
            {
                "task_uuid": self.task_uuid,
                "step_uuid": self.step_uuid,
                "attempt": self.attempt,
                "correlation_id": self.correlation_id,
            },
        )

    def circuit(self, name: str | None = None) -> StepCircuit:
        """The circuit of an external system, shared by all workers.

        Calls go through ``with ctx.circuit("bank").guard():`` (also ``async with``), ``.call(function, ...)`` or
        ``await .acall(function, ...)``. Errors count as failures of the system, except permanent ones; enough of them
        open the circuit. While it is open, entering raises ``CircuitOpen``: let that pass, and the step waits until the
        system is back, without having spent an attempt.

        Args:
            name: of the system, at most 200 characters; the step's ``system_dependency`` when ``None``.

        Raises:
            PermanentError: no name is given, and the step has no ``system_dependency``.
            ConfigurationError: the settings allow no such circuit.
        """
        name = self.system_dependency if name is None else name
        if name is None:
            raise PermanentError(
                "ctx.circuit() needs the name of a system, or a step with a system_dependency", code="no_circuit"
            )
        circuit = self.circuits(name, True)
        assert circuit is not None, "asked for as needed"
        return circuit

    def remaining_seconds(self) -> float | None:
        """Seconds until this attempt times out, never negative; ``None`` without a timeout."""
        if self.deadline is None:
            return None
        return max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())

    def check_cancelled(self) -> None:
        """Stop here if the step was cancelled, lost or timed out; long handlers call it between their parts.

        Raises:
            StepCancelled: with the reason; let it pass, the step's result counts no more.
        """
        reason = self.cancellation()
        if reason is not None:
            raise StepCancelled(f"step {self.step_name or self.step_uuid} shall stop: {reason}", code=reason)
