"""A task in the hands of the program that started it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasker.database.records import TaskRecord, TaskState

if TYPE_CHECKING:
    from tasker.client.tasker import Tasker


class TaskHandle:
    """A task, and the client through which to follow it.

    Attributes:
        task_uuid: its uuid.
        is_new: whether ``create`` made it; ``False``: it was there, under the same identity.
        same_context: of a task that was there: whether its context is the one given now.
    """

    def __init__(self, client: Tasker, task_uuid: UUID, *, is_new: bool = False, same_context: bool = True) -> None:
        self._client = client
        self.task_uuid = task_uuid
        self.is_new = is_new
        self.same_context = same_context

    def __repr__(self) -> str:
        return f"TaskHandle({str(self.task_uuid)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskHandle) and other.task_uuid == self.task_uuid

    def __hash__(self) -> int:
        return hash(self.task_uuid)

    def wait(self, timeout: float | None = None, *, finalized: bool = False) -> TaskState:
        """Wait until the task has finished, in whatever state; see ``Tasker.wait``."""
        return self._client.wait(self, timeout, finalized=finalized)

    async def wait_async(self, timeout: float | None = None, *, finalized: bool = False) -> TaskState:  # noqa: ASYNC109
        """As ``wait``, for event loops."""
        return await self._client.wait_async(self, timeout, finalized=finalized)

    @property
    def state(self) -> str:
        """The task's state, read now."""
        return self.record.state

    @property
    def record(self) -> TaskRecord:
        """All about the task, read now."""
        return self._client.get(self)

    @property
    def results(self) -> dict[str, Any]:
        """What its steps returned so far, by step name, read now."""
        return self._client.results(self)

    async def astate(self) -> str:
        """The task's state, read now."""
        return (await self.arecord()).state

    async def arecord(self) -> TaskRecord:
        """All about the task, read now."""
        return await self._client.aget(self)

    async def aresults(self) -> dict[str, Any]:
        """What its steps returned so far, by step name, read now."""
        return await self._client.aresults(self)
