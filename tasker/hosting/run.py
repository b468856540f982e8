"""Running the executors of one slot, inside the pool: what ``tasker.run_executors`` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasker.executors.grace import LAST_WORDS_SECONDS
from tasker.executors.statistics import LoopStatistics
from tasker.executors.wake import Raised
from tasker.hosting.host import WorkerHost
from tasker.hosting.memory import memory_watched
from tasker.hosting.pools import PREFORK
from tasker.hosting.roles import Role
from tasker.hosting.tally import Tally
from tasker.hosting.termination import termination_caught
from tasker.hosting.watching import AnyOf, Readable
from tasker.messaging.queues import queue_name

if TYPE_CHECKING:
    from tasker.core import OrchestrationCore
    from tasker.executors.loop import ExecutorLoop

logger = logging.getLogger(__name__)

SOLO_LIFETIME_SECONDS = 0.9
"""A solo pool's executor blocks the worker's main loop, which has heartbeats to send and timers to fire. It varies a
little."""

OVER = frozenset({"unhealthy", "requested"})
"""Ends of a run after which its executors shall not run again, but others."""

STUCK_EXIT_CODE = 75
LEEWAY_SECONDS = LAST_WORDS_SECONDS + 2.0
"""How long after its time a pool process that was sent SIGTERM may take to report and give back what it held."""


def run_executors(
    core: OrchestrationCore, host: WorkerHost, role: Role, tally: Tally | None, *, requested: bool = False
) -> dict[str, Any]:
    """Serve until the lifetime is over, the worker stops or is drained, or somebody else needs the slot.

    Args:
        core: this process's.
        host: the worker.
        role: what to run.
        tally: where to count what is done; ``None``: nowhere.
        requested: the coordinator asked for them, beyond what the worker hosts by itself.

    Returns:
        The loop's statistics.
    """
    if host.yields.drained:
        return LoopStatistics(ended="drained").as_dict()
    if host.pool == "solo":
        return _run_solo(core, host, role, tally)
    with ExitStack() as stack:
        stop, hurried = stack.enter_context(_stop_of(host))
        ticket = _yields_of(host, stack)
        loop = _build(core, host, role, stop, ticket)
        for executor in loop.executors:
            executor.requested = requested
            if host.pool == PREFORK:
                executor.abandon = _end_process
        loop.hurry_when(hurried, host.emergency_seconds)
        stack.callback(loop.close)
        if tally is not None:
            tally.follow(loop)
        while True:
            statistics = loop.run(core.settings.orchestration.executor_lifetime_seconds)
            # Between two of the worker's connections to the broker nobody would start a successor.
            if statistics.ended in OVER or not host.detached.value or stop.is_set() or ticket.is_set():
                return statistics.as_dict()


@contextmanager
def _stop_of(host: WorkerHost) -> Iterator[tuple[Raised, Callable[[], bool]]]:
    """The worker's stop signal, in a process of a prefork pool also SIGTERM to this process; and whether to hurry.

    A process that is sent SIGTERM alone is wanted gone; one of a worker that stops warmly has the time that all have.
    """
    if host.pool != PREFORK:
        yield host.stop, lambda: host.cold.value != 0
        return

    def alone() -> bool:
        return host.cold.value != 0 or not host.stop.is_set()

    def longest_seconds() -> float:
        return (host.emergency_seconds if alone() else host.graceful_seconds) + LEEWAY_SECONDS

    with termination_caught(longest_seconds) as terminated:
        either = AnyOf(host.stop, terminated)
        try:
            yield either, lambda: (terminated.is_set() and alone()) or host.cold.value != 0
        finally:
            either.close()


def _yields_of(host: WorkerHost, stack: ExitStack) -> Raised:
    """What asks this executor to end its run: another task that needs the slot, or the memory that it uses."""
    ticket = host.yields.ticket()
    if host.pool != PREFORK or not host.max_memory_kb:
        return ticket
    either = AnyOf(ticket, stack.enter_context(memory_watched(host.max_memory_kb)))
    stack.callback(either.close)
    return either


def _build(core: OrchestrationCore, host: WorkerHost, role: Role, stop: Raised, yield_signal: Raised) -> ExecutorLoop:
    queues = [queue_name(namespace) for namespace in role.namespaces]
    return core.build_loop(
        role.kinds,
        queues,
        stop=stop,
        yield_signal=yield_signal,
        worker=host.hostname,
        sink=host.events,
        grace_seconds=host.graceful_seconds,
    )


# -- solo -----------------------------------------------------------------------------------------------------


@dataclass
class _Kept:
    role: Role
    loop: ExecutorLoop
    main_loop: Readable


_kept: dict[str, _Kept] = {}


def _run_solo(core: OrchestrationCore, host: WorkerHost, role: Role, tally: Tally | None) -> dict[str, Any]:
    """One short run of a loop that is kept, with its connection, from run to run.

    It yields as soon as the worker's main loop, which it blocks, has something to read.
    """
    kept = _kept.get(host.hostname)
    if kept is None or kept.role != role:
        close_kept(host.hostname)
        main_loop = Readable()
        kept = _kept[host.hostname] = _Kept(role, _build(core, host, role, host.stop, main_loop), main_loop)
        kept.loop.hurry_when(lambda: host.cold.value != 0, host.emergency_seconds)
    if tally is not None:
        tally.follow(kept.loop)
    kept.main_loop.watch(host.main_loop())
    statistics = kept.loop.run(SOLO_LIFETIME_SECONDS)
    if statistics.ended in OVER:
        close_kept(host.hostname)
    return statistics.as_dict()


def _end_process() -> None:
    """End this process of the pool, whose executor's thread does not come back: its worker starts another."""
    logger.critical("an executor's thread does not come back; its process ends")
    os._exit(STUCK_EXIT_CODE)


def close_kept(hostname: str) -> None:
    """Close the loop that a solo worker kept, if it did."""
    kept = _kept.pop(hostname, None)
    if kept is not None:
        kept.loop.close()
        kept.main_loop.close()
