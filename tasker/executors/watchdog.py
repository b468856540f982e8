"""Looks after steps while their executor's thread is busy running one: never after the database, so never late.

It gives back what was not started in time, reports what ran out of time and interrupts it, and, once the executor is
told to stop, gives back what has not started at once and ends what still runs when the grace period is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tasker.executors import outcomes
from tasker.executors.counters import Counters
from tasker.executors.grace import GracePeriod
from tasker.executors.held import HeldStep, HeldSteps
from tasker.executors.outcomes import Outcome
from tasker.executors.step_events import StepEvents
from tasker.executors.wake import HasFileno, Raised, WakePipe, wait_readable

logger = logging.getLogger(__name__)

UNSTARTED_SECONDS = 0.25
"""How long a claimed step may wait to be started."""

LOOK_SECONDS = 0.25
"""Longest time between two looks while steps are held; deadlines nearer than this are awaited exactly."""

DORMANT_AFTER_SECONDS = 5.0


class Watchdog:
    """The watching thread of one step executor.

    Args:
        held: what it looks after.
        stop: the signal of this process.
        grace: how long what runs may go on once told to stop.
        submit: takes the outcomes it speaks for.
        give_back: takes steps to be released.
        counters: of the executor.
        events: of its steps; sent here when nobody else does it in time.
    """

    def __init__(
        self,
        held: HeldSteps,
        *,
        stop: Raised,
        grace: GracePeriod,
        submit: Callable[[Outcome], None],
        give_back: Callable[[Sequence[HeldStep]], None],
        counters: Counters,
        events: StepEvents,
    ) -> None:
        self._held = held
        self._stop = stop
        self._grace = grace
        self._submit = submit
        self._give_back = give_back
        self._counters = counters
        self._events = events
        self._wake = WakePipe()
        self._lock = threading.Lock()  # owns _dormant
        self._dormant = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tasker-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread. Idempotent."""
        if not self._thread.is_alive() and not self._closing:
            self._thread.start()

    def attend(self, *, soon: bool = False) -> None:
        """Steps were claimed; ``soon`` when one has a deadline nearer than the next look."""
        with self._lock:
            wake, self._dormant = self._dormant or soon, False
        if wake:
            self._wake.wake()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing = True
        self._wake.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._wake.close()

    def _run(self) -> None:
        dormant_at = time.monotonic() + DORMANT_AFTER_SECONDS
        while not self._closing:
            try:
                self._look(time.monotonic())
            except Exception:
                logger.exception("the watchdog failed; it goes on")
            now = time.monotonic()
            if self._held.count:
                dormant_at = now + DORMANT_AFTER_SECONDS
            timeout: float | None = self._next_look(now)
            with self._lock:
                # Steps are added before attend() is called: either the count shows them or attend() finds us dormant.
                if now >= dormant_at and not self._held.count:
                    self._dormant = True
                    timeout = None
            # Once the signal is set its descriptor stays readable and would make this spin.
            sources: list[HasFileno] = [self._wake]
            if not self._grace.begun:
                sources.append(self._stop)
            wait_readable(sources, timeout)
            self._wake.clear()

    def _next_look(self, now: float) -> float:
        deadline = self._held.next_deadline()
        wait = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, max(0.0, deadline - now))
        return max(0.0, min(wait, self._grace.remaining())) if not self._grace.over() else wait

    def _look(self, now: float) -> None:
        stopping = self._grace.begun
        self._events.flush()
        self._give_back(self._held.take_unstarted(None if stopping else now - UNSTARTED_SECONDS))
        for step in self._held.take_timed_out(now):
            logger.warning("step %s of task %s timed out", step.template.label, step.task_uuid)
            self._counters.add(timeouts=1)
            self._submit(outcomes.timed_out(step))
            interrupt(step)
        if stopping and self._grace.over():
            end_running(self._held, self._submit, self._give_back)


def end_running(
    held: HeldSteps, submit: Callable[[Outcome], None], give_back: Callable[[Sequence[HeldStep]], None]
) -> None:
    """The grace period is over: interrupt what runs, and give it back unless it must not run twice."""
    for step in held.take_running("the executor stops"):
        logger.warning("step %s of task %s is interrupted: the executor stops", step.template.label, step.task_uuid)
        if step.template.retryable:
            give_back([step])
        else:
            submit(outcomes.interrupted(step))
        interrupt(step)


def interrupt(step: HeldStep) -> None:
    """Break into the handler of ``step``, where that is possible."""
    break_in = step.interrupt
    if break_in is not None:
        break_in()
