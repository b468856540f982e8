"""What the slots of a worker host, derived from the queues it consumes (the meaning of ``-Q``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind

ORCHESTRATION_QUEUE = "orchestration"
"""Celery's queue for Tasker's own tasks; a worker that consumes it hosts orchestration executors."""

ALL_ORCHESTRATION = "orchestration"
"""Kind of a loop over all five orchestration kinds."""

EVERYTHING = "all"
"""Kind of a loop over all six kinds, for a worker with one slot that consumes both sorts of queues."""


@dataclass(frozen=True)
class Role:
    """What one slot runs.

    Args:
        kind: the value of an ``ExecutorKind``, or ``orchestration``, or ``all``.
        namespaces: whose steps it runs; empty for orchestration.
    """

    kind: str
    namespaces: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[ExecutorKind, ...]:
        """The executors of its loop.

        Raises:
            ValueError: no kind has that name.
        """
        if self.kind == ALL_ORCHESTRATION:
            return tuple(ORCHESTRATION_KINDS)
        if self.kind == EVERYTHING:
            return (*ORCHESTRATION_KINDS, ExecutorKind.STEP_EXECUTOR)
        return (ExecutorKind(self.kind),)


def roles_of(
    consumed: Iterable[str], namespaces: Collection[str], slots: int, *, periodic_orchestration: bool = False
) -> tuple[Role, ...]:
    """The role of each slot, at most ``slots`` many; none for a worker of plain Celery queues.

    Queues that name a namespace get step executors, each serving all of them. The queue ``orchestration`` gets loops
    over all orchestration kinds. A worker that consumes both gives a quarter of its slots, at least one, to
    orchestration, so that slow handlers never stop it; with a single slot, one loop does everything.

    Args:
        consumed: the names of the Celery queues the worker consumes.
        namespaces: the namespaces that exist.
        slots: how many slots executors may take.
        periodic_orchestration: orchestration is driven by beat and needs no resident loops.
    """
    names = tuple(consumed)
    steps = tuple(sorted(set(names) & set(namespaces)))
    orchestration = ORCHESTRATION_QUEUE in names and not periodic_orchestration
    if slots < 1 or not (steps or orchestration):
        return ()
    if not steps:
        return (Role(ALL_ORCHESTRATION),) * slots
    if not orchestration:
        return (Role(ExecutorKind.STEP_EXECUTOR.value, steps),) * slots
    if slots == 1:
        return (Role(EVERYTHING, steps),)
    first = max(1, slots // 4)
    return (Role(ALL_ORCHESTRATION),) * first + (Role(ExecutorKind.STEP_EXECUTOR.value, steps),) * (slots - first)
