"""Following a task live: its state changes and its steps', as they are committed."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

from tasker.client.connections import Connections
from tasker.client.operations import Operation, get_task
from tasker.database import reads
from tasker.database.records import TransitionRecord

_FIRST_POLL_SECONDS = 0.05
_LAST_POLL_SECONDS = 0.5
# Rows carry the time at which they were written, and are seen at their commit: look back that far for late ones.
_OVERLAP = dt.timedelta(seconds=10)


class Watch:
    """The transitions of one task, first those so far, then each as it happens, until the task has finished.

    Iterate over it with ``for`` or with ``async for``.
    """

    def __init__(self, connections: Connections, task_uuid: UUID) -> None:
        self._connections = connections
        self._task_uuid = task_uuid
        self._seen: dict[TransitionRecord, None] = {}
        self._since: dt.datetime | None = None

    def __iter__(self) -> Iterator[TransitionRecord]:
        poll_seconds = _FIRST_POLL_SECONDS
        while True:
            finished, fresh = self._connections.drive(self._look())
            yield from fresh
            if finished:
                return
            poll_seconds = _next_poll(poll_seconds, bool(fresh))
            time.sleep(poll_seconds)

    async def __aiter__(self) -> AsyncIterator[TransitionRecord]:
        poll_seconds = _FIRST_POLL_SECONDS
        while True:
            finished, fresh = await self._connections.adrive(self._look())
            for transition in fresh:
                yield transition
            if finished:
                return
            poll_seconds = _next_poll(poll_seconds, bool(fresh))
            await asyncio.sleep(poll_seconds)

    def _look(self) -> Operation[tuple[bool, list[TransitionRecord]]]:
        # The state first: a task that was finished by then has committed all its transitions.
        task = yield from get_task(self._task_uuid)
        transitions = yield reads.transitions(self._task_uuid, since=self._since)
        fresh = [transition for transition in transitions if transition not in self._seen]
        if transitions:
            self._since = transitions[-1].at - _OVERLAP
        self._seen = {seen: None for seen in (*self._seen, *fresh) if self._since is None or seen.at >= self._since}
        return task.is_finished, fresh


def _next_poll(poll_seconds: float, something_happened: bool) -> float:
    return _FIRST_POLL_SECONDS if something_happened else min(2 * poll_seconds, _LAST_POLL_SECONDS)
