"""Outcomes whose task is locked by somebody else: kept out of everyone's way, and tried one task at a time.

A task's row may be locked for a millisecond (another executor completes its neighbour in a fan-in) or for minutes (a
user's open transaction). Whoever waits for it must not hold another task meanwhile, and no other outcome may wait
behind it. So there is a thread of its own, with a connection of its own, that waits for one task for a short time, then
for the next; both exist only while there is something to wait for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from tasker.errors import TaskerError
from tasker.executors.held import HeldStep
from tasker.executors.link import Link, is_transient
from tasker.executors.outcomes import Outcome
from tasker.executors.submission import Reporting, Sent, submit
from tasker.resilience.reconnecting import GaveUp

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_MS = 100
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""How long the thread and its connection outlive the last outcome."""


class _Waiting:
    """The outcomes of one task, and when to try them again."""

    __slots__ = ("not_before", "outcomes", "pause")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.pause = FIRST_PAUSE_SECONDS
        self.not_before = 0.0


class SetAside:
    """What waits, by task. ``_state`` owns all of it; the calls are made outside of it, by the one thread.

    Args:
        link: opened while there is something to wait for.
        reporting: the executor, as submissions need it.
        delegate: sends steps to their Celery tasks.
        notified: called when there may be channels to notify.
    """

    def __init__(
        self,
        link: Link,
        reporting: Reporting,
        *,
        delegate: Callable[[Sequence[HeldStep]], None],
        notified: Callable[[], None],
    ) -> None:
        self._link = link
        self._reporting = reporting
        self._delegate = delegate
        self._notified = notified
        self._state = threading.Condition()
        self._tasks: dict[str, _Waiting] = {}
        self._in_flight = False
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take over outcomes that were answered ``busy``."""
        if not outcomes:
            return
        with self._state:
            for outcome in outcomes:
                self._tasks.setdefault(outcome.step.task_uuid, _Waiting()).outcomes.append(outcome)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="tasker-set-aside", daemon=True)
                self._thread.start()
            self._state.notify()

    @property
    def pending(self) -> bool:
        """Whether anything waits."""
        with self._state:
            return bool(self._tasks) or self._in_flight

    @property
    def waiting(self) -> int:
        """How many tasks are waited for."""
        with self._state:
            return len(self._tasks)

    def close(self) -> None:
        """End the thread and close the connection. What still waits is lost to this executor: others run it again."""
        with self._state:
            self._closing = True
            self._state.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._link.close()

    def _run(self) -> None:
        while True:
            due = self._next()
            if due is None:
                return
            task_uuid, waiting = due
            try:
                self._try(waiting.outcomes)
            except GaveUp:
                pass
            except (psycopg.Error, TaskerError) as error:
                if not is_transient(error):
                    logger.exception("an outcome that was set aside could not be reported; trying again")
            left = [outcome for outcome in waiting.outcomes if not outcome.answered]
            with self._state:
                self._in_flight = False
                if left:
                    waiting.outcomes = left
                    waiting.not_before = time.monotonic() + waiting.pause
                    waiting.pause = min(waiting.pause * 2, LONGEST_PAUSE_SECONDS)
                    since = self._tasks.get(task_uuid)
                    if since is not None:
                        waiting.outcomes.extend(since.outcomes)
                    self._tasks[task_uuid] = waiting

    def _try(self, outcomes: Sequence[Outcome]) -> None:
        sent = Sent()
        try:
            submit(self._link, self._reporting, outcomes, sent, lock_timeout_ms=LOCK_TIMEOUT_MS)
        finally:
            self._delegate(sent.delegated)
            self._notified()

    def _next(self) -> tuple[str, _Waiting] | None:
        """The task whose turn it is, once it is; ``None`` when the thread is to end."""
        with self._state:
            idle_until = time.monotonic() + IDLE_SECONDS
            while True:
                if self._closing:
                    self._thread = None
                    return None
                now = time.monotonic()
                if self._tasks:
                    task_uuid, waiting = min(self._tasks.items(), key=lambda item: item[1].not_before)
                    if waiting.not_before <= now:
                        del self._tasks[task_uuid]
                        self._in_flight = True
                        return task_uuid, waiting
                    self._state.wait(waiting.not_before - now)
                elif now < idle_until:
                    self._state.wait(idle_until - now)
                else:
                    self._thread = None
                    self._link.drop()
                    return None
