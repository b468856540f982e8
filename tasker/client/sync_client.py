"""The client's face for ordinary programs."""

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
from tasker.database.calls import Target
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


class SyncClient(ClientCore):
    """Methods that block.

    All but the waiting ones take ``connection``: a psycopg connection, a SQLAlchemy connection or session. What they do
    is then part of its transaction, which is never committed here.
    """

    def create(
        self,
        namespace: str,
        name: str,
        context: Any = None,
        *,
        connection: Target | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:
        """Start a workflow: enqueued when this returns, or when the caller's transaction commits.

        Args:
            namespace: the workflow's namespace.
            name: the workflow's name.
            context: what it is started with: a dict of JSON values, a pydantic model or a dataclass.
            connection: the transaction to be part of; ``None``: one of the client's own.
            options: see ``TaskRequest``.

        Returns:
            The task's handle; with ``is_new`` ``False`` where the identity existed.

        Raises:
            UnknownTemplate: no such workflow, or no such version of it, is registered.
            ContextInvalid: the context does not fit the workflow's input schema; ``field`` is the place.
            ValueNotStorable: it holds something that JSON cannot carry.
            PayloadTooLarge: it is larger than the workflow allows.
            InvalidRequest: another argument is wrong; ``field`` names it.
        """
        request = TaskRequest(namespace=namespace, name=name, context=context, **options)
        return self.create_many([request], connection=connection)[0]

    def create_many(
        self,
        requests: Iterable[TaskRequest | Mapping[str, Any]],
        *,
        connection: Target | None = None,
    ) -> tuple[TaskHandle, ...]:
        """Start many workflows at once, all or none; handles in the order of the requests.

        Args:
            requests: ``TaskRequest`` objects, or dicts of their fields.
            connection: see ``create``.

        Raises:
            TaskerError: as ``create``; the message names the request.
        """
        created = self._connections.drive(self._creating(requests), connection)
        return tuple(self._handle(entry) for entry in created)

    def wait(self, task: Task, timeout: float | None = None, *, finalized: bool = False) -> TaskState:
        """Wait until a task has finished, in whatever state.

        Args:
            task: the task.
            timeout: seconds; ``None`` waits for ever.
            finalized: wait until its after-work is done, too.

        Raises:
            TaskTimeout: it has not finished in time; it goes on.
            NotFound: there is no such task, or the transaction that creates it has not committed.
        """
        task_uuid = as_uuid(task)
        return self.wait_all([task_uuid], timeout, finalized=finalized)[task_uuid]

    def wait_all(
        self, tasks: Iterable[Task], timeout: float | None = None, *, finalized: bool = False
    ) -> dict[UUID, TaskState]:
        """Wait until all these tasks have finished; see ``wait``."""
        return waiting.wait(
            self._connections,
            self._signal,
            [as_uuid(task) for task in tasks],
            timeout_seconds=timeout,
            finalized=finalized,
        )

    def handle(self, task: Task) -> TaskHandle:
        """The handle of a task that exists already."""
        return self._handle(as_uuid(task))

    def get(self, task: Task, *, connection: Target | None = None) -> TaskRecord:
        """All about a task, its context included.

        Raises:
            NotFound: there is no such task.
        """
        return self._connections.drive(operations.get_task(as_uuid(task)), connection)

    def steps(self, task: Task, *, connection: Target | None = None) -> tuple[StepRecord, ...]:
        """The steps of a task, in topological order."""
        return self._connections.drive(operations.get_steps(as_uuid(task)), connection)

    def results(self, task: Task, *, connection: Target | None = None) -> dict[str, Any]:
        """What the steps of a task returned so far, by step name."""
        return self._connections.drive(operations.get_results(as_uuid(task)), connection)

    def history(self, task: Task, *, connection: Target | None = None) -> tuple[TransitionRecord, ...]:
        """All state changes of a task and its steps, oldest first."""
        return self._connections.drive(operations.get_history(as_uuid(task)), connection)

    def list(self, *, connection: Target | None = None, **filters: Unpack[TaskFilters]) -> TaskPage:
        """A page of tasks, newest first; see ``TaskFilters``."""
        return self._connections.drive(self._listing(filters), connection)

    def why(self, task: Task, *, connection: Target | None = None) -> Any:
        """Why a task is not running: one of a closed list of reasons, with what it waits for."""
        return self._connections.drive(operations.explain(as_uuid(task)), connection)

    def cancel(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> TaskChange:
        """End a task at once; results of running steps count no more.

        Args:
            task: the task.
            reason: why, for the audit trail.
            by: who says so; this client's ``requested_by``, or this process's user, otherwise.
            connection: the transaction to be part of.

        Raises:
            NotFound: there is no such task.
        """
        return self._connections.drive(self._changing("cancel", task, reason, by), connection)

    def pause(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> TaskChange:
        """Let a task's running steps finish and start no others; arguments as ``cancel``."""
        return self._connections.drive(self._changing("pause", task, reason, by), connection)

    def resume(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> TaskChange:
        """Go on with a paused task; arguments as ``cancel``."""
        return self._connections.drive(self._changing("resume", task, reason, by), connection)

    def list_namespaces(self, *, connection: Target | None = None) -> tuple[NamespaceRecord, ...]:
        """All namespaces by name, with their limits."""
        return self._connections.drive(operations.ask(reads.namespaces()), connection)

    def pause_namespace(
        self, name: str, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> NamespaceRecord:
        """Let what runs in a namespace finish, and start nothing more of it until it is resumed.

        Args:
            name: the namespace.
            reason: why.
            by: who says so; the client's ``requested_by`` when left out.
            connection: the transaction to be part of.

        Raises:
            NotFound: there is no such namespace.
        """
        return self._connections.drive(namespaces.pause(name, paused=True, by=self._by(by), reason=reason), connection)

    def resume_namespace(
        self, name: str, *, by: str | None = None, connection: Target | None = None
    ) -> NamespaceRecord:
        """Go on with a paused namespace; see ``pause_namespace``."""
        return self._connections.drive(namespaces.pause(name, paused=False, by=self._by(by), reason=None), connection)

    def limit_namespace(
        self,
        name: str,
        *,
        max_concurrency: int | Unchanged | None = UNCHANGED,
        rate: tuple[int, float] | Unchanged | None = UNCHANGED,
        connection: Target | None = None,
    ) -> NamespaceRecord:
        """Limit how many steps of a namespace's queue run at once, and how many start in a time.

        Args:
            name: the namespace.
            max_concurrency: how many run at once; ``None`` for any number; left out, it stays.
            rate: how many start in how many seconds, as ``(count, seconds)``; ``None`` for any number; left out, it
                stays.
            connection: the transaction to be part of.

        Raises:
            NotFound: there is no such namespace.
            InvalidRequest: a limit is no such number.
        """
        return self._connections.drive(namespaces.limit(name, max_concurrency, rate), connection)

    def retry(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> TaskChange:
        """Run a failed task again from its failed steps, with fresh attempts; arguments as ``cancel``.

        Raises:
            InvalidTransition: the task has not failed.
        """
        return self._connections.drive(self._retrying(task, reason, by), connection)

    def resolve_task(
        self, task: Task, *, reason: str | None = None, by: str | None = None, connection: Target | None = None
    ) -> TaskChange:
        """Close a task by hand: it counts as dealt with; arguments as ``cancel``."""
        return self._connections.drive(self._resolving_task(task, reason, by), connection)

    def resolve_step(
        self,
        task: Task,
        step: Step,
        results: Any,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: Target | None = None,
    ) -> TaskChange:
        """Settle a step by hand: its dependents go on, with ``results`` as if it had returned them.

        Raises:
            NotFound: there is no such task or step.
            InvalidTransition: the step's state does not allow it.
        """
        return self._connections.drive(self._resolving_step(task, step, results, reason, by), connection)

    def reset_step(
        self,
        task: Task,
        step: Step,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: Target | None = None,
    ) -> TaskChange:
        """Run one step again, with fresh attempts; arguments as ``resolve_step``."""
        return self._connections.drive(self._resetting_step(task, step, reason, by), connection)

    def dead_letters(
        self,
        *,
        include_closed: bool = False,
        after: int | None = None,
        limit: int = 50,
        connection: Target | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterPage:
        """A page of dead letters, newest first: steps that failed for good, and messages that were not understood.

        Args:
            include_closed: also those that were dealt with.
            after: the ``next_after`` of the page before.
            limit: most letters of the page, at most 1000.
            connection: the transaction to be part of.
            filters: see ``DeadLetterFilters``.
        """
        operation = self._listing_letters(filters, include_closed=include_closed, after=after, limit=limit)
        return self._connections.drive(operation, connection)

    def dead_letter(self, letter: int, *, connection: Target | None = None) -> DeadLetterRecord:
        """One dead letter by its number, open or closed.

        Raises:
            NotFound: there is none of that number.
        """
        return self._connections.drive(letters.get(letter), connection)

    def retry_dead_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None = None,
        *,
        everything: bool = False,
        message: dict[str, Any] | None = None,
        reason: str | None = None,
        by: str | None = None,
        batch_size: int = letters.BATCH,
        progress: Callable[[int], object] | None = None,
        connection: Target | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterChange:
        """Run the steps of dead letters again, with fresh attempts, and send messages back to their queues.

        Of each task only the steps of these letters run again, and what they blocked goes on. Each batch is a
        transaction of its own: where one fails, those before it stay done. Letters that come up meanwhile are left.

        Args:
            ids: the letters, by number or record.
            everything: all that are open, where neither ``ids`` nor conditions are given.
            message: what is sent in place of the message of the one letter named.
            reason: why, for the audit trail.
            by: who says so; see ``cancel``.
            batch_size: most letters in one transaction, at most 1000.
            progress: called after each batch with the number of letters retried so far.
            connection: the transaction to be part of; all batches are then part of it.
            filters: see ``DeadLetterFilters``.

        Raises:
            InvalidRequest: which letters are meant is not said in one way, or an argument is wrong.
        """
        batches = self._retrying_letters(
            ids, filters, everything=everything, message=message, reason=reason, by=by, batch_size=batch_size
        )
        return self._in_batches(batches, progress, connection)

    def dismiss_dead_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None = None,
        *,
        everything: bool = False,
        reason: str | None = None,
        by: str | None = None,
        batch_size: int = letters.BATCH,
        progress: Callable[[int], object] | None = None,
        connection: Target | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> DeadLetterChange:
        """Close dead letters of messages without sending them again; arguments as ``retry_dead_letters``.

        Those of steps are never dismissed: retry or resolve them, or their task.
        """
        batches = self._dismissing_letters(
            ids, filters, everything=everything, reason=reason, by=by, batch_size=batch_size
        )
        return self._in_batches(batches, progress, connection)

    def resolve_dead_letter(
        self,
        letter: int | DeadLetterRecord,
        results: Any,
        *,
        reason: str | None = None,
        by: str | None = None,
        connection: Target | None = None,
    ) -> TaskChange:
        """Settle the step of a dead letter by hand: its dependents go on, with ``results`` as if it had returned them.

        Raises:
            NotFound: there is no such letter.
            InvalidTransition: it is closed, or one of a message.
        """
        return self._connections.drive(self._resolving_letter(letter, results, reason, by), connection)

    def _in_batches(
        self, batches: Batches, progress: Callable[[int], object] | None, connection: Target | None
    ) -> DeadLetterChange:
        while not batches.is_over:
            self._connections.drive(batches.next(), connection)
            if progress is not None:
                progress(batches.done)
        return batches.change()

    def add_schedule(
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
        connection: Target | None = None,
        **options: Unpack[ScheduledTaskOptions],
    ) -> ScheduleChange:
        """Start a workflow again and again, by the clock: once for each slot, whoever and however many look after it.

        Said again with the same arguments it does nothing, so a program may say it at each start.

        Args:
            name: of the schedule: at most 128 of a-z, 0-9, ``_``, ``-`` and the dot.
            namespace: the workflow's namespace.
            workflow: the workflow's name; each slot runs its highest version, unless ``version`` is given.
            context: what each task is started with; checked now, and again when a task starts.
            cron: minute, hour, day, month and weekday, as in ``30 6 * * 1-5``; six fields with seconds first; or
                ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``.
            every: the alternative: an interval of whole seconds, counted from ``starts_at``, or without that from
                1970-01-01T00:00Z, so that one of 15 minutes is due on the quarters of an hour.
            starts_at: no slot lies before it; with a time zone.
            time_zone: of ``cron``, as in ``Europe/Berlin``.
            catch_up: what becomes of slots that were missed while nobody ran: the ``last`` one is fired, ``all`` are,
                or ``none`` (of those that are more than a minute late).
            replace: let a schedule of this name with another definition give way; it stays paused if it is. Where its
                times are the same, slots that are due stay due; otherwise it begins with the first slot after now.
            by: who says so; see ``cancel``.
            connection: the transaction to be part of.
            options: see ``TaskRequest``.

        Raises:
            InvalidRequest: an argument is wrong, or the name is taken by another definition; ``field`` names it.
            UnknownTemplate: no such workflow is registered.
            ContextInvalid: the context does not fit the workflow's input schema.
        """
        request = TaskRequest(namespace=namespace, name=workflow, context=context, **options)
        return self._connections.drive(
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

    def list_schedules(self, *, connection: Target | None = None) -> tuple[ScheduleRecord, ...]:
        """All schedules, by name."""
        return self._connections.drive(operations.ask(reading.schedules()), connection)

    def pause_schedule(self, name: str, *, by: str | None = None, connection: Target | None = None) -> ScheduleChange:
        """Fire no slots until it is resumed; those that pass meanwhile are not made up for. Tasks go on.

        Raises:
            NotFound: there is no such schedule.
        """
        return self._connections.drive(self._changing_schedule(name, "pause", by), connection)

    def resume_schedule(self, name: str, *, by: str | None = None, connection: Target | None = None) -> ScheduleChange:
        """Go on with the next slot after now; see ``pause_schedule``."""
        return self._connections.drive(self._changing_schedule(name, "resume", by), connection)

    def remove_schedule(self, name: str, *, by: str | None = None, connection: Target | None = None) -> ScheduleChange:
        """Forget a schedule; tasks that it started stay; see ``pause_schedule``."""
        return self._connections.drive(self._changing_schedule(name, "remove", by), connection)
