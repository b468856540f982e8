"""Questions to the tables, as calls: for client, command line and whoever shows what is there.

Lists page by key, newest first, and count nothing: uuids rise with time, so the primary key is the order.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Double, Text, bindparam, cast, extract, func, null, or_, select, union_all

from tasker.database.calls import AnySelect, Call, Rows
from tasker.database.models import (
    DeadLetter,
    Executor,
    NamedStep,
    NamedTask,
    Namespace,
    StepClaim,
    StepTimer,
    Task,
    TaskContext,
    TaskTransition,
    Worker,
    WorkflowStep,
    WorkflowStepTransition,
)
from tasker.database.records import (
    DeadLetterPage,
    DeadLetterRecord,
    ExecutorRecord,
    NamespaceRecord,
    StepRecord,
    TaskPage,
    TaskRecord,
    TaskState,
    TemplateRecord,
    TransitionRecord,
    WorkerRecord,
)

OPEN_STATES = ("pending", "in_progress", "paused")
MAX_PAGE = 1000

_TASK_COLUMNS = (
    Task.task_uuid,
    NamedTask.namespace,
    NamedTask.name,
    NamedTask.version,
    Task.state,
    Task.priority,
    Task.total,
    Task.active,
    Task.open,
    Task.failed,
    Task.skipped,
    Task.created_at,
    Task.run_at,
    Task.admitted_at,
    Task.finished_at,
    Task.finalized_at,
    Task.finish_no,
    Task.parent_task_uuid,
    Task.correlation_id,
    Task.initiator,
    Task.source_system,
    Task.reason,
    Task.tags,
)
_TEMPLATE_COLUMNS = (
    NamedTask.named_task_id,
    NamedTask.namespace,
    NamedTask.name,
    NamedTask.version,
    NamedTask.digest,
    NamedTask.identity_strategy,
    NamedTask.max_context_bytes,
    NamedTask.step_count,
    NamedTask.has_after_work,
    NamedTask.used,
    NamedTask.created_at,
    NamedTask.definition["description"].astext,
)


# -- tasks ----------------------------------------------------------------------------------------------------


def task(task_uuid: UUID) -> Call[TaskRecord | None]:
    """A task with its context, or ``None``."""
    return Call.of(_task_statement(), lambda rows: _task(rows[0]) if rows else None, {"task_uuid": task_uuid})


@cache
def _task_statement() -> AnySelect:
    return (
        select(*_TASK_COLUMNS, TaskContext.context)
        .join(NamedTask, NamedTask.named_task_id == Task.named_task_id)
        .outerjoin(TaskContext, TaskContext.task_uuid == Task.task_uuid)
        .where(Task.task_uuid == bindparam("task_uuid"))
    )


def task_states(task_uuids: Iterable[UUID]) -> Call[dict[UUID, TaskState]]:
    """The states of those tasks that can be seen."""
    return Call(
        "SELECT task_uuid, state, finished_at, finalized_at FROM tasker.tasks WHERE task_uuid = ANY"
        " (ARRAY(SELECT CAST(jsonb_array_elements_text(CAST(%(uuids)s AS jsonb)) AS uuid)))",
        {"uuids": orjson.dumps([str(task_uuid) for task_uuid in task_uuids]).decode()},
        decode=lambda rows: {row[0]: TaskState(*row) for row in rows},
    )


def tasks(
    *,
    namespace: str | None = None,
    name: str | None = None,
    version: str | None = None,
    states: Sequence[str] = (),
    tag: str | None = None,
    correlation_id: str | None = None,
    parent_task_uuid: UUID | None = None,
    created_after: dt.datetime | None = None,
    created_before: dt.datetime | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> Call[TaskPage]:
    """A page of tasks, newest first: those to which all that is given applies.

    ``states`` are alternatives; times become ranges of uuids, to the millisecond (created at or after
    ``created_after``, before ``created_before``); ``after`` is the last page's ``next_after``; ``limit`` is at most
    1000.
    """
    limit = max(1, min(limit, MAX_PAGE))
    statement = select(*_TASK_COLUMNS).join(NamedTask, NamedTask.named_task_id == Task.named_task_id)
    conditions: list[ColumnElement[bool]] = []
    if namespace is not None:
        conditions.append(NamedTask.namespace == namespace)
    if name is not None:
        conditions.append(NamedTask.name == name)
    if version is not None:
        conditions.append(NamedTask.version == version)
    if states:
        conditions.append(Task.state.in_(states))
        if set(states) <= set(OPEN_STATES):
            # Says what the states imply, so that the partial index of open tasks serves.
            conditions.append(Task.finished_at.is_(None))
    if tag is not None:
        conditions.append(Task.tags.contains([tag]))
    if correlation_id is not None:
        conditions.append(Task.correlation_id == correlation_id)
    if parent_task_uuid is not None:
        conditions.append(Task.parent_task_uuid == parent_task_uuid)
    if created_after is not None:
        conditions.append(Task.task_uuid >= first_uuid_at(created_after))
    if created_before is not None:
        conditions.append(Task.task_uuid < first_uuid_at(created_before))
    if after is not None:
        conditions.append(Task.task_uuid < after)
    statement = statement.where(*conditions).order_by(Task.task_uuid.desc()).limit(limit + 1)

    def decode(rows: Rows) -> TaskPage:
        records = tuple(_task(row) for row in rows[:limit])
        return TaskPage(records, records[-1].task_uuid if len(rows) > limit else None)

    return Call.of(statement, decode)


def steps(task_uuid: UUID) -> Call[tuple[StepRecord, ...]]:
    """The steps of a task in topological order; empty if there is no such task."""

    def decode(rows: Rows) -> tuple[StepRecord, ...]:
        names = {row[1]: row[3] for row in rows}
        return tuple(
            StepRecord(*_with_tuple(row, 6, (names.get(parent, str(parent)) for parent in row[6]))) for row in rows
        )

    return Call.of(_steps_statement(), decode, {"task_uuid": task_uuid})


@cache
def _steps_statement() -> AnySelect:
    return (
        select(
            WorkflowStep.step_uuid,
            WorkflowStep.position,
            WorkflowStep.map_index,
            NamedStep.name,
            NamedStep.namespace,
            WorkflowStep.state,
            NamedStep.depends_on,
            WorkflowStep.unmet,
            WorkflowStep.attempts,
            NamedStep.max_attempts,
            NamedStep.retryable,
            WorkflowStep.losses,
            WorkflowStep.fence,
            WorkflowStep.executor,
            StepTimer.due_at,
            WorkflowStep.started_at,
            WorkflowStep.finished_at,
            WorkflowStep.error,
            WorkflowStep.results,
        )
        .join(Task, Task.task_uuid == WorkflowStep.task_uuid)
        .join(
            NamedStep,
            (NamedStep.named_task_id == Task.named_task_id) & (NamedStep.position == WorkflowStep.position),
        )
        .outerjoin(
            StepTimer,
            (StepTimer.task_uuid == WorkflowStep.task_uuid)
            & (StepTimer.position == WorkflowStep.position)
            & (StepTimer.map_index == WorkflowStep.map_index),
        )
        .where(WorkflowStep.task_uuid == bindparam("task_uuid"))
        .order_by(WorkflowStep.position, WorkflowStep.map_index)
    )


def transitions(task_uuid: UUID, *, since: dt.datetime | None = None) -> Call[tuple[TransitionRecord, ...]]:
    """The history of a task and its steps, oldest first; only from ``since`` on (the server's clock) if given."""
    # Partitions before the task's creation hold nothing of it; an hour covers servers whose clocks disagree.
    begin = since or created_at(task_uuid) - dt.timedelta(hours=1)
    of_task = select(
        TaskTransition.at.label("at"),
        null().label("name"),
        null().label("position"),
        null().label("map_index"),
        null().label("fence"),
        TaskTransition.from_state,
        TaskTransition.to_state,
        TaskTransition.actor.label("actor"),
        TaskTransition.reason,
    ).where(TaskTransition.task_uuid == task_uuid, TaskTransition.at >= begin)
    of_steps = (
        select(
            WorkflowStepTransition.at,
            NamedStep.name,
            WorkflowStepTransition.position,
            WorkflowStepTransition.map_index,
            WorkflowStepTransition.fence,
            WorkflowStepTransition.from_state,
            WorkflowStepTransition.to_state,
            cast(WorkflowStepTransition.executor, Text),
            WorkflowStepTransition.reason,
        )
        .join(Task, Task.task_uuid == WorkflowStepTransition.task_uuid)
        .join(
            NamedStep,
            (NamedStep.named_task_id == Task.named_task_id) & (NamedStep.position == WorkflowStepTransition.position),
        )
        .where(WorkflowStepTransition.task_uuid == task_uuid, WorkflowStepTransition.at >= begin)
    )
    both = union_all(of_task, of_steps).subquery()
    return Call.of(select(both).order_by(both.c.at), lambda rows: tuple(TransitionRecord(*row) for row in rows))


# -- dead letters ---------------------------------------------------------------------------------------------


def dead_letter(identifier: int) -> Call[DeadLetterRecord | None]:
    """One dead letter, open or closed, or ``None``."""
    statement = select(DeadLetter).where(DeadLetter.id == identifier)
    return Call.of(_letters(statement), lambda rows: _letter(rows[0]) if rows else None)


def dead_letters(
    *,
    kind: str | None = None,
    namespace: str | None = None,
    workflow: str | None = None,
    version: str | None = None,
    step: str | None = None,
    reason: str | None = None,
    queue: str | None = None,
    task_uuid: UUID | None = None,
    created_after: dt.datetime | None = None,
    created_before: dt.datetime | None = None,
    include_closed: bool = False,
    after: int | None = None,
    limit: int = 50,
) -> Call[DeadLetterPage]:
    """A page of dead letters, newest first: those to which all that is given applies.

    The conditions are those of ``tasker.match_dead_letters``. ``after`` is the last page's ``next_after``; ``limit`` is
    at most 1000.
    """
    limit = max(1, min(limit, MAX_PAGE))
    said = DeadLetter.snapshot
    conditions: list[ColumnElement[bool]] = []
    if not include_closed:
        conditions.append(DeadLetter.resolved_at.is_(None))
    if after is not None:
        conditions.append(DeadLetter.id < after)
    if namespace is not None:
        conditions.append(
            or_(
                func.coalesce(said["namespace"].astext, said["message"]["namespace"].astext) == namespace,
                (DeadLetter.kind == "message")
                & DeadLetter.queue.in_([f"{namespace}_queue{band}" for band in ("", "_high", "_low")]),
            )
        )
    if workflow is not None:
        conditions.append(func.coalesce(said["task"].astext, said["message"]["name"].astext) == workflow)
    if version is not None:
        conditions.append(func.coalesce(said["version"].astext, said["message"]["version"].astext) == version)
    if step is not None:
        conditions.append(said["step"].astext == step)
    conditions += [
        column == value
        for column, value in (
            (DeadLetter.kind, kind),
            (DeadLetter.reason, reason),
            (DeadLetter.queue, queue),
            (DeadLetter.task_uuid, task_uuid),
        )
        if value is not None
    ]
    if created_after is not None:
        conditions.append(DeadLetter.created_at >= created_after)
    if created_before is not None:
        conditions.append(DeadLetter.created_at < created_before)
    statement = select(DeadLetter).where(*conditions).order_by(DeadLetter.id.desc()).limit(limit + 1)

    def decode(rows: Rows) -> DeadLetterPage:
        records = tuple(_letter(row) for row in rows[:limit])
        return DeadLetterPage(records, records[-1].id if len(rows) > limit else None)

    return Call.of(_letters(statement), decode)


def _letters(statement: AnySelect) -> AnySelect:
    return statement.with_only_columns(
        DeadLetter.id,
        DeadLetter.kind,
        DeadLetter.reason,
        DeadLetter.created_at,
        DeadLetter.task_uuid,
        DeadLetter.position,
        DeadLetter.map_index,
        DeadLetter.queue,
        DeadLetter.snapshot,
        DeadLetter.resolution,
        DeadLetter.resolved_by,
        DeadLetter.resolved_reason,
        DeadLetter.resolved_at,
    )


def _letter(row: Sequence[Any]) -> DeadLetterRecord:
    identifier, kind, reason, created_at, task_uuid, position, map_index, queue, snapshot, *closed = row
    message = snapshot.get("message") if kind == "message" else None
    # A message may be anything, so nothing is expected of what it calls its workflow.
    names = message if isinstance(message, dict) else {}
    namespace, workflow, version = (
        (snapshot.get("namespace"), snapshot.get("task"), snapshot.get("version"))
        if kind == "step"
        else (value if isinstance(value := names.get(key), str) else None for key in ("namespace", "name", "version"))
    )
    return DeadLetterRecord(
        identifier,
        kind,
        reason,
        created_at,
        namespace,
        workflow,
        version,
        task_uuid,
        snapshot.get("step"),
        position,
        map_index,
        queue,
        snapshot.get("error") if kind == "step" else snapshot.get("why"),
        snapshot.get("attempts"),
        snapshot.get("losses"),
        message,
        snapshot,
        *closed,
    )


# -- templates ------------------------------------------------------------------------------------------------


def template(namespace: str, name: str, version: str | None = None) -> Call[TemplateRecord | None]:
    """A version of a workflow with its definition; the highest when ``version`` is ``None``."""
    statement = (
        select(*_TEMPLATE_COLUMNS, NamedTask.input_schema, NamedTask.definition)
        .where(NamedTask.namespace == namespace, NamedTask.name == name)
        .order_by(NamedTask.version_order.desc())
        .limit(1)
    )
    if version is not None:
        statement = statement.where(NamedTask.version == version)
    return Call.of(statement, lambda rows: TemplateRecord(*rows[0]) if rows else None)


def template_by_id(named_task_id: int) -> Call[TemplateRecord | None]:
    """As ``template``, by the number that tasks refer to."""
    statement = select(*_TEMPLATE_COLUMNS, NamedTask.input_schema, NamedTask.definition).where(
        NamedTask.named_task_id == named_task_id
    )
    return Call.of(statement, lambda rows: TemplateRecord(*rows[0]) if rows else None)


def templates(namespace: str | None = None, name: str | None = None) -> Call[tuple[TemplateRecord, ...]]:
    """All registered versions, without their definitions, the highest version of each first."""
    statement = select(*_TEMPLATE_COLUMNS).order_by(NamedTask.namespace, NamedTask.name, NamedTask.version_order.desc())
    if namespace is not None:
        statement = statement.where(NamedTask.namespace == namespace)
    if name is not None:
        statement = statement.where(NamedTask.name == name)
    return Call.of(statement, lambda rows: tuple(TemplateRecord(*row) for row in rows))


# -- who is at work -------------------------------------------------------------------------------------------


def namespaces() -> Call[tuple[NamespaceRecord, ...]]:
    """All namespaces by name."""
    statement = select(
        Namespace.name,
        Namespace.queue,
        Namespace.paused_at,
        Namespace.paused_by,
        Namespace.paused_reason,
        Namespace.max_concurrency,
        Namespace.rate_count,
        Namespace.rate_seconds,
        Namespace.admission,
        Namespace.admission_reason,
    ).order_by(Namespace.name)
    return Call.of(statement, lambda rows: tuple(NamespaceRecord(*row) for row in rows))


def executors(*, include_lost: bool = False) -> Call[tuple[ExecutorRecord, ...]]:
    """The executors, by worker and kind."""
    claims = select(func.count()).where(StepClaim.executor == Executor.executor).correlate(Executor).scalar_subquery()
    statement = select(
        Executor.executor,
        Executor.kind,
        Executor.worker,
        Executor.pid,
        Executor.queues,
        Executor.registered_at,
        Executor.heartbeat_at,
        _age(Executor.heartbeat_at),
        Executor.idle,
        Executor.stop_requested,
        claims,
        Executor.counters,
        Executor.lost_at,
    ).order_by(Executor.worker, Executor.kind, Executor.executor)
    if not include_lost:
        statement = statement.where(Executor.lost_at.is_(None))
    return Call.of(statement, lambda rows: tuple(ExecutorRecord(*_with_tuple(row, 4, row[4])) for row in rows))


def workers() -> Call[tuple[WorkerRecord, ...]]:
    """The Celery workers that host executors, by name."""
    hosted = (
        select(func.count())
        .where(Executor.worker == Worker.hostname, Executor.lost_at.is_(None))
        .correlate(Worker)
        .scalar_subquery()
    )
    statement = select(
        Worker.hostname,
        Worker.pid,
        Worker.pool,
        Worker.concurrency,
        Worker.queues,
        Worker.started_at,
        Worker.heartbeat_at,
        _age(Worker.heartbeat_at),
        hosted,
    ).order_by(Worker.hostname)
    return Call.of(statement, lambda rows: tuple(WorkerRecord(*_with_tuple(row, 4, row[4])) for row in rows))


# -- time in uuids --------------------------------------------------------------------------------------------


def first_uuid_at(moment: dt.datetime) -> UUID:
    """The lowest UUIDv7 of that millisecond."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def created_at(task_uuid: UUID) -> dt.datetime:
    """When a UUIDv7 was made, to the millisecond; the epoch for uuids that are none of ours."""
    if task_uuid.version != 7:
        return dt.datetime.fromtimestamp(0, dt.UTC)
    return dt.datetime.fromtimestamp((task_uuid.int >> 80) / 1000, dt.UTC)


def _age(moment: Any) -> ColumnElement[float]:
    return cast(extract("epoch", func.clock_timestamp() - moment), Double)


def _task(row: Sequence[Any]) -> TaskRecord:
    return TaskRecord(*_with_tuple(row, 22, row[22]))


def _with_tuple(row: Sequence[Any], index: int, values: Iterable[Any]) -> list[Any]:
    """The row, with a tuple in place of a list: records are hashable and frozen all the way."""
    replaced = list(row)
    replaced[index] = tuple(values)
    return replaced
