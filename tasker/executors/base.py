"""What all executors have in common: an incarnation in the database, heartbeats, the idle flag, counters."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg

from tasker.database import functions
from tasker.database.calls import Call
from tasker.errors import ExecutorLost
from tasker.executors.counters import Counters, without
from tasker.executors.executor import ExecutorKind
from tasker.executors.grace import GracePeriod
from tasker.executors.incarnation import Incarnation
from tasker.executors.link import Link
from tasker.executors.progress import Progress
from tasker.resilience.reconnecting import GaveUp

T = TypeVar("T")

logger = logging.getLogger(__name__)

GOOD_BYE_SECONDS = 2.0
"""Longest wait for a database that is away when there is nothing left but to deregister."""


class RegisteredExecutor(ABC):
    """An executor as the ``executors`` table knows it.

    The loop's thread registers, sets the idle flag and deregisters, over ``link``. Heartbeats come from a thread of
    their own with a connection of their own. ``_identity`` guards the exchange of a lost incarnation for a new one,
    which any thread may be the first to notice.

    Args:
        kind: its kind.
        queues: names of the queues it serves.
        worker: name of the Celery worker, or of the program, that hosts it.
        link: the connection of the loop's thread.
        grace: when it has to be done.
    """

    def __init__(
        self, kind: ExecutorKind, queues: tuple[str, ...], *, worker: str, link: Link, grace: GracePeriod
    ) -> None:
        self.kind = kind
        self.queues = queues
        self.next_due_seconds: float | None = None
        self.stop_requested = False
        self.counters = Counters()
        self.grace = grace
        self.beat_soon: Callable[[], None] = _nothing
        """Asks for a heartbeat before its time; set by the loop."""
        self.wake: Callable[[], None] = _nothing
        """Has the loop drain this executor soon; set by the loop."""
        self.progress = Progress()
        self.stall_seconds = float("inf")
        """How long it may neither ask its queues nor work until it has stalled."""
        self.trouble: str | None = None
        """What is wrong with it, as its heartbeat tells; set by the loop."""
        self.abandon: Callable[[], None] | None = None
        """Ends the process that its thread is stuck in, where others go on without it."""
        self.requested = False
        """The coordinator asked for it, beyond what its worker hosts by itself."""

        self._worker = worker
        self._link = link
        self._statement_timeout_ms: int | None = None
        self._identity = threading.RLock()
        self._incarnation = Incarnation()

    @property
    def incarnation(self) -> Incarnation:
        """The present one; another after the executor was declared lost."""
        return self._incarnation

    @property
    def busy(self) -> bool:
        """Whether work goes on in the background."""
        return False

    @property
    def holds(self) -> int:
        """How many items of work it holds at present."""
        return 0

    @property
    def works(self) -> bool:
        """Whether it is at work now, so that nobody need wonder why it asks its queues for nothing."""
        return self.progress.polled_in_drain

    @abstractmethod
    def drain(self, limit: int) -> int:
        """Take at most ``limit`` items of work, process them, and say how many there were."""

    # -- registering ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register, unless that is done.

        Raises:
            GaveUp: told to stop before the database answered.
        """
        incarnation = self._incarnation
        if incarnation.registered:
            return
        request = {
            "executor": incarnation.executor,
            "kind": self.kind.value,
            "worker": self._worker,
            "queues": list(self.queues),
            "pid": os.getpid(),
            "requested": self.requested,
        }
        self._link.call(functions.register_executor(request), give_up=self._is_ending)
        with self._identity:
            incarnation.registered = True

    def lost(self, incarnation: Incarnation) -> None:
        """The database says that ``incarnation`` is lost: take a new one, and drop what the old one held."""
        with self._identity:
            if incarnation.lost or not incarnation.registered:
                return
            incarnation.lost = True
            self._incarnation = incarnation.next()
        logger.warning("%s %s was declared lost; it registers anew", self.kind, incarnation.executor)
        self.counters.add(lost=1)
        self.forget(incarnation)

    def forget(self, incarnation: Incarnation) -> None:  # noqa: B027 - most hold nothing
        """Drop what was held under a lost ``incarnation``; called on the thread that noticed."""

    def deregister(self) -> None:
        """Say good-bye, naming the last finished receipts. What is still held can be recovered by others at once."""
        incarnation = self._incarnation
        if not incarnation.registered:
            return
        self.grace.shorten(GOOD_BYE_SECONDS)
        with self._identity:
            incarnation.registered = False  # a heartbeat under way that finds it gone means nothing
        counts = self._counted()
        request = {
            "executor": incarnation.executor,
            "finished": incarnation.ledger.take_finished(),
            "counters": without(counts, incarnation.counted_before),
        }
        try:
            self._link.call(functions.deregister_executor(request))
            incarnation.told = counts
        except (GaveUp, psycopg.Error) as error:
            # The sweep will find it.
            logger.warning("%s could not say good-bye: %s", self.kind, error)
        with self._identity:
            self._incarnation = incarnation.next()

    # -- the loop's and the heartbeat's calls ---------------------------------------------------------------------

    def call(self, call: Call[T], *, give_up: Callable[[], bool] | None = None) -> T:
        """A call that needs the incarnation to live, from the loop's thread.

        Args:
            call: what to call.
            give_up: when no longer to wait for a database that is away; the end of the grace period when ``None``.

        Raises:
            ExecutorLost: it does not; a new one has been taken and registers with the next ``start``.
        """
        incarnation = self._incarnation
        try:
            return self._link.call(call, statement_timeout_ms=self._statement_timeout_ms, give_up=give_up)
        except ExecutorLost:
            self.lost(incarnation)
            raise

    def take(self, call: Call[T]) -> T:
        """A call for work: once told to stop, no database that is away is worth waiting for.

        Raises:
            ExecutorLost: as ``call``.
            GaveUp: told to stop.
        """
        answer = self.call(call, give_up=self._is_ending)
        self.progress.polled()
        return answer

    def _is_ending(self) -> bool:
        return self.stop_requested or self.grace.begun

    def set_idle(self, idle: bool) -> None:
        """Commit the idle flag: whether a NOTIFY is worth sending."""
        request = {"executor": self._incarnation.executor, "idle": idle}
        self.call(functions.set_executor_idle(request), give_up=self._is_ending)

    def beat(self, link: Link) -> None:
        """Send one heartbeat over ``link`` and heed the answer; called on the heartbeat's thread.

        Raises:
            GaveUp, psycopg.Error: it could not be sent.
        """
        with self._identity:
            incarnation = self._incarnation
            if not incarnation.registered:
                return
        # Read before anything else: calls allotted later have higher numbers.
        next_call, held = incarnation.ledger.standing()
        expected, undo = self.expected_ms()
        if self.works:
            self.progress.worked()
        counts = self._counted()
        request: dict[str, Any] = {
            "executor": incarnation.executor,
            "oldest_call_no": held[0] if held else next_call,
            "next_call_no": next_call,
            "held_calls": held,
            "idle": None,
            "counters": without(counts, incarnation.counted_before),
            "silence": self.progress.silence(),
            "trouble": self.trouble,
        }
        if expected:
            request["expected_ms"] = expected
        try:
            answer = link.call(functions.heartbeat(request))
        except ExecutorLost:
            self.lost(incarnation)
            return
        except BaseException:
            undo()
            raise
        incarnation.told = counts
        if answer["stop_requested"]:
            self.stop_requested = True
        if answer["steps_lost"]:
            self.steps_lost(answer["steps_lost"])
        if answer.get("health") == "unhealthy" and self.progress.silent_seconds() > self.stall_seconds:
            self.restart("the coordinator finds it unhealthy")

    def look_after(self) -> None:
        """See whether it has stalled by its own clock, whoever else may notice; called on the heartbeat's thread."""
        if not self.works and self.progress.silent_seconds() > 2 * self.stall_seconds:
            self.restart("it has stalled")
            # Neither of a database that is away, nor of results that wait for it, is the thread to blame.
            stuck = not self.busy and not self._link.in_call
            if stuck and self.abandon is not None and self.progress.silent_seconds() > 4 * self.stall_seconds:
                self.abandon()

    def restart(self, why: str) -> None:
        """Break off the call that its thread waits for, and let its loop end as soon as it comes round.

        A loop that gets on after all, over another connection, need not end.
        """
        if not self.progress.is_unfit and self._incarnation.registered and not self._is_ending():
            logger.warning(
                "%s %s has asked its queues for nothing for %.0f s: %s; it starts anew",
                *(self.kind, self._incarnation.executor, self.progress.silent_seconds(), why),
            )
            self.counters.add(restarts=1)
            self.progress.is_unfit = True
            self._link.break_off()
            self.wake()

    def _counted(self) -> dict[str, float]:
        """All counts and durations, and how long it worked, in all its incarnations."""
        counts: dict[str, float] = {**self.counters.snapshot(), **self.counters.durations()}
        busy_ms = self.progress.busy_ms(self.works)
        return {**counts, "busy_ms": busy_ms} if busy_ms else counts

    def expected_ms(self) -> tuple[Mapping[str, float], Callable[[], None]]:
        """Averages for the heartbeat to carry, and what to call if it could not be sent."""
        return {}, _nothing

    def steps_lost(self, steps: list[dict[str, Any]]) -> None:  # noqa: B027 - most run none
        """The heartbeat's answer: steps that are no longer this executor's."""

    def rest(self) -> None:  # noqa: B027 - most executors hold nothing between drains
        """The loop stops draining for now: bring in nothing that would have to be run."""

    # -- the end --------------------------------------------------------------------------------------------------

    def stop(self, grace_seconds: float) -> None:
        """Take nothing new and deregister."""
        self.grace.begin(grace_seconds)
        self.deregister()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def _nothing() -> None:
    pass
