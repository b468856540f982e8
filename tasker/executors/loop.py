"""Runs executors until told to stop: drain all, wait when there is nothing, listen to everything that may end a wait.

The same loop runs inside a Celery task, in a thread, and until nothing is left to do. Between runs the executors keep
their connections, their heartbeat and their names; ``close`` ends them.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import psycopg

from tasker.errors import ExecutorLost, TaskerError
from tasker.executors.base import RegisteredExecutor
from tasker.executors.heartbeat import Heartbeat
from tasker.executors.idle import IdleSchedule
from tasker.executors.statistics import LoopStatistics
from tasker.executors.wake import HasFileno, Raised, WakePipe, wait_readable
from tasker.resilience.reconnecting import GaveUp

logger = logging.getLogger(__name__)

LIFETIME_JITTER = 0.1
"""Share by which a lifetime varies either way, so that executors started together do not end together."""

BUSY_SECONDS = 0.1
"""An executor that has worked for so long without a break tells others that it needs no NOTIFY."""

CIRCUIT_OPEN_SECONDS = 30.0
"""How long an executor is left alone whose circuit opened; then one drain tries."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
DEFAULT_GRACE_SECONDS = 30.0


class Subscription(Protocol):
    """What a listener gives to those who want to be told."""

    def close(self) -> None:
        """No longer be told."""
        ...


Subscribe = Callable[[str, Callable[[], None]], Subscription]
"""Calls the function whenever the queue of that name may have got messages."""


class Slot:
    """One executor in the loop. All members but ``_poked`` belong to the loop's thread.

    Args:
        executor: the executor.
        batch_size: limit of each drain.
        schedule: when to look again after nothing was found.
        failure_threshold: drains in a row that fail and open its circuit; ``None``: it has none.
    """

    def __init__(
        self,
        executor: RegisteredExecutor,
        *,
        batch_size: int,
        schedule: IdleSchedule,
        failure_threshold: int | None = None,
    ) -> None:
        self.executor = executor
        self.batch_size = batch_size
        self.schedule = schedule
        self.due_at = 0.0
        self.idle_flag = False
        self.busy_since: float | None = None
        self.incarnation = executor.incarnation
        self.failures = 0
        self._failure_threshold = failure_threshold
        self._poked = False

    def poke(self) -> None:
        """Have it drained as soon as the loop comes round; from any thread."""
        self._poked = True

    def failed(self, now: float) -> None:
        """A drain failed: try again later, ever later, and once its circuit is open after a fixed time."""
        pause = min(FIRST_PAUSE_SECONDS * 2**self.failures, LONGEST_PAUSE_SECONDS)
        self.failures += 1
        self.executor.trouble = "drains fail"
        if self._failure_threshold is not None and self.failures >= self._failure_threshold:
            if self.failures == self._failure_threshold:
                logger.warning("%s: its circuit opens after %d failures", self.executor.kind, self.failures)
                self.executor.counters.add(circuit_opened=1)
            pause = CIRCUIT_OPEN_SECONDS
            self.executor.trouble = "circuit open"
        self.due_at = now + pause

    def succeeded(self) -> None:
        """A drain did not fail."""
        self.failures = 0
        self.executor.trouble = None

    def take_due(self, now: float) -> bool:
        """Whether it is its turn."""
        if self._poked:
            self._poked = False
            if not self.failures:
                return True
        return now >= self.due_at


