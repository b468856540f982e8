"""What an executor is: the protocol that the loop, the hosts and the tests all drive."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tasker.executors.incarnation import Incarnation


class ExecutorKind(StrEnum):
    """The six kinds; the values are the names used in settings, tables and metrics."""

    STEP_EXECUTOR = "step_executor"
    TASK_REQUEST_PROCESSOR = "task_request_processor"
    TASK_CLAIMER = "task_claimer"
    STEP_ENQUEUER = "step_enqueuer"
    STEP_RESULT_PROCESSOR = "step_result_processor"
    TASK_FINALIZER = "task_finalizer"


ORCHESTRATION_KINDS: tuple[ExecutorKind, ...] = (
    ExecutorKind.TASK_REQUEST_PROCESSOR,
    ExecutorKind.TASK_CLAIMER,
    ExecutorKind.STEP_ENQUEUER,
    ExecutorKind.STEP_RESULT_PROCESSOR,
    ExecutorKind.TASK_FINALIZER,
)
"""The kinds that move tasks along and run no step; one loop may serve all of them."""


@runtime_checkable
class Executor(Protocol):
    """Takes work in batches. All methods but ``interrupt`` are called by the one thread that runs the loop."""

    kind: ExecutorKind
    queues: tuple[str, ...]
    """Names of the queues it serves; the loop listens for NOTIFY on each."""

    next_due_seconds: float | None
    """After a ``drain`` that found nothing: seconds until something falls due, if that is known."""

    @property
    def incarnation(self) -> Incarnation:
        """Its present identity in the ``executors`` table."""
        ...

    @property
    def busy(self) -> bool:
        """Whether work goes on in the background (async handlers, results on their way)."""
        ...

    def start(self) -> None:
        """Register, and make ready to drain. Called again after the executor was declared lost."""
        ...

    def drain(self, limit: int) -> int:
        """Take at most ``limit`` items of work, process them, and say how many there were."""
        ...

    def rest(self) -> None:
        """The loop stops draining for now, perhaps to go on later: bring in nothing that would have to be run."""
        ...

    def stop(self, grace_seconds: float) -> None:
        """Take nothing new; finish or give back what is held within ``grace_seconds``, then deregister."""
        ...

    def close(self) -> None:
        """Free connections and threads. Idempotent."""
        ...
