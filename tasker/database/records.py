"""What reading returns: plain frozen records, the same for client, command line and web."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

TASK_STATES = ("pending", "in_progress", "paused", "complete", "error", "cancelled", "resolved_manually")
"""The states of a task, in the order in which it may pass through them."""


@dataclass(frozen=True)
class TaskRecord:
    """A run of a workflow, as it was when it was read.

    Attributes:
        state: ``pending``, ``in_progress``, ``paused``, ``complete``, ``error``, ``cancelled``, ``resolved_manually``.
        total: number of steps.
        active: steps that are enqueued, running or waiting for a retry.
        open: once terminal, steps that never ended; ``None`` before.
        failed: once terminal, steps that failed; ``None`` before.
        run_at: when it is to be admitted, if it was given a time.
        finished_at: when it became terminal.
        finalized_at: when its after-work was done, too.
        context: what it was started with; ``None`` in lists.
    """

    task_uuid: UUID
    namespace: str
    name: str
    version: str
    state: str
    priority: int
    total: int
    active: int
    open: int | None
    failed: int | None
    skipped: int | None
    created_at: dt.datetime
    run_at: dt.datetime | None
    admitted_at: dt.datetime | None
    finished_at: dt.datetime | None
    finalized_at: dt.datetime | None
    finish_no: int
    parent_task_uuid: UUID | None
    correlation_id: str | None
    initiator: str | None
    source_system: str | None
    reason: str | None
    tags: tuple[str, ...]
    context: Any = field(default=None, repr=False)

    @property
    def is_finished(self) -> bool:
        """Whether it is terminal."""
        return self.finished_at is not None


@dataclass(frozen=True)
class TaskState:
    """The little that waiting reads again and again."""

    task_uuid: UUID
    state: str
    finished_at: dt.datetime | None
    finalized_at: dt.datetime | None


@dataclass(frozen=True)
class TaskPage:
    """One page of a list, newest first.

    Attributes:
        tasks: the page.
        next_after: pass it as ``after`` for the next page; ``None`` when this is the last.
    """

    tasks: tuple[TaskRecord, ...]
    next_after: UUID | None


@dataclass(frozen=True)
class StepRecord:
    """A step of a run.

    Attributes:
        position: its place in the topological order, from 0.
        map_index: 0.
        state: ``pending``, ``enqueued``, ``in_progress``, ``waiting_for_retry``, ``complete``, ``error``,
            ``cancelled``, ``resolved_manually``, ``skipped``.
        unmet: dependencies that are not satisfied yet.
        attempts: runs spent, of ``max_attempts``.
        losses: executors that died with it.
        due_at: when its timer is due (retry, deadline), if it has one.
        error: ``{message, type, ...}`` of the last failure.
        results: what it returned.
    """

    step_uuid: UUID
    position: int
    map_index: int
    name: str
    namespace: str
    state: str
    depends_on: tuple[str, ...]
    unmet: int
    attempts: int
    max_attempts: int
    retryable: bool
    losses: int
    fence: int
    executor: UUID | None
    due_at: dt.datetime | None
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    error: Any = None
    results: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class DeadLetterRecord:
    """A step that ended in ``error``, or a message that could not be understood.

    Attributes:
        id: its number.
        kind: ``step`` or ``message``.
        reason: the type of the step's error, or what is wrong with the message.
        created_at: when the step failed, or the message was put aside.
        namespace: of the workflow, as far as it is known; of messages, what they say.
        workflow: likewise its name.
        version: likewise its version.
        task_uuid: the step's task; ``None`` for messages.
        step: the step's name; ``None`` for messages.
        position: the step's place in its workflow.
        map_index: 0.
        queue: the step's queue, or the message's.
        error: of the step: ``{message, type, ...}``; of the message: what is wrong with it, as text.
        attempts: the step's runs until then.
        losses: executors that died with the step until then.
        message: what the message says; ``None`` for steps.
        snapshot: all that was written down.
        resolution: ``retried``, ``reset``, ``resolved``, ``cancelled`` or ``dismissed``; ``None`` while it is open.
        resolved_by: who closed it.
        resolved_reason: why.
        resolved_at: when.
    """

    id: int
    kind: str
    reason: str
    created_at: dt.datetime
    namespace: str | None
    workflow: str | None
    version: str | None
    task_uuid: UUID | None
    step: str | None
    position: int | None
    map_index: int | None
    queue: str | None
    error: Any
    attempts: int | None
    losses: int | None
    message: Any
    snapshot: Any = field(repr=False)
    resolution: str | None
    resolved_by: str | None
    resolved_reason: str | None
    resolved_at: dt.datetime | None

    @property
    def is_open(self) -> bool:
        """Whether nobody has dealt with it yet."""
        return self.resolved_at is None


@dataclass(frozen=True)
class DeadLetterPage:
    """One page of a list, newest first.

    Attributes:
        letters: the page.
        next_after: pass it as ``after`` for the next page; ``None`` when this is the last.
    """

    letters: tuple[DeadLetterRecord, ...]
    next_after: int | None


@dataclass(frozen=True)
class TransitionRecord:
    """A state change of a run (``step`` is ``None``) or of one of its steps.

    Attributes:
        fence: of a step: which claim it belongs to.
        actor: who caused it: an operator, a processor, an executor's uuid.
    """

    at: dt.datetime
    step: str | None
    position: int | None
    map_index: int | None
    fence: int | None
    from_state: str | None
    to_state: str
    actor: str | None
    reason: str | None


@dataclass(frozen=True)
class TemplateRecord:
    """One registered version of a workflow.

    Attributes:
        used: a task uses it, so it is immutable.
        definition: the whole registered definition; ``None`` in lists.
    """

    named_task_id: int
    namespace: str
    name: str
    version: str
    digest: str
    identity_strategy: str | None
    max_context_bytes: int
    step_count: int
    has_after_work: bool
    used: bool
    created_at: dt.datetime
    description: str | None
    input_schema: Any = field(default=None, repr=False)
    definition: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class ExecutorRecord:
    """An incarnation of an executor.

    Attributes:
        heartbeat_age_seconds: since its last heartbeat, by the server's clock.
        claims: calls whose receipts it holds.
        lost_at: when it was declared lost.
    """

    executor: UUID
    kind: str
    worker: str
    pid: int | None
    queues: tuple[str, ...]
    registered_at: dt.datetime
    heartbeat_at: dt.datetime
    heartbeat_age_seconds: float
    idle: bool
    stop_requested: bool
    claims: int
    counters: Any
    lost_at: dt.datetime | None


@dataclass(frozen=True)
class WorkerRecord:
    """A Celery worker that hosts executors."""

    hostname: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    started_at: dt.datetime
    heartbeat_at: dt.datetime
    heartbeat_age_seconds: float
    executors: int


@dataclass(frozen=True)
class NamespaceRecord:
    """A namespace and its queue.

    Attributes:
        max_concurrency: most steps of its queue that run at once; ``None`` for any number.
        rate_count: most steps of its queue that start within ``rate_seconds``; ``None`` for any number.
        admission: ``open`` (new tasks start at once), ``soft`` (they wait) or ``hard`` (they are refused).
        admission_reason: why it is not open.
    """

    name: str
    queue: str
    paused_at: dt.datetime | None
    paused_by: str | None
    paused_reason: str | None
    max_concurrency: int | None
    rate_count: int | None
    rate_seconds: float | None
    admission: str
    admission_reason: str | None
