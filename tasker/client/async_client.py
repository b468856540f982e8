"""The client's face for event loops: the same methods, an ``a`` in front.

``a`` and ``wait`` make a keyword, so that one is called ``wait_async``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from tasker.client import dead_letters as letters
from tasker.client import namespaces, operations, waiting
from tasker.client.core import ClientCore, ScheduledTaskOptions, TaskFilters, TaskOptions
from tasker.client.dead_letters import Batches, DeadLetterChange, DeadLetterFilters
from tasker.client.handle import TaskHandle
from tasker.client.namespaces import UNCHANGED, Unchanged
from tasker.client.operations import TaskChange
from tasker.client.requests import TaskRequest, as_uuid
from tasker.client.schedules import ScheduleChange
from tasker.database import reads
from tasker.database import schedules as reading
from tasker.database.calls import AsyncTarget
from tasker.database.records import (
    DeadLetterPage,
    DeadLetterRecord,
    NamespaceRecord,
    StepRecord,
    TaskPage,
    TaskRecord,
    TaskState,
    TransitionRecord,
)
from tasker.database.schedules import ScheduleRecord

if TYPE_CHECKING:
    from uuid import UUID

    from tasker.client.core import Step, Task


class AsyncClient(ClientCore):
    """The methods of ``SyncClient`` as coroutines, where arguments, returns and errors are described.

    ``connection`` is a psycopg ``AsyncConnection``, or a SQLAlchemy ``AsyncConnection`` or ``AsyncSession``.
    """

    async def acreate(
        self,
        namespace: str,
        name: str,
        context: Any = None,
        *,
        connection: AsyncTarget | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:
        """Start a workflow; see ``create``."""
        request = TaskRequest(namespace=namespace, name=name, context=context, **options)
        return (await self.acreate_many([request], connection=connection))[0]

    async def acreate_many(
        self,
        requests: Iterable[TaskRequest | Mapping[str, Any]],
        *,
        connection: AsyncTarget | None = None,
    ) -> tuple[TaskHandle, ...]:
        """Start many workflows at once, all or none; see ``create_many``."""
        created = await self._connections.adrive(self._creating(requests), connection)
        return tuple(self._handle(entry) for entry in created)

    async def wait_async(
        self,
        task: Task,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        finalized: bool = False,
    ) -> TaskState:
        """Wait until a task has finished; see ``wait``."""
        task_uuid = as_uuid(task)
        return (await self.wait_all_async([task_uuid], timeout, finalized=finalized))[task_uuid]

    async def wait_all_async(
        self,
        tasks: Iterable[Task],
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        finalized: bool = False,
    ) -> dict[UUID, TaskState]:
        """Wait until all these tasks have finished; see ``wait``."""
        return await waiting.wait_async(
            self._connections,
            self._signal,
            [as_uuid(task) for task in tasks],
            timeout_seconds=timeout,
            finalized=finalized,
        )

    async def aget(self, task: Task, *, connection: AsyncTarget | None = None) -> TaskRecord:
        """All about a task; see ``get``."""
        return await self._connections.adrive(operations.get_task(as_uuid(task)), connection)

    async def asteps(self, task: Task, *, connection: AsyncTarget | None = None) -> tuple[StepRecord, ...]:
        """The steps of a task; see ``steps``."""
        return await self._connections.adrive(operations.get_steps(as_uuid(task)), connection)

    async def aresults(self, task: Task, *, connection: AsyncTarget | None = None) -> dict[str, Any]:
        """What the steps of a task returned so far; see ``results``."""
        return await self._connections.adrive(operations.get_results(as_uuid(task)), connection)

    async def ahistory(self, task: Task, *, connection: AsyncTarget | None = None) -> tuple[TransitionRecord, ...]:
        """All state changes of a task and its steps; see ``history``."""
        return await self._connections.adrive(operations.get_history(as_uuid(task)), connection)

    async def alist(self, *, connection: AsyncTarget | None = None, **filters: Unpack[TaskFilters]) -> TaskPage:
        """A page of tasks, newest first; see ``list``."""
        return await self._connections.adrive(self._listing(filters), connection)

    async def awhy(self, task: Task, *, connection: AsyncTarget | None = None) -> Any:
        """Why a task is not running; see ``why``."""
        return await self._connections.adrive(operations.explain(as_uuid(task)), connection)

    async def acancel(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> TaskChange:
        """End a task at once; see ``cancel``."""
        return await self._connections.adrive(self._changing("cancel", task, reason, by), connection)

    async def apause(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> TaskChange:
        """Let running steps finish and start no others; see ``pause``."""
        return await self._connections.adrive(self._changing("pause", task, reason, by), connection)

    async def aresume(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> TaskChange:
        """Go on with a paused task; see ``resume``."""
        return await self._connections.adrive(self._changing("resume", task, reason, by), connection)

    async def alist_namespaces(self, *, connection: AsyncTarget | None = None) -> tuple[NamespaceRecord, ...]:
        """All namespaces by name; see ``list_namespaces``."""
        return await self._connections.adrive(operations.ask(reads.namespaces()), connection)

    async def apause_namespace(
        self, name: str, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> NamespaceRecord:
        """Start nothing more of a namespace until it is resumed; see ``pause_namespace``."""
        pausing = namespaces.pause(name, paused=True, by=self._by(by), reason=reason)
        return await self._connections.adrive(pausing, connection)

    async def aresume_namespace(
        self, name: str, *, by: str | None = None, connection: AsyncTarget | None = None
    ) -> NamespaceRecord:
        """Go on with a paused namespace; see ``pause_namespace``."""
        resuming = namespaces.pause(name, paused=False, by=self._by(by), reason=None)
        return await self._connections.adrive(resuming, connection)

    async def alimit_namespace(
        self,
        name: str,
        *,
        max_concurrency: int | Unchanged | None = UNCHANGED,
        rate: tuple[int, float] | Unchanged | None = UNCHANGED,
        connection: AsyncTarget | None = None,
    ) -> NamespaceRecord:
        """Limit how many steps of a namespace's queue run at once and start in a time; see ``limit_namespace``."""
        return await self._connections.adrive(namespaces.limit(name, max_concurrency, rate), connection)

    async def aretry(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> TaskChange:
        """Run a failed task again from its failed steps; see ``retry``."""
        return await self._connections.adrive(self._retrying(task, reason, by), connection)

    async def aresolve_task(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: AsyncTarget | None = None
    ) -> TaskChange:
        """Close a task by hand; see ``resolve_task``."""
        return await self._connections.adrive(self._resolving_task(task, reason, by), connection)

    async def aresolve_step(
        self,
        task: Task,
        step: Step,
        results: Any,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: AsyncTarget | None = None,
    ) -> TaskChange:
        """Settle a step by hand; see ``resolve_step``."""
        return await self._connections.adrive(self._resolving_step(task, step, results, reason, by), connection)

    async def areset_step(
        self,
        task: Task,
        step: Step,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: AsyncTarget | None = None,
    ) -> TaskChange:
        """Run one step again; see ``reset_step``."""
        return await self._connections.adrive(self._resetting_step(task, step, reason, by), connection)

    async def adead_letters(
        self,
        *,
        include_closed: bool = False,
        after: int | None = None,
        limit: int = 50,
        connection: AsyncTarget | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterPage:
        """A page of dead letters; see ``dead_letters``."""
        operation = self._listing_letters(filters, include_closed=include_closed, after=after, limit=limit)
        return await self._connections.adrive(operation, connection)

    async def adead_letter(self, letter: int, *, connection: AsyncTarget | None = None) -> DeadLetterRecord:
        """One dead letter by its number; see ``dead_letter``."""
        return await self._connections.adrive(letters.get(letter), connection)

    async def aretry_dead_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None = None,
        *,
        everything: bool = False,
        message: dict[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
        batch_size: int = letters.BATCH,
        progress: Callable[[int], object] | None = None,
        connection: AsyncTarget | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterChange:
        """Run the steps of dead letters again; see ``retry_dead_letters``."""
        batches = self._retrying_letters(
            ids, filters, everything=everything, message=message, reason=reason, by=by, batch_size=batch_size
        )
        return await self._ain_batches(batches, progress, connection)

    async def adismiss_dead_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None = None,
        *,
        everything: bool = False,
        reason: str | None = None,
        by: str | None = None,
        batch_size: int = letters.BATCH,
        progress: Callable[[int], object] | None = None,
        connection: AsyncTarget | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterChange:
        """Close dead letters of messages; see ``dismiss_dead_letters``."""
        batches = self._dismissing_letters(
            ids, filters, everything=everything, reason=reason, by=by, batch_size=batch_size
        )
        return await self._ain_batches(batches, progress, connection)

    async def aresolve_dead_letter(
        self,
        letter: int | DeadLetterRecord,
        results: Any,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: AsyncTarget | None = None,
    ) -> TaskChange:
        """Settle the step of a dead letter by hand; see ``resolve_dead_letter``."""
        return await self._connections.adrive(self._resolving_letter(letter, results, reason, by), connection)

    async def _ain_batches(
        self, batches: Batches, progress: Callable[[int], object] | None, connection: AsyncTarget | None
    ) -> DeadLetterChange:
        while not batches.is_over:
            await self._connections.adrive(batches.next(), connection)
            if progress is not None:
                progress(batches.done)
        return batches.change()

    async def aadd_schedule(
        self,
        name: str,
        namespace: str,
        workflow: str,
        context: Any = None,
        *,
        cron: str | None = None,
        every: dt.timedelta | float | None = None,
        starts_at: dt.datetime | None = None,
        time_zone: str = "UTC",
        catch_up: str = "last",
        replace: bool = False,
        by: str | None = None,
        connection: AsyncTarget | None = None,
        **options: Unpack[ScheduledTaskOptions],
    ) -> ScheduleChange:
        """Start a workflow again and again, by the clock; see ``add_schedule``."""
        request = TaskRequest(namespace=namespace, name=workflow, context=context, **options)
        return await self._connections.adrive(
            self._adding_schedule(
                name,
                request,
                cron=cron,
                every=every,
                starts_at=starts_at,
                time_zone=time_zone,
                catch_up=catch_up,
                replace=replace,
                by=by,
            ),
            connection,
        )

    async def alist_schedules(self, *, connection: AsyncTarget | None = None) -> tuple[ScheduleRecord, ...]:
        """All schedules, by name."""
        return await self._connections.adrive(operations.ask(reading.schedules()), connection)

    async def apause_schedule(
        self, name: str, *, by: str | None = None, connection: AsyncTarget | None = None
    ) -> ScheduleChange:
        """Fire no slots until it is resumed; see ``pause_schedule``."""
        return await self._connections.adrive(self._changing_schedule(name, "pause", by), connection)

    async def aresume_schedule(
        self, name: str, *, by: str | None = None, connection: AsyncTarget | None = None
    ) -> ScheduleChange:
        """Go on with the next slot after now; see ``resume_schedule``."""
        return await self._connections.adrive(self._changing_schedule(name, "resume", by), connection)

    async def aremove_schedule(
        self, name: str, *, by: str | None = None, connection: AsyncTarget | None = None
    ) -> ScheduleChange:
        """Forget a schedule; see ``remove_schedule``."""
        return await self._connections.adrive(self._changing_schedule(name, "remove", by), connection)
