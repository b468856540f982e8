"""The client's face for ordinary programs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from tasker.client import operations, waiting
from tasker.client.core import ClientCore, ScheduledTaskOptions, TaskFilters, TaskOptions
from tasker.client.handle import TaskHandle
from tasker.client.operations import TaskChange
from tasker.client.requests import TaskRequest, as_uuid
from tasker.client.schedules import ScheduleChange
from tasker.database import schedules as reading
from tasker.database.calls import Target
from tasker.database.records import StepRecord, TaskPage, TaskRecord, TaskState, TransitionRecord
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
