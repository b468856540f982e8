"""Runs one step after another: sync handlers on the calling thread, async ones on the executor's event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from tasker.database import functions
from tasker.database.calls import Call
from tasker.database.figures import STEP_BOUNDS, WAIT_BOUNDS
from tasker.errors import ExecutorLost
from tasker.executors import outcomes
from tasker.executors.async_runner import AsyncRunner
from tasker.executors.averages import DurationAverages
from tasker.executors.counters import STEP_DURATION, STEP_HANDOFF, STEP_QUEUE_WAIT, Counters
from tasker.executors.held import HeldStep, HeldSteps
from tasker.executors.interrupts import HandlerInterrupted, Interrupter
from tasker.executors.outcomes import Outcome
from tasker.executors.preparing import Preparer
from tasker.executors.step_circuits import StepCircuits
from tasker.executors.watchdog import LOOK_SECONDS, interrupt
from tasker.handlers.context import StepContext
from tasker.handlers.resolved import ResolvedHandler
from tasker.resilience.reconnecting import GaveUp

T = TypeVar("T")

RESULTS_PAGE = 100
"""Parents per page, where their results are too large to come with the claim."""


class WayBack(Protocol):
    """Where outcomes go; the completer."""

    def submit(self, outcome: Outcome, *, flush_follows: bool = False) -> None:
        """Take over an outcome."""
        ...

    def give_back(self, steps: list[HeldStep]) -> None:
        """Take over steps that are to be released."""
        ...


class Ask(Protocol):
    """Makes a call to the database on the calling thread."""

    def __call__(self, call: Call[T], /) -> T:
        """The answer."""
        ...


class StepRunner:
    """Calls handlers and hands over what became of them. Used by the loop's thread; ``_attempt`` by the event loop's.

    Args:
        preparer: finds handlers and makes their contexts.
        held: says who may speak for a step.
        way_back: takes the outcomes.
        circuits: say which steps have to wait for their system.
        prepare: adds to an outcome what its step publishes.
        ask: makes calls to the database.
        attend: tells the watchdog of a near deadline.
        beat_soon: asks for an early heartbeat.
        counters: of the executor.
        concurrency: how many async handlers share the executor's time.
    """

    def __init__(
        self,
        preparer: Preparer,
        held: HeldSteps,
        way_back: WayBack,
        circuits: StepCircuits,
        *,
        prepare: Callable[[Outcome], None],
        ask: Ask,
        attend: Callable[[], None],
        beat_soon: Callable[[], None],
        counters: Counters,
        concurrency: int,
    ) -> None:
        self._preparer = preparer
        self._held = held
        self._way_back = way_back
        self._circuits = circuits
        self._prepare = prepare
        self._ask = ask
        self._attend = attend
        self._beat_soon = beat_soon
        self._counters = counters
        self._concurrency = concurrency
        self.averages = DurationAverages()
        self._async = AsyncRunner()
        self._interrupter = Interrupter()
        self._thread = threading.get_ident()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While in the block, handlers that run on this thread can be interrupted."""
        if self._thread != threading.get_ident():
            self._interrupter, self._thread = Interrupter(), threading.get_ident()
        self._interrupter.install()
        try:
            yield
        finally:
            self._interrupter.uninstall()

    def run(self, step: HeldStep) -> None:
        """Run ``step``, which is marked as running; an async one goes on after the return.

        Raises:
            GaveUp: no database before the executor had to stop.
            KeyboardInterrupt: and the like, raised by a signal; the step has been given back.
        """
        self._observe_start(step)
        template = step.template
        circuit = self._circuits.closed_to(step)
        if circuit is not None:
            self._finish(step, outcomes.parked(step, circuit))
            return
        if template.delegated:
            self._finish(step, outcomes.delegated(step))
            return
        try:
            handler = self._preparer.handler(step)
            if step.results_paged:
                self._read_results(step)
            context = self._preparer.context(step)
        except GaveUp:
            raise  # given back with all else that runs
        except Exception as error:
            self._finish(step, outcomes.raised(step, error))
            return
        if not template.retryable and not self._may_start(step):
            return
        if template.timeout_seconds is not None and template.timeout_seconds < LOOK_SECONDS:
            self._attend()
        if handler.is_async:
            self._async.run(step, functools.partial(self._attempt, handler, context))
        else:
            self._call(step, handler, context)

    def stop_if_async(self, step: HeldStep) -> None:
        """Have the async handler of ``step`` cancelled; a sync one asks by itself."""
        handler = step.template.resolved
        if handler is not None and handler.is_async:
            interrupt(step)

    def close(self) -> None:
        """End the event loop."""
        self._async.close()

    # -- the two ways to run --------------------------------------------------------------------------------------

    def _call(self, step: HeldStep, handler: ResolvedHandler, context: StepContext[Any]) -> None:
        begun = time.perf_counter()
        try:
            result = self._interrupter.run(functools.partial(handler.invoke, context), functools.partial(_expose, step))
        except HandlerInterrupted:
            self._observe_run(step, begun)
            return  # whoever interrupted it has spoken for the step
        except Exception as error:
            outcome = outcomes.raised(step, error)
        except BaseException as error:
            if type(error) is not SystemExit:
                # Ctrl-C, or the worker's own shutdown: not the step's failure.
                if self._held.settle(step):
                    self._way_back.give_back([step])
                raise
            outcome = outcomes.raised(step, error)
        else:
            self._record(step, (time.perf_counter() - begun) * 1000)
            outcome = self._preparer.outcome(step, result)
        self._observe_run(step, begun)
        self._finish(step, outcome)

    async def _attempt(self, handler: ResolvedHandler, context: StepContext[Any], step: HeldStep) -> None:
        begun = time.perf_counter()
        try:
            result = await handler.invoke(context)
        except asyncio.CancelledError:
            # By us: the step is spoken for, and this is dropped. By the handler itself: an error like any other.
            outcome = outcomes.cancelled_itself(step)
        except Exception as error:
            outcome = outcomes.raised(step, error)
        else:
            # Side by side with others, it occupies the executor for its share of the time only.
            self._record(step, (time.perf_counter() - begun) * 1000 / self._concurrency)
            outcome = self._preparer.outcome(step, result)
        self._observe_run(step, begun)
        self._prepare(outcome)
        if self._held.settle(step):
            self._way_back.submit(outcome)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _finish(self, step: HeldStep, outcome: Outcome) -> None:
        self._prepare(outcome)
        if self._held.settle(step):
            # The last of a batch is followed by a flush on this thread.
            self._way_back.submit(outcome, flush_follows=self._held.ready == 0)
        else:
            self._counters.add(late=1)

    def _record(self, step: HeldStep, milliseconds: float) -> None:
        template = step.template
        average, worth_a_heartbeat = self.averages.record(template.key, milliseconds, template.expected_ms)
        if average is not None:
            template.expected_ms = average
        if worth_a_heartbeat:
            self._beat_soon()

    def _observe_start(self, step: HeldStep) -> None:
        """How long it took from when the step could run, if it was never tried before."""
        if step.waited_seconds is None:
            return
        namespace = step.template.namespace
        if not step.chain_hops:
            self._counters.observe(STEP_QUEUE_WAIT, namespace, step.waited_seconds, WAIT_BOUNDS)
        until_now = step.waited_seconds + (time.monotonic() - step.claimed_at)
        self._counters.observe(STEP_HANDOFF, namespace, until_now, WAIT_BOUNDS)

    def _observe_run(self, step: HeldStep, begun: float) -> None:
        self._counters.observe(STEP_DURATION, step.template.namespace, time.perf_counter() - begun, STEP_BOUNDS)

    def _may_start(self, step: HeldStep) -> bool:
        """Commit the start mark of a step that must not run twice; refused means: do not run it.

        One by one, right before each runs: marks made ahead would turn neighbours that never started into steps of
        which nobody knows whether they ran, should this process die.
        """
        request = {"executor": step.incarnation.executor, "steps": [step.key()]}
        try:
            (started,) = self._ask(functions.mark_steps_started(request))["started"]
        except ExecutorLost:
            return False
        except GaveUp:
            raise  # given back with all else that runs
        except Exception:
            # It has not started, and nobody else would speak for it: given back, which also takes away a mark.
            if self._held.settle(step):
                self._way_back.give_back([step])
            raise
        if not started and self._held.settle(step):
            step.incarnation.ledger.settled(step.call_no)
            self._counters.add(stale=1)
        return bool(started)

    def _read_results(self, step: HeldStep) -> None:
        """Results of parents that were too large for the claim."""
        results: dict[str, Any] = {}
        after: int | None = None
        while True:
            page = self._ask(
                functions.get_parent_results(step.task_uuid, step.step_uuid, after=after, limit=RESULTS_PAGE)
            )
            results.update(page["results"])
            after = page["next_after"]
            if after is None:
                step.results = results
                return


def _expose(step: HeldStep, interrupt_it: Callable[[], None] | None) -> None:
    step.interrupt = interrupt_it