class ExecutorLoop:
    """Drains executors in turn, each when it is due.

    Args:
        slots: the executors, each with its limit and schedule.
        stop: ends the loop, and the executors.
        wake: ends a wait; closed by ``close``.
        heartbeat: their heartbeats.
        yield_signal: asks the loop to give its place to others; looked at as rarely as possible, since looking may take
            the request from another loop.
        subscribe: how to hear of messages; ``None`` leaves it to polling.
        grace_seconds: how long executors may go on once they are told to stop.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        stop: Raised,
        wake: WakePipe,
        heartbeat: Heartbeat,
        yield_signal: Raised | None = None,
        subscribe: Subscribe | None = None,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
    ) -> None:
        self._slots = list(slots)
        self._stop = stop
        self._wake = wake
        self._heartbeat = heartbeat
        self.yield_signal = yield_signal
        self._subscribe = subscribe
        self._grace_seconds = grace_seconds
        self._subscriptions: list[Subscription] = []
        self._started = False
        self._closed = False
        for slot in self._slots:
            slot.executor.wake = functools.partial(self._poke, slot)
            slot.executor.beat_soon = heartbeat.soon

    @property
    def executors(self) -> tuple[RegisteredExecutor, ...]:
        """What it drains."""
        return tuple(slot.executor for slot in self._slots)

    def hurry_when(self, asked: Callable[[], bool], seconds: float) -> None:
        """Allow executors that are told to stop at most ``seconds`` more while ``asked()``.

        Args:
            asked: called often, by any thread.
            seconds: counted from when that is first seen.
        """
        for slot in self._slots:
            slot.executor.grace.hurry_when(asked, seconds)

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, lifetime_seconds: float | None = None) -> LoopStatistics:
        """Work until told to stop, to yield, or for about ``lifetime_seconds``.

        The executors go on living afterwards, for another run; ``close`` ends them.

        Raises:
            psycopg.Error: the database refuses to let the executors in.
        """
        statistics = LoopStatistics()
        lifetime = (
            None
            if lifetime_seconds is None
            else lifetime_seconds * random.uniform(1 - LIFETIME_JITTER, 1 + LIFETIME_JITTER)
        )
        with _Run(self, statistics):
            try:
                self._start()
                statistics.ended = self._run(statistics, lifetime)
            except GaveUp:
                statistics.ended = "stopped"  # before the database answered
        return statistics

    def drain_all(self) -> int:
        """Drain each executor once, whether it is due or not; how much work they took."""
        self._start()
        return sum(slot.executor.drain(slot.batch_size) for slot in self._slots)

    def run_until_idle(self, timeout_seconds: float = 30.0) -> LoopStatistics:
        """Work until no executor finds anything and none is busy; what falls due later is left.

        Raises:
            TimeoutError: there was still something to do after ``timeout_seconds``.
        """
        statistics = LoopStatistics(ended="idle")
        deadline = time.monotonic() + timeout_seconds
        with _Run(self, statistics):
            self._start()
            while not self._stop.is_set():
                self._wake.clear()
                # Asked before: what ends while the others are drained may have made work for them.
                busy = any(slot.executor.busy for slot in self._slots)
                taken = sum(self._drain(slot, statistics, raising=True) or 0 for slot in self._slots)
                if not taken and not busy:
                    return statistics
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"there was still work to do after {timeout_seconds:g} s")
                if not taken:
                    wait_readable([self._wake, self._stop], 0.005)
            statistics.ended = "stopped"
        return statistics

    def close(self, grace_seconds: float | None = None) -> None:
        """End the executors: what runs may finish within ``grace_seconds``, what has not started is given back."""
        if self._closed:
            return
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        try:
            for slot in self._slots:
                try:
                    slot.executor.stop(grace)
                except (GaveUp, psycopg.Error, TaskerError) as error:
                    # The sweep finds what could not be handed back.
                    logger.warning("%s did not end in order: %s", slot.executor.kind, error)
        finally:
            self._heartbeat.close()
            for slot in self._slots:
                slot.executor.close()
            self._wake.close()

    def __enter__(self) -> ExecutorLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError("the loop is closed")
        if self._started:
            return
        for slot in self._slots:
            slot.executor.start()
        self._heartbeat.start()
        if self._subscribe is not None:
            for slot in self._slots:
                poke = functools.partial(self._poke, slot)
                self._subscriptions += [self._subscribe(queue, poke) for queue in slot.executor.queues]
        self._started = True

    def _run(self, statistics: LoopStatistics, lifetime: float | None) -> str:
        ends_at = None if lifetime is None else time.monotonic() + lifetime
        look_at_yield = True
        while True:
            if self._stop.is_set():
                return "stopped"
            if look_at_yield and self.yield_signal is not None and self.yield_signal.is_set():
                return "yielded"
            now = time.monotonic()
            if ends_at is not None and now >= ends_at:
                return "lifetime"
            slots = [slot for slot in self._slots if not slot.executor.stop_requested]
            if not slots:
                return "requested"
            # Cleared before the pokes are looked at: a wake that comes in between ends the next wait.
            self._wake.clear()
            for slot in slots:
                if slot.take_due(now):
                    self._turn(slot, statistics)
                    if self._stop.is_set():
                        return "stopped"
            if any(slot.executor.progress.is_unfit for slot in slots):
                return "unhealthy"
            timeout = min(slot.due_at for slot in slots) - time.monotonic()
            if ends_at is not None:
                timeout = min(timeout, ends_at - time.monotonic())
            sources: list[HasFileno] = [self._wake, self._stop]
            if self.yield_signal is not None:
                sources.append(self.yield_signal)
            if timeout > 0:
                statistics.waits += 1
            wait_readable(sources, max(0.0, timeout))
            look_at_yield = self.yield_signal is not None and wait_readable([self.yield_signal], 0)

    def _turn(self, slot: Slot, statistics: LoopStatistics) -> None:
        """Drain one executor, and decide when it is due again."""
        taken = self._drain(slot, statistics)
        now = time.monotonic()
        if taken is None:
            slot.failed(now)
            return
        slot.succeeded()
        if slot.executor.incarnation is not slot.incarnation:
            slot.incarnation, slot.idle_flag = slot.executor.incarnation, False
        if taken:
            slot.schedule.found_work()
            slot.due_at = now
            if slot.busy_since is None:
                slot.busy_since = now
            elif slot.idle_flag and now - slot.busy_since > BUSY_SECONDS:
                self._set_idle(slot, False)
            return
        slot.busy_since = None
        if not slot.idle_flag and self._set_idle(slot, True):
            slot.schedule.flag_was_set()
        slot.due_at = time.monotonic() + slot.schedule.next_wait(slot.executor.next_due_seconds)

    def _drain(self, slot: Slot, statistics: LoopStatistics, *, raising: bool = False) -> int | None:
        """What a drain took; ``None`` if it failed, which is logged and tried again later unless ``raising``."""
        kind = slot.executor.kind.value
        statistics.drains[kind] = statistics.drains.get(kind, 0) + 1
        progress = slot.executor.progress
        progress.began()
        taken = 0
        try:
            taken = slot.executor.drain(slot.batch_size)
        except GaveUp:
            return 0  # only once told to stop
        except ExecutorLost:
            slot.poke()  # the next drain registers anew
            return 0
        except Exception:
            if raising:
                raise
            statistics.errors += 1
            logger.exception("%s: a drain failed; it is tried again", kind)
            return None
        finally:
            progress.ended(taken)
        statistics.taken[kind] = statistics.taken.get(kind, 0) + taken
        return taken

    def _set_idle(self, slot: Slot, idle: bool) -> bool:
        """Whether the flag is now as wanted. Without it only the notifications are missed or too many."""
        try:
            slot.executor.set_idle(idle)
        except (ExecutorLost, GaveUp):
            return False
        except (psycopg.Error, TaskerError):
            logger.exception("%s: the idle flag could not be set", slot.executor.kind)
            return False
        slot.idle_flag = idle
        return True

    def _poke(self, slot: Slot) -> None:
        slot.poke()
        self._wake.wake()


class _Run:
    """The frame of one run: its time and counters, and rest at its end."""

    def __init__(self, loop: ExecutorLoop, statistics: LoopStatistics) -> None:
        self._loop = loop
        self._statistics = statistics

    def __enter__(self) -> None:
        self._begun = time.monotonic()
        self._before = {slot.executor.kind.value: slot.executor.counters.snapshot() for slot in self._loop._slots}

    def __exit__(self, *_: object) -> None:
        for slot in self._loop._slots:
            slot.executor.rest()
            kind = slot.executor.kind.value
            self._statistics.counters[kind] = slot.executor.counters.since(self._before[kind])
        self._statistics.seconds = round(time.monotonic() - self._begun, 3)
