"""Runs steps: claims a batch, calls the handlers, reports what became of them; two round trips per batch."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.database import functions
from tasker.database.connection import Database
from tasker.errors import ExecutorLost
from tasker.executors.base import RegisteredExecutor
from tasker.executors.completer import Completer
from tasker.executors.delegation import Delegation, StepSender
from tasker.executors.domain_events import StepDomainEvents
from tasker.executors.executor import ExecutorKind
from tasker.executors.grace import GracePeriod
from tasker.executors.held import HeldSteps
from tasker.executors.incarnation import Incarnation
from tasker.executors.intake import Intake
from tasker.executors.link import Link
from tasker.executors.notifier import Notifier
from tasker.executors.outcomes import Outcome
from tasker.executors.preparing import Preparer
from tasker.executors.set_aside import SetAside
from tasker.executors.step_circuits import StepCircuits
from tasker.executors.step_events import EventSink, NoSink, StepEvents
from tasker.executors.step_runner import StepRunner
from tasker.executors.submission import Reporting
from tasker.executors.wake import Raised
from tasker.executors.watchdog import Watchdog, end_running
from tasker.handlers.registry import HandlerRegistry
from tasker.hooks.events import Publishing
from tasker.resilience.circuits import Circuit, CircuitBreakers

logger = logging.getLogger(__name__)

BUDGET_MS = 50.0
"""Expected work that an executor takes at once, beyond the first step: what it holds, nobody else can run."""

LEAST_REACH, REACH_FACTOR = 16, 4
"""A claim locks and judges as many steps as it asks for, those that its budget leaves included. So after one that took
few, the next asks for not many more."""

LOOK_BACK_SECONDS = 1.0
"""How often a busy executor looks at its queues from the front: see ``claim_steps``."""

DRY_SECONDS = 0.02
"""How long after an empty queue local continuations may go on without looking at it again."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Sizes that a step executor keeps to.

    Attributes:
        batch_size: most steps held at once.
        budget_ms: expected work held at once, in milliseconds.
        max_result_bytes: largest result of a step, as JSON.
        max_claim_bytes: parents' results above this size are read in pages.
    """

    batch_size: int = 200
    budget_ms: float = BUDGET_MS
    max_result_bytes: int = 1_048_576
    max_claim_bytes: int = 8_388_608


class StepExecutor(RegisteredExecutor):
    """One executor of steps, serving several queues fairly.

    The loop's thread claims and runs sync handlers; async ones run on an event loop of their own. Results leave through
    the ``Completer``, a ``Watchdog`` looks after what takes too long. What is held, and who may speak for it, is the
    business of ``HeldSteps``; receipts are the business of the incarnation's ``CallLedger``.

    Args:
        queues: names of the step queues it serves.
        database: where they are.
        worker: who hosts it.
        handlers: finds the code of steps.
        circuit: guards connecting to the database.
        circuits: guard the systems that steps need; of its own, in memory, when ``None``.
        stop: the stop signal of this process.
        grace: how long it may go on after that.
        limits: how much it takes.
        send: sends steps that are Celery tasks; ``None`` where there is no Celery.
        sink: takes the events of steps; ``None`` where nobody can want them.
    """

    def __init__(
        self,
        queues: tuple[str, ...],
        *,
        database: Database,
        worker: str,
        handlers: HandlerRegistry,
        circuit: Circuit,
        circuits: CircuitBreakers | None = None,
        stop: Raised,
        grace: GracePeriod,
        limits: StepLimits,
        send: StepSender | None = None,
        sink: EventSink | None = None,
    ) -> None:
        def link(purpose: str) -> Link:
            return Link(
                database,
                name=f"tasker step_executor {purpose}",
                circuit=circuit,
                give_up=grace.over,
                sleep=grace.sleep,
                patience=grace.patience,
            )

        super().__init__(ExecutorKind.STEP_EXECUTOR, queues, worker=worker, link=link("claim"), grace=grace)
        self._limits = limits
        self._circuits = StepCircuits(circuits or CircuitBreakers(), self.counters)
        self._preparer = Preparer(handlers, self._circuits, limits.max_result_bytes)
        self._held = HeldSteps()
        self._intake = Intake()
        self._domain_events = StepDomainEvents(Publishing(handlers, limits.max_result_bytes, self.counters.add))
        self._events = StepEvents(NoSink() if sink is None else sink, self.counters)
        # Written by the loop's thread and, when messages were sent to our own queues, by the completer's.
        self._dry_until = 0.0
        self._reach = limits.batch_size
        self._look_from: Mapping[str, str | None] = {}
        self._looked_back_at = 0.0
        self._resting = True
        reporting = Reporting(
            queues=queues,
            max_claim_bytes=limits.max_claim_bytes,
            held=self._held,
            intake=self._intake,
            notifier=Notifier(),
            counters=self.counters,
            events=self._events,
            circuits=self._circuits,
            domain_events=self._domain_events,
            lost=self.lost,
            queued=self._queued,
        )
        delegation = Delegation(send, self._preparer, self._submit)
        set_aside = SetAside(link("set aside"), reporting, delegate=delegation, notified=self._channels_came_up)
        self._completer = Completer(
            link("complete"),
            reporting,
            set_aside,
            allowance=self._allowance,
            delegate=delegation,
            arrived=self._arrived,
        )
        self._watchdog = Watchdog(
            self._held,
            stop=stop,
            grace=grace,
            submit=self._submit,
            give_back=self._completer.give_back,
            counters=self.counters,
            events=self._events,
        )
        self._runner = StepRunner(
            self._preparer,
            self._held,
            self._completer,
            self._circuits,
            prepare=self._domain_events.prepare,
            ask=self.call,
            attend=functools.partial(self._watchdog.attend, soon=True),
            beat_soon=self._beat_soon,
            counters=self.counters,
            concurrency=limits.batch_size,
        )

    # -- draining -------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether async handlers run, or results are on their way."""
        return self._held.count > 0 or self._completer.pending

    @property
    def holds(self) -> int:
        """How many steps it holds."""
        return self._held.count

    @property
    def works(self) -> bool:
        """Whether it holds steps: one whose time is over is settled, even if its handler still blocks the thread."""
        return self._held.count > 0

    def start(self) -> None:
        """Register, and start watching."""
        super().start()
        self._watchdog.start()

    def drain(self, limit: int) -> int:
        """Take a batch of at most ``limit`` steps, counting those held already, and run it.

        Returns:
            How many steps were started; async ones may still run.
        """
        self._resting = False
        try:
            self.start()
            if not self._is_ending():
                self._claim(min(limit, self._limits.batch_size))
        except ExecutorLost:
            return 0
        started = self._run_ready()
        self._completer.flush()
        return started

    def _claim(self, limit: int) -> None:
        now = time.monotonic()
        ready, running, work = self._held.load(now, self._limits.budget_ms)
        room, budget_ms = limit - ready - running, self._limits.budget_ms - work
        if room <= 0 or (ready and (budget_ms <= 0 or now < self._dry_until)):
            return
        if now - self._looked_back_at >= LOOK_BACK_SECONDS:
            self._look_from = {}
        if not self._look_from:
            self._looked_back_at = now
        looked_from = self._look_from
        incarnation = self.incarnation
        call_no, finished = incarnation.ledger.open()
        request = {
            "executor": incarnation.executor,
            "call_no": call_no,
            "queues": self.queues,
            "look_from": looked_from,
            "limit": min(room, self._reach),
            # With nothing else at hand the first step is taken whatever it costs.
            "budget_ms": max(budget_ms, 0.0) if ready else self._limits.budget_ms,
            "finished": finished,
            "known_templates": self._intake.known_templates(),
            "max_claim_bytes": self._limits.max_claim_bytes,
        }
        try:
            answer = self.take(functions.claim_steps(request))
        except BaseException:
            # Refused, or given up at the very end: either way nobody waits for the answer any more. A claim that was
            # carried out all the same leaves a receipt that counts as lost, and its steps return to their queues.
            incarnation.ledger.failed(call_no, finished)
            raise
        steps = self._intake.take(answer, incarnation, call_no)
        self._circuits.learn(answer, now, steps)
        incarnation.ledger.answered(call_no, len(steps))
        self._dry_until = now + DRY_SECONDS if answer["queue_empty"] else 0.0
        self._look_from = {} if answer["queue_empty"] else {q: m for q, m in answer["found_from"].items() if m}
        if not answer["queue_empty"]:
            self._reach = max(LEAST_REACH, REACH_FACTOR * len(steps))
        self.next_due_seconds = answer["next_due_seconds"]
        if answer["stop_requested"]:
            self.stop_requested = True
        if steps and not incarnation.lost:
            self._events.received(steps)
            self._held.add(steps)
            self.counters.add(claims=1, claimed=len(steps))
            self._watchdog.attend()
        else:
            self.counters.add(empty_claims=1)
            if looked_from and not incarnation.lost:
                self._claim(limit)  # nothing from there on, but perhaps before it

    def _allowance(self) -> tuple[int, float]:
        """How many steps a completion may hand back, and how much work they may be.

        At least a quarter of a batch is left to the queue, unless that is known to be empty.
        """
        if self._is_ending() or self._resting:
            return 0, 0.0
        now = time.monotonic()
        ready, running, work = self._held.load(now, self._limits.budget_ms)
        batch = self._limits.batch_size
        share = batch if now < self._dry_until or batch == 1 else batch - -(-batch // 4)
        limit, budget_ms = min(batch - running, share) - ready, self._limits.budget_ms - work
        if limit <= 0 or (budget_ms <= 0 and ready + running > 0):
            return 0, 0.0
        return limit, max(budget_ms, 0.0)

    def _run_ready(self) -> int:
        started = 0
        with self._runner.interruptible():
            # Once told to stop, what has not started is given back.
            while not self.grace.begun:
                step = self._held.start_next(time.monotonic())
                if step is None:
                    break
                started += 1
                self._events.started(step)
                self._runner.run(step)
        return started

    def _owes(self) -> bool:
        """Whether the database is to hear of a step yet, wherever that is on its way."""
        return self.incarnation.ledger.held > 0

    # -- what other threads call ----------------------------------------------------------------------------------

    def _submit(self, outcome: Outcome) -> None:
        self._completer.submit(outcome)

    def _beat_soon(self) -> None:
        self.beat_soon()

    def _channels_came_up(self) -> None:
        self._completer.channels_came_up()

    def _arrived(self) -> None:
        self._watchdog.attend()
        self.wake()

    def _queued(self, queues: Sequence[str]) -> None:
        if not set(queues).isdisjoint(self.queues):
            self._dry_until = 0.0
            self.wake()

    def forget(self, incarnation: Incarnation) -> None:
        """Drop what was held under a lost incarnation: others run it by now."""
        for step in self._held.drop(incarnation, "the executor was declared lost"):
            self._circuits.unused([step])
            self._runner.stop_if_async(step)

    def steps_lost(self, steps: list[dict[str, Any]]) -> None:
        """Steps that were cancelled or taken away: tell their handlers, and drop them."""
        reasons = {
            (step["task_uuid"], step["position"], step["map_index"], step["fence"]): str(step["reason"])
            for step in steps
        }
        gone = self._held.cancel(reasons)
        self._circuits.unused(gone)
        for step in gone:
            step.incarnation.ledger.settled(step.call_no)
            self._runner.stop_if_async(step)
        self._events.revoked(step for step in gone if step.cancelled == "cancelled")
        self.counters.add(cancelled=len(gone))

    def expected_ms(self) -> tuple[Mapping[str, float], Callable[[], None]]:
        """The averages that changed, for a heartbeat."""
        report = self._runner.averages.take_report()
        named = {f"{task}:{position}": milliseconds for (task, position), milliseconds in report.items()}
        return named, functools.partial(self._runner.averages.report_lost, report)

    # -- the end --------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Take nothing back from completions; what was taken and not started is given back by the watchdog."""
        self._resting = True

    def stop(self, grace_seconds: float) -> None:
        """Give back what has not started, let finish what runs, report all of it, and deregister."""
        self.rest()
        self.grace.begin(grace_seconds)
        self._completer.give_back(self._held.take_unstarted())
        while self._held.running and not self.grace.over():
            self.grace.sleep(0.005)
        end_running(self._held, self._submit, self._completer.give_back)
        if not self._completer.drain(time.monotonic() + max(1.0, self.grace.remaining()), awaited=self._owes):
            logger.warning("not everything could be reported before the executor had to end; others will run it again")
        self._events.flush()
        self.deregister()

    def close(self) -> None:
        """End the threads and close the connections."""
        self._runner.close()
        self._watchdog.close()
        self._completer.close()
        self._domain_events.close()
        super().close()
