"""Outcomes of steps as ``complete_steps`` takes them."""

from __future__ import annotations

import time
from typing import Any

import orjson

from tasker.errors import CircuitOpen
from tasker.executors.held import HeldStep
from tasker.handlers.failures import Failure, classify

MAX_HOPS = 8
MAX_CHAIN_SECONDS = 0.1
"""How long a chain of steps may stay with one executor before the queue gets a say again."""

RESULT_NOT_STORABLE = "result_not_storable"


class Outcome:
    """What became of one held step; ``body`` is sent as it is, with ``may_continue`` added when it is sent."""

    __slots__ = ("answered", "body", "encoded", "ended_at", "step")

    def __init__(self, step: HeldStep, status: str, **parts: Any) -> None:
        self.step = step
        self.ended_at = time.monotonic()
        self.encoded: bytes | None = None
        """The result as JSON, which cannot be read from the body."""
        self.answered = False
        """Accepted or stale, or its incarnation was lost: never to be sent again."""
        self.body: dict[str, Any] = {
            "task_uuid": step.task_uuid,
            "step_uuid": step.step_uuid,
            "position": step.position,
            "map_index": step.map_index,
            "fence": step.fence,
            "status": status,
            **parts,
        }

    @property
    def status(self) -> str:
        """``complete``, ``error``, ``delegated`` or ``parked``."""
        status: str = self.body["status"]
        return status

    @property
    def is_timeout(self) -> bool:
        """Whether the attempt took too long."""
        return self.status == "error" and bool(self.body["error"].get("timeout"))

    def may_continue(self, now: float) -> bool:
        """Whether the steps that this one makes ready may stay here."""
        return self.step.chain_hops < MAX_HOPS and now - self.step.chain_started < MAX_CHAIN_SECONDS


def completed(step: HeldStep, encoded: bytes) -> Outcome:
    """The handler returned; ``encoded`` is its result as strict JSON, encoded once and copied from here on."""
    outcome = Outcome(step, "complete", results=orjson.Fragment(encoded))
    outcome.encoded = encoded
    return outcome


def failed(step: HeldStep, failure: Failure) -> Outcome:
    """The handler raised, or could not be called."""
    return Outcome(step, "error", error=failure)


def raised(step: HeldStep, error: BaseException) -> Outcome:
    """As ``failed``, from the exception itself; a shared circuit that is open parks the step instead."""
    if isinstance(error, CircuitOpen) and error.circuit is not None:
        return parked(step, error.circuit)
    return failed(step, classify(error))


def parked(step: HeldStep, circuit: str) -> Outcome:
    """The system that the step needs is left alone for now: it waits for the circuit, and its attempt is not spent."""
    return Outcome(step, "parked", circuit=circuit)


def cancelled_itself(step: HeldStep) -> Outcome:
    """An async handler let a ``CancelledError`` out that nobody had asked for."""
    return failed(
        step,
        {
            "message": "the handler was cancelled from within",
            "type": "CancelledError",
            "retryable": True,
            "retry_after_seconds": None,
        },
    )


def timed_out(step: HeldStep) -> Outcome:
    """The attempt took longer than its timeout."""
    seconds = step.template.timeout_seconds
    return Outcome(
        step,
        "error",
        error={
            "message": f"step {step.template.name} took longer than its timeout of {seconds:g} s",
            "type": "timeout",
            "retryable": True,
            "retry_after_seconds": None,
            "timeout": True,
        },
    )


def interrupted(step: HeldStep) -> Outcome:
    """The executor stopped while a step ran that must not run twice."""
    message = f"the worker stopped while step {step.template.name} ran; it is not retryable, so what it did is unknown"
    return Outcome(
        step,
        "error",
        error={"message": message, "type": "outcome_unknown", "retryable": False, "retry_after_seconds": None},
    )


def delegated(step: HeldStep) -> Outcome:
    """The step is about to be sent to a Celery task, which has this long to answer."""
    return Outcome(step, "delegated", deadline_seconds=step.template.timeout_seconds)


def refused(outcome: Outcome, error: BaseException) -> Outcome:
    """In place of ``outcome``, which PostgreSQL cannot store: a permanent error of this step alone."""
    text = str(error).encode("ascii", "replace").decode().replace("\0", "?")[:500]
    return Outcome(
        outcome.step,
        "error",
        error={
            "message": f"the outcome of step {outcome.step.template.name} cannot be stored: {text}",
            "type": RESULT_NOT_STORABLE,
            "retryable": False,
            "retry_after_seconds": None,
        },
    )
