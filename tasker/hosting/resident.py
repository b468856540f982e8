"""Keeps a worker's slots filled with executors, without any broker message."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery.worker import state

from tasker.hosting.host import WorkerHost
from tasker.hosting.messages import local_message
from tasker.hosting.pools import SOLO
from tasker.hosting.roles import Role
from tasker.hosting.run import close_kept
from tasker.hosting.slot import RESTART_SECONDS, Slot

logger = logging.getLogger(__name__)

RUN_EXECUTORS = "tasker.run_executors"

CHECK_SECONDS = 0.5
"""How often slots are looked after: an executor whose process was killed has no acknowledgement to end it."""

YIELD_PAUSE_SECONDS = 2.0
"""Shortest time between two requests to yield, so that executors get some work done between ordinary tasks."""


class ResidentExecutors:
    """The executors of one worker, run as tasks that its own consumer makes.

    It builds messages and hands them to the consumer's strategy for the executor task, so that they go the way of any
    task: they are seen by ``inspect active`` and by the autoscaler, they show in Flower, and they wait for a slot
    behind what was there first. They count against no prefetch, cannot be lost or redelivered, and outlive the broker's
    connection.

    Args:
        host: the worker.
        consumer: Celery's consumer.
    """

    def __init__(self, host: WorkerHost, consumer: Any) -> None:
        self._host = host
        self._consumer = consumer
        # One lock for the slots: with an event loop everything happens in one thread, without one the acknowledgement
        # comes from a pool thread and the checks from the timer's. Never held while a task is handed over: in a solo
        # pool that runs it.
        self._lock = threading.RLock()
        self._slots = [self._new_slot(role) for role in host.roles]
        self._call_later: Callable[[float, Callable[[], Any]], Any] | None = None
        self._waited = False
        self._asked = False
        self._yielded_at = 0.0
        self.started = self.ended = self.lost = self.yields = 0
        """How many executors were started, ended, ended without a word, were asked to yield to an ordinary task."""

    # -- starting and stopping ------------------------------------------------------------------------------------

    def attach(self, call_later: Callable[[float, Callable[[], Any]], Any]) -> None:
        """The consumer is connected and its loop about to run: fill the slots.

        Args:
            call_later: runs a function after some seconds, in the thread that may hand tasks over.
        """
        with self._lock:
            self._call_later = call_later
        call_later(RESTART_SECONDS, self.check)

    def detach(self) -> None:
        """The consumer lost its connection or ends: hand nothing over until attached again."""
        with self._lock:
            self._call_later = None

    def assign(self, roles: Sequence[Role]) -> None:
        """Change what the slots host. All executors are asked to yield, and followed by those of the new roles.

        Where there are only more of them, those that run go on.
        """
        with self._lock:
            more = [slot.role for slot in self._slots] == list(roles[: len(self._slots)])
            slots = self._slots[: len(roles)]
            slots += [self._new_slot(role) for role in roles[len(slots) :]]
            for slot in self._slots[len(roles) :]:
                if slot.tally is not None:
                    slot.tally.free()
            for slot, role in zip(slots, roles, strict=True):
                slot.role = role
            self._slots = slots
            self._asked = self._asked or not more
        if not more:
            self._host.yields.ask_all()
        self._soon()

    def drain(self) -> bool:
        """Have all executors finish what they hold, and start none until ``resume``; false if that was so already."""
        if self._host.yields.drained:
            return False
        with self._lock:
            self._asked = True
        self._host.yields.drain()
        if self._host.pool == SOLO:
            # The loop that a solo worker keeps between two runs may have async handlers to wait for.
            threading.Thread(target=close_kept, args=(self._host.hostname,), name="tasker-drain").start()
        return True

    def resume(self) -> bool:
        """Host executors again; false if nothing else was asked for."""
        if not self._host.yields.drained:
            return False
        self._host.yields.resume()
        self._soon()
        return True

    def restart(self) -> None:
        """The pool's processes are to be replaced: ask all executors to yield, as that waits for their end."""
        with self._lock:
            self._asked = True
        self._host.yields.ask_all()

    def call_soon(self, function: Callable[[], Any]) -> None:
        """Call ``function`` in the thread that may use the consumer; never, while there is no connection."""
        call_later = self._call_later
        if call_later is not None:
            call_later(0, function)

    def requests(self) -> list[Any]:
        """Celery's requests of the executors that fill slots."""
        return [slot.occupant.request for slot in self.slots if slot.occupant and slot.occupant.request]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, as they are now."""
        with self._lock:
            return tuple(self._slots)

    # -- looking after slots --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Fill empty slots, and see whether an ordinary task needs one."""
        if self._host.stop.is_set():
            return
        self._find_lost()
        if self._host.yields.drained:
            return
        now = time.monotonic()
        with self._lock:
            empty = [slot for slot in self._slots if slot.occupant is None and slot.not_before <= now]
        for slot in empty:
            self._fill(slot)
        self._weigh()

    def _new_slot(self, role: Role) -> Slot:
        return Slot(role, self._host.board.allot())

    def _fill(self, slot: Slot) -> None:
        consumer = self._consumer
        with self._lock:
            if self._call_later is None or self._host.stop.is_set() or slot.occupant is not None:
                return
            occupant = slot.occupy(self._ended)
        role = slot.role
        message = local_message(consumer.app, RUN_EXECUTORS, (role.kind, list(role.namespaces)))
        if slot.tally is not None:
            slot.tally.assign(message.headers["id"])
        self.started += 1
        strategy = consumer.strategies[RUN_EXECUTORS]
        # Limits of rates mean ordinary tasks: this one would run when its slot has long been filled by another.
        consumer.task_buckets[RUN_EXECUTORS] = None
        # Without the consumer's callbacks autoscale would not see the load.
        try:
            strategy(message, None, occupant, occupant, [occupant.bind, *consumer.on_task_message])
        except RuntimeError:
            if not self._host.stop.is_set():
                raise
            return  # a signal's handler stopped the pool just now
        if occupant.request is None:  # revoked before it began
            occupant.failed = True
            slot.vacate(occupant)

    def _ended(self, slot: Slot) -> None:
        """An executor ended: fill its slot again as soon as it may be."""
        self.ended += 1
        self._soon(slot.not_before - time.monotonic())

    def _soon(self, seconds: float = 0.0) -> None:
        call_later = self._call_later
        if call_later is not None:
            call_later(max(seconds, RESTART_SECONDS), self.check)

    def _find_lost(self) -> None:
        """Empty the slots of executors that ended without a word."""
        pool = self._consumer.pool
        dead = _dead_processes(pool)
        if dead and self._consumer.hub is not None:
            # Celery looks every five seconds: a killed child's siblings hold the pipe that would tell it. This reports
            # the task as lost, which acknowledges it, and starts another process.
            pool.maintain_pool()
        with self._lock:
            occupants = [slot.occupant for slot in self._slots if slot.occupant and slot.occupant.request]
        for occupant in occupants:
            request = occupant.request
            if (request not in state.reserved_requests or request.worker_pid in dead) and occupant.slot.vacate(
                occupant
            ):
                self.lost += 1
                logger.warning("An executor of worker %s ended without a word; starting another.", self._host.hostname)

    # -- yielding -------------------------------------------------------------------------------------------------

    def _weigh(self) -> None:
        """Ask one executor to yield if ordinary tasks wait, as at the last look, for more slots than are free."""
        reserved, active = _snapshot(state.reserved_requests), _snapshot(state.active_requests)
        waiting = sum(request.name != RUN_EXECUTORS for request in reserved - active)
        needed = waiting > max(0, self._consumer.pool.num_processes - len(active))
        pause = time.monotonic() - self._yielded_at < YIELD_PAUSE_SECONDS
        ask = needed and self._waited and not pause
        if self._asked and (ask or not needed):
            self._host.yields.withdraw()  # what nobody took in time
            self._asked = False
        if ask:
            self._yielded_at = time.monotonic()
            self.yields += 1
            self._host.yields.ask()
            self._asked = True
        self._waited = needed


def _dead_processes(pool: Any) -> set[int]:
    """Processes of a prefork pool that have died and are not yet replaced; empty for pools without processes."""
    processes = getattr(getattr(pool, "_pool", None), "_pool", None) or ()
    return {process.pid for process in list(processes) if process.exitcode is not None}


def _snapshot(requests: Any) -> set[Any]:
    """A copy of one of Celery's weak sets, which other threads may change meanwhile."""
    while True:
        try:
            return set(requests)
        except RuntimeError:
            continue
