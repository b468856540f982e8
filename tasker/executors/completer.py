"""Sends outcomes on their way, so that no handler waits for another's, and gives back what was not started in time.

Outcomes gather while a commit is in flight and go out together behind it. The runner's thread flushes them itself when
it has nothing else to run, which costs no hand-over between threads; the completer's own thread does it once an outcome
has waited for ``LINGER_SECONDS`` behind a handler that takes longer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from tasker.database import functions
from tasker.errors import ExecutorLost
from tasker.executors.held import HeldStep
from tasker.executors.link import Link
from tasker.executors.outcomes import Outcome
from tasker.executors.set_aside import SetAside
from tasker.executors.submission import Reporting, Sent, submit
from tasker.messaging.queues import channel_name
from tasker.resilience.reconnecting import GaveUp

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.005
MAX_OUTCOMES = 500
"""Most outcomes of one call."""

AFTER_FAILURE_SECONDS = 0.5


class Completer:
    """The way back of one step executor.

    ``_state`` owns what has gathered; ``_calling`` owns the connection and is held during its calls, by whichever
    thread flushes. ``_state`` may be taken while ``_calling`` is held, never the other way round.

    Args:
        link: the connection for completions.
        reporting: the executor, as submissions need it.
        set_aside: takes outcomes whose task is locked by somebody else.
        allowance: how many steps may be handed back now, and how many milliseconds of work they may be.
        delegate: sends steps to their Celery tasks; called without any lock held.
        arrived: called when the completer's thread has brought steps to run.
    """

    def __init__(
        self,
        link: Link,
        reporting: Reporting,
        set_aside: SetAside,
        *,
        allowance: Callable[[], tuple[int, float]],
        delegate: Callable[[Sequence[HeldStep]], None],
        arrived: Callable[[], None],
    ) -> None:
        self._link = link
        self._reporting = reporting
        self._set_aside = set_aside
        self._allowance = allowance
        self._delegate = delegate
        self._arrived = arrived
        self._calling = threading.Lock()
        self._state = threading.Condition()
        self._gathered: list[Outcome] = []
        self._first_at = 0.0
        self._returned: list[HeldStep] = []
        self._in_flight = 0
        self._not_before = 0.0
        self._thread: threading.Thread | None = None
        self._closing = False

    # -- what comes in --------------------------------------------------------------------------------------------

    def submit(self, outcome: Outcome, *, flush_follows: bool = False) -> None:
        """Take over ``outcome``. With ``flush_follows`` the caller flushes at once, so no other thread need wake up."""
        self._reporting.circuits.ended(outcome)
        with self._state:
            self._gathered.append(outcome)
            if len(self._gathered) == 1:
                self._first_at = time.monotonic()
                if not flush_follows:
                    self._wake()

    def give_back(self, steps: Sequence[HeldStep]) -> None:
        """Take over steps that did not start: they are released without spending their attempt."""
        if steps:
            self._reporting.circuits.unused(steps)
            with self._state:
                self._returned.extend(steps)
                self._wake()

    def channels_came_up(self) -> None:
        """The notifier got channels from elsewhere: see to it that they go out."""
        with self._state:
            self._wake()

    @property
    def pending(self) -> bool:
        """Whether anything is still on its way."""
        with self._state:
            if self._gathered or self._returned or self._in_flight:
                return True
        return self._set_aside.pending

    # -- the runner's thread --------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Report what has gathered, now and on the caller's thread; how many steps were handed back."""
        with self._calling:
            sent = self._send()
        self._follow_up(sent)
        return sent.continued

    def drain(self, until: float, *, awaited: Callable[[], bool]) -> bool:
        """Wait until everything is reported and released; false if it is not by ``until`` (``time.monotonic()``).

        Args:
            until: when to stop waiting.
            awaited: whether more is to come: another thread may have settled a step and not handed it over yet.
        """
        with self._state:
            self._not_before = 0.0
            self._wake()
        # Asked first: what comes from there is pending here by the time it is awaited no more.
        while awaited() or self.pending:
            if time.monotonic() >= until:
                return False
            if self._gathered:
                self.flush()
            else:
                time.sleep(0.002)
        with self._calling:
            self._notify(force=True)
        return True

    def close(self) -> None:
        """End the thread, once its present call has returned, and close the connections."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._set_aside.close()
        if self._thread is not None:
            self._thread.join()
        self._link.close()

    # -- the completer's thread -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="tasker-completer", daemon=True)
            self._thread.start()
        self._state.notify()

    def _run(self) -> None:
        while True:
            with self._state:
                while not self._closing:
                    wait = self._due_in(time.monotonic())
                    if wait is not None and wait <= 0:
                        break
                    self._state.wait(wait)
                if self._closing:
                    return
            try:
                with self._calling:
                    sent = self._send(only_if_due=True)
                self._follow_up(sent)
                if sent.continued:
                    self._arrived()
                self._release()
                with self._calling:
                    self._notify()
            except GaveUp:
                return
            except Exception:
                # Nothing is lost: what could not be sent has gathered again, or stays held until the executor ends.
                logger.exception("reporting outcomes failed; trying again")
                with self._state:
                    self._not_before = time.monotonic() + AFTER_FAILURE_SECONDS

    def _due_in(self, now: float) -> float | None:
        """Seconds until there is something to do; ``None`` when there is nothing."""
        waits = []
        if self._returned:
            waits.append(0.0)
        if self._gathered:
            waits.append(self._first_at + LINGER_SECONDS - now)
        notify = self._reporting.notifier.due_in()
        if notify is not None:
            waits.append(notify)
        return max(min(waits), self._not_before - now) if waits else None

    # -- calls, with _calling held --------------------------------------------------------------------------------

    def _send(self, *, only_if_due: bool = False) -> Sent:
        sent = Sent()
        with self._state:
            due = self._gathered and (not only_if_due or time.monotonic() >= self._first_at + LINGER_SECONDS)
            if not due:
                return sent
            outcomes = self._gathered[:MAX_OUTCOMES]
            del self._gathered[:MAX_OUTCOMES]
            if self._gathered:
                self._wake()
            self._in_flight += len(outcomes)
        try:
            self._reporting.circuits.tell(outcomes)
            limit, budget_ms = self._allowance()
            submit(self._link, self._reporting, outcomes, sent, continue_limit=limit, budget_ms=budget_ms)
            # Before they stop to count as in flight: what is pending must be seen in one place or the other.
            self._set_aside.add(sent.busy)
        except BaseException:
            # Whatever it was: nothing that is not known to be recorded may be lost. Recording twice does no harm.
            with self._state:
                self._gathered[:0] = [outcome for outcome in outcomes if not outcome.answered]
                self._first_at = time.monotonic()
            self._delegate(sent.delegated)
            raise
        finally:
            with self._state:
                self._in_flight -= len(outcomes)
        self._notify()
        if self._reporting.notifier.due_in() is not None:
            self.channels_came_up()
        return sent

    def _notify(self, *, force: bool = False) -> None:
        channels = self._reporting.notifier.take(force=force)
        if channels:
            self._link.call(functions.notify(channels))

    def _release(self) -> None:
        with self._state:
            steps, self._returned = self._returned, []
            self._in_flight += len(steps)
        try:
            # Steps of a lost incarnation are others' already.
            for incarnation in {step.incarnation for step in steps if not step.incarnation.lost}:
                mine = [step for step in steps if step.incarnation is incarnation]
                finished = incarnation.ledger.take_finished()
                request = {
                    "executor": incarnation.executor,
                    "steps": [step.key() for step in mine],
                    "finished": finished,
                }
                try:
                    with self._calling:
                        answer = self._link.call(functions.release_steps(request))
                except ExecutorLost:
                    self._reporting.lost(incarnation)
                    continue
                except BaseException:
                    incarnation.ledger.failed(None, finished)
                    raise
                for step in mine:
                    incarnation.ledger.settled(step.call_no)
                self._reporting.counters.add(released=answer["released"])
                self._reporting.notifier.add([channel_name(queue) for queue in answer["queues"]])
        except BaseException:
            with self._state:
                self._returned[:0] = steps
            raise
        finally:
            with self._state:
                self._in_flight -= len(steps)

    def _follow_up(self, sent: Sent) -> None:
        if sent.delegated:
            self._delegate(sent.delegated)
