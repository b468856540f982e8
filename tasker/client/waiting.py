"""Waiting for tasks to finish: woken by notifications, with polling from 20 ms to 1 s behind them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from itertools import islice
from typing import TypeAlias
from uuid import UUID

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from tasker.client.connections import Connections
from tasker.client.finish_signal import FinishSignal
from tasker.client.operations import Operation
from tasker.database import reads
from tasker.database.connection import is_connection_lost
from tasker.database.records import TaskState
from tasker.errors import InvalidRequest, NotFound, TaskTimeout

logger = logging.getLogger(__name__)

_FIRST_POLL_SECONDS = 0.02
_LAST_POLL_SECONDS = 1.0
_LOOK_AT_ONCE = 50
_LEAST_PATIENCE_SECONDS = 1.0
"""How long the server may take for its answer however little time is left."""

States: TypeAlias = dict[UUID, TaskState]


def wait(
    connections: Connections,
    signal: FinishSignal,
    task_uuids: Iterable[UUID],
    *,
    timeout_seconds: float | None,
    finalized: bool,
) -> States:
    """Wait until all tasks have finished, and return their states.

    Once the tasks have been seen, a restart of the database does not end the waiting.

    Raises:
        TaskTimeout: some have not in time.
        NotFound: some cannot be seen: unknown, or created in a transaction that has not committed.
    """
    pending = _Pending(task_uuids, timeout_seconds, finalized=finalized)
    connections.drive(pending.look(), patience_seconds=pending.patience_seconds())
    if pending.done:
        return pending.states
    woken = threading.Event()
    with signal.heard_by(woken.set, pending.patience_seconds()):
        while True:
            woken.clear()
            try:
                signal.keep_alive(pending.patience_seconds())
                connections.drive(pending.look(), patience_seconds=pending.patience_seconds())
            except (psycopg.Error, SQLAlchemyError) as error:
                pending.survive(error)
            if pending.done:
                return pending.states
            woken.wait(pending.pause_seconds())


async def wait_async(
    connections: Connections,
    signal: FinishSignal,
    task_uuids: Iterable[UUID],
    *,
    timeout_seconds: float | None,
    finalized: bool,
) -> States:
    """As ``wait``, without blocking the event loop."""
    pending = _Pending(task_uuids, timeout_seconds, finalized=finalized)
    await connections.adrive(pending.look(), patience_seconds=pending.patience_seconds())
    if pending.done:
        return pending.states
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    heard = signal.heard_by(lambda: loop.call_soon_threadsafe(woken.set), pending.patience_seconds())
    await asyncio.to_thread(heard.__enter__)
    try:
        while True:
            woken.clear()
            try:
                await asyncio.to_thread(signal.keep_alive, pending.patience_seconds())
                await connections.adrive(pending.look(), patience_seconds=pending.patience_seconds())
            except (psycopg.Error, SQLAlchemyError) as error:
                pending.survive(error)
            if pending.done:
                return pending.states
            pause_seconds = pending.pause_seconds()  # outside: its TaskTimeout is a TimeoutError, too
            try:
                await asyncio.wait_for(woken.wait(), pause_seconds)
            except TimeoutError:
                pass
    finally:
        heard.__exit__(None, None, None)


class _Pending:
    """What is still waited for; knows when to look again and when to give up."""

    def __init__(self, task_uuids: Iterable[UUID], timeout_seconds: float | None, *, finalized: bool) -> None:
        if timeout_seconds is not None and timeout_seconds < 0:
            raise InvalidRequest(f"a timeout of {timeout_seconds} s lies in the past", field="timeout")
        self.states: States = {}
        self._finalized = finalized
        self._timeout_seconds = timeout_seconds
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._open = dict.fromkeys(task_uuids)
        self._poll_seconds = _FIRST_POLL_SECONDS
        self._lost: BaseException | None = None

    @property
    def done(self) -> bool:
        return not self._open

    def look(self) -> Operation[None]:
        """Ask for the states of those that are open; raises when a task is not there.

        All of them at first, later the foremost ones until some of these are still open: a look costs the same however
        many are waited for.
        """
        asked = list(self._open) if not self.states else self._foremost()
        while asked:
            seen: States = yield reads.task_states(asked)
            self._lost = None
            for task_uuid in asked:
                self._take(task_uuid, seen.get(task_uuid))
            if not self._open.keys().isdisjoint(asked):
                return
            asked = self._foremost()

    def _foremost(self) -> list[UUID]:
        return list(islice(self._open, _LOOK_AT_ONCE))

    def _take(self, task_uuid: UUID, state: TaskState | None) -> None:
        if state is None:
            raise NotFound(
                f"task {task_uuid} cannot be waited for: it is not there",
                hint="if it was created in a transaction, commit that first",
                field="task_uuid",
            )
        self.states[task_uuid] = state
        if (state.finalized_at if self._finalized else state.finished_at) is not None:
            del self._open[task_uuid]

    def survive(self, error: BaseException) -> None:
        """Go on looking although the connection was lost: the server may come back, and the task with it."""
        if not is_connection_lost(error):
            raise error
        if self._lost is None:
            logger.warning("the database was lost while waiting for tasks; looking again until it is back: %s", error)
        self._lost = error

    def patience_seconds(self) -> float | None:
        """How long the server may be silent now."""
        if self._deadline is None:
            return None
        return max(_LEAST_PATIENCE_SECONDS, self._deadline - time.monotonic())

    def pause_seconds(self) -> float:
        """How long to sleep before the next look; raises when time is up."""
        pause, self._poll_seconds = self._poll_seconds, min(2 * self._poll_seconds, _LAST_POLL_SECONDS)
        if self._deadline is None:
            return pause
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._timed_out() from self._lost
        return min(pause, left)

    def _timed_out(self) -> TaskTimeout:
        first = next(iter(self._open))
        others = f" and {len(self._open) - 1} others" if len(self._open) > 1 else ""
        aim = "finalized" if self._finalized else "finished"
        return TaskTimeout(
            f"task {first} ({self.states[first].state}){others} not {aim} within {self._timeout_seconds:g} s",
            hint=f"it goes on; `tasker task why {first}` says what it waits for",
        )
