"""The tables as SQLAlchemy models, for reading: what changes a row is always a function of schema ``tasker``.

``migrations/versions`` makes the tables; a test compares these classes with the catalog, column by column.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Computed, Double, Identity, Integer, LargeBinary, MetaData, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all models; all tables are in schema ``tasker``."""

    metadata = MetaData(schema="tasker")
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        int: Integer(),
        float: Double(),
        bytes: LargeBinary(),
        uuid.UUID: UUID(as_uuid=True),
        dt.datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
        list[int]: ARRAY(Integer()),
        list[uuid.UUID]: ARRAY(UUID(as_uuid=True)),
    }


# -- definitions ----------------------------------------------------------------------------------------------


class Namespace(Base):
    """A namespace and its step queue."""

    __tablename__ = "namespaces"

    name: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str] = mapped_column(Computed("name || '_queue'"))
    paused_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime]
    paused_by: Mapped[str | None]
    paused_reason: Mapped[str | None]
    max_concurrency: Mapped[int | None]
    rate_count: Mapped[int | None]
    rate_seconds: Mapped[float | None]
    has_high: Mapped[bool]
    has_low: Mapped[bool]
    admission: Mapped[str]
    admission_reason: Mapped[str | None]
    admission_room: Mapped[int | None]
    admission_retry_seconds: Mapped[float | None]
    admission_at: Mapped[dt.datetime | None]


class NamedTask(Base):
    """One version of a workflow."""

    __tablename__ = "named_tasks"

    named_task_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    version: Mapped[str]
    version_order: Mapped[list[int]] = mapped_column(Computed("string_to_array(version, '.')::integer[]"))
    digest: Mapped[str]
    definition: Mapped[dict[str, Any]]
    identity_strategy: Mapped[str | None]
    input_schema: Mapped[dict[str, Any] | None]
    has_after_work: Mapped[bool]
    max_context_bytes: Mapped[int]
    step_count: Mapped[int]
    used: Mapped[bool]
    created_at: Mapped[dt.datetime]
    concurrency_path: Mapped[list[str] | None]
    key_max_concurrency: Mapped[int | None]
    key_rate_count: Mapped[int | None]
    key_rate_seconds: Mapped[float | None]
    lifecycle: Mapped[dict[str, Any] | None]


class NamedStep(Base):
    """A step of a version: the graph as arrays of positions."""

    __tablename__ = "named_steps"

    named_task_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str]
    namespace: Mapped[str]
    queue: Mapped[str] = mapped_column(Computed("namespace || '_queue'"))
    handler: Mapped[dict[str, Any]]
    delegated: Mapped[bool]
    depends_on: Mapped[list[int]]
    dependents: Mapped[list[int]]
    retryable: Mapped[bool]
    max_attempts: Mapped[int]
    backoff: Mapped[str]
    backoff_base_ms: Mapped[int] = mapped_column(BigInteger)
    backoff_max_ms: Mapped[int] = mapped_column(BigInteger)
    backoff_multiplier: Mapped[float]
    jitter_fraction: Mapped[float]
    timeout_seconds: Mapped[float | None]
    system_dependency: Mapped[str | None]
    result_schema: Mapped[dict[str, Any] | None]
    expected_ms: Mapped[float | None]
    lifecycle: Mapped[dict[str, Any] | None]
    publishes_events: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)


# -- runs -----------------------------------------------------------------------------------------------------


class Task(Base):
    """A run of a workflow."""

    __tablename__ = "tasks"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    named_task_id: Mapped[int]
    state: Mapped[str]
    priority: Mapped[int]
    total: Mapped[int]
    active: Mapped[int]
    open: Mapped[int | None]
    failed: Mapped[int | None]
    skipped: Mapped[int | None]
    context_checked: Mapped[bool]
    scheduled: Mapped[bool]
    created_at: Mapped[dt.datetime]
    run_at: Mapped[dt.datetime | None]
    admitted_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    finalized_at: Mapped[dt.datetime | None]
    finish_no: Mapped[int]
    claim_no: Mapped[int]
    claimed_by: Mapped[str | None]
    claimed_at: Mapped[dt.datetime | None]
    claim_expires_at: Mapped[dt.datetime | None]
    finalization_claimed_by: Mapped[str | None]
    finalization_claimed_at: Mapped[dt.datetime | None]
    finalization_claim_expires_at: Mapped[dt.datetime | None]
    parent_task_uuid: Mapped[uuid.UUID | None]
    correlation_id: Mapped[str | None]
    initiator: Mapped[str | None]
    source_system: Mapped[str | None]
    reason: Mapped[str | None]
    tags: Mapped[list[str]]
    concurrency_key: Mapped[str | None]


class TaskContext(Base):
    """What a run was started with."""

    __tablename__ = "task_contexts"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    context: Mapped[dict[str, Any]]


class TaskIdentity(Base):
    """What must be unique, as a hash, and the run that has it."""

    __tablename__ = "task_identities"

    identity_hash: Mapped[bytes] = mapped_column(primary_key=True)
    task_uuid: Mapped[uuid.UUID]


class WorkflowStep(Base):
    """A step of a run."""

    __tablename__ = "workflow_steps"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    map_index: Mapped[int] = mapped_column(primary_key=True)
    step_uuid: Mapped[uuid.UUID]
    state: Mapped[str]
    unmet: Mapped[int]
    fence: Mapped[int]
    attempts: Mapped[int]
    losses: Mapped[int]
    executor: Mapped[uuid.UUID | None]
    start_marked_at: Mapped[dt.datetime | None]
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    error: Mapped[dict[str, Any] | None]
    results: Mapped[Any | None] = mapped_column(JSONB)


class StepClaim(Base):
    """The receipt of a call that claimed steps."""

    __tablename__ = "step_claims"

    executor: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    call_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    task_uuids: Mapped[list[uuid.UUID]]
    positions: Mapped[list[int]]
    map_indexes: Mapped[list[int]]
    fences: Mapped[list[int]]
    claimed_at: Mapped[dt.datetime]


class StepTimer(Base):
    """When a waiting step is due."""

    __tablename__ = "step_timers"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    map_index: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    queue: Mapped[str]
    due_at: Mapped[dt.datetime]
    set_at: Mapped[dt.datetime]
    fence: Mapped[int]
    key: Mapped[str | None]


class LimitHolder(Base):
    """A step that runs under a limit, as long as it runs with this fence."""

    __tablename__ = "limit_holders"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    map_index: Mapped[int] = mapped_column(primary_key=True)
    limit_key: Mapped[str] = mapped_column(primary_key=True)
    fence: Mapped[int]


class RateLimit(Base):
    """When the next start under a rate would be due."""

    __tablename__ = "rate_limits"

    limit_key: Mapped[str] = mapped_column(primary_key=True)
    next_at: Mapped[dt.datetime]


class DeadLetter(Base):
    """A step that ended in error, or a message that could not be understood."""

    __tablename__ = "dead_letters"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    kind: Mapped[str]
    task_uuid: Mapped[uuid.UUID | None]
    position: Mapped[int | None]
    map_index: Mapped[int | None]
    queue: Mapped[str | None]
    reason: Mapped[str]
    snapshot: Mapped[dict[str, Any]]
    created_at: Mapped[dt.datetime]
    resolution: Mapped[str | None]
    resolved_by: Mapped[str | None]
    resolved_reason: Mapped[str | None]
    resolved_at: Mapped[dt.datetime | None]


# -- audit: insert-only, partitioned, without a key of their own (the keys are for the mapper) -----------------------


class TaskTransition(Base):
    """A change of a run's state."""

    __tablename__ = "task_transitions"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    from_state: Mapped[str | None]
    to_state: Mapped[str] = mapped_column(primary_key=True)
    finish_no: Mapped[int | None]
    actor: Mapped[str | None]
    reason: Mapped[str | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


class WorkflowStepTransition(Base):
    """A change of a step's state."""

    __tablename__ = "workflow_step_transitions"

    task_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    map_index: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    from_state: Mapped[str] = mapped_column(primary_key=True)
    to_state: Mapped[str] = mapped_column(primary_key=True)
    executor: Mapped[uuid.UUID | None]
    reason: Mapped[str | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


class FinalizationAttempt(Base):
    """An attempt at a finalization claim, with its duration."""

    __tablename__ = "finalization_attempts"

    finalization_attempt_uuid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    task_uuid: Mapped[uuid.UUID]
    processor: Mapped[str]
    action: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    claim_no: Mapped[int | None]
    finish_no: Mapped[int | None]
    duration_ms: Mapped[float]
    held_ms: Mapped[float | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


# -- who is at work -------------------------------------------------------------------------------------------


class Executor(Base):
    """An incarnation of an executor."""

    __tablename__ = "executors"

    executor: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    worker: Mapped[str]
    pid: Mapped[int | None]
    queues: Mapped[list[str]]
    registered_at: Mapped[dt.datetime]
    heartbeat_at: Mapped[dt.datetime]
    oldest_call_no: Mapped[int] = mapped_column(BigInteger)
    next_call_no: Mapped[int | None] = mapped_column(BigInteger)
    held_calls: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger()))
    idle: Mapped[bool]
    stop_requested: Mapped[bool]
    counters: Mapped[dict[str, Any]]
    suspected_heartbeat: Mapped[dt.datetime | None]
    suspected_at: Mapped[dt.datetime | None]
    lost_at: Mapped[dt.datetime | None]
    polled_at: Mapped[dt.datetime | None]
    worked_at: Mapped[dt.datetime | None]
    health: Mapped[str]
    health_since: Mapped[dt.datetime]
    health_reason: Mapped[str | None]
    trouble: Mapped[str | None]
    requested: Mapped[bool]
    counted_at: Mapped[dt.datetime | None]
    counted_items: Mapped[int] = mapped_column(BigInteger)
    counted_busy_ms: Mapped[int] = mapped_column(BigInteger)


class ExecutorHealthTransition(Base):
    """A change of an executor's health."""

    __tablename__ = "executor_health_transitions"

    executor: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    worker: Mapped[str]
    from_health: Mapped[str]
    to_health: Mapped[str]
    reason: Mapped[str | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


class ExecutorPool(Base):
    """How many executors of a kind there shall be; of step executors, for each queue."""

    __tablename__ = "executor_pools"

    kind: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[int]
    state: Mapped[dict[str, Any]]
    items: Mapped[int] = mapped_column(BigInteger)
    busy_ms: Mapped[int] = mapped_column(BigInteger)
    executor_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[dt.datetime]
    evaluated_at: Mapped[dt.datetime | None]


class ScalingDecision(Base):
    """A change of a pool's target, with its reason."""

    __tablename__ = "scaling_decisions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[dt.datetime]
    kind: Mapped[str]
    queue: Mapped[str]
    direction: Mapped[str]
    from_target: Mapped[int]
    to_target: Mapped[int]
    reason: Mapped[str]
    detail: Mapped[str | None]
    measures: Mapped[dict[str, Any]]


class Worker(Base):
    """A Celery worker that hosts executors."""

    __tablename__ = "workers"

    hostname: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int]
    pool: Mapped[str]
    concurrency: Mapped[int]
    queues: Mapped[list[str]]
    started_at: Mapped[dt.datetime]
    heartbeat_at: Mapped[dt.datetime]
    executor_slots: Mapped[int]
    most_slots: Mapped[int]
    scaling: Mapped[str]
    drained: Mapped[bool]


class Schedule(Base):
    """A workflow that is started by the clock."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[dict[str, Any]]
    namespace: Mapped[str] = mapped_column(Computed("task->>'namespace'"))
    workflow: Mapped[str] = mapped_column(Computed("task->>'name'"))
    cron: Mapped[str | None]
    every_seconds: Mapped[int | None]
    starts_at: Mapped[dt.datetime | None]
    time_zone: Mapped[str]
    catch_up: Mapped[str]
    next_due_at: Mapped[dt.datetime]
    look_at: Mapped[dt.datetime]
    paused_at: Mapped[dt.datetime | None]
    last_due_at: Mapped[dt.datetime | None]
    last_task_uuid: Mapped[uuid.UUID | None]
    fired: Mapped[int] = mapped_column(BigInteger)
    failure: Mapped[str | None]
    failed_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime]
    created_by: Mapped[str | None]
    changed_at: Mapped[dt.datetime]
    changed_by: Mapped[str | None]


class Waiter(Base):
    """A process that waits for runs to finish."""

    __tablename__ = "waiters"

    channel: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[dt.datetime]


class CoordinatorTick(Base):
    """The one row about the coordinator's ticks."""

    __tablename__ = "coordinator"

    one: Mapped[bool] = mapped_column(primary_key=True)
    last_tick_at: Mapped[dt.datetime | None]
    series_started_at: Mapped[dt.datetime | None]
    ticked_by: Mapped[str | None]
    ticks: Mapped[int] = mapped_column(BigInteger)
    net_cursor: Mapped[uuid.UUID | None]
    retention: Mapped[dict[str, Any]]
    lifecycle_cursor: Mapped[uuid.UUID | None]


class CircuitBreaker(Base):
    """An external system, and whether it is called."""

    __tablename__ = "circuit_breakers"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    forced: Mapped[bool]
    failures: Mapped[int]
    successes: Mapped[int]
    failure_threshold: Mapped[int]
    success_threshold: Mapped[int]
    timeout_seconds: Mapped[float]
    opened_at: Mapped[dt.datetime | None]
    retry_at: Mapped[dt.datetime | None]
    probe_until: Mapped[dt.datetime | None]
    transitions: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str | None]
    changed_by: Mapped[str | None]
    changed_at: Mapped[dt.datetime]


class CircuitTransition(Base):
    """A change of a circuit's state."""

    __tablename__ = "circuit_transitions"

    name: Mapped[str] = mapped_column(primary_key=True)
    from_state: Mapped[str]
    to_state: Mapped[str]
    reason: Mapped[str | None]
    actor: Mapped[str | None]
    open_seconds: Mapped[float | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


class OperationalStateRow(Base):
    """What the whole system is doing: one row."""

    __tablename__ = "operational_state"

    one: Mapped[bool] = mapped_column(primary_key=True)
    state: Mapped[str]
    reason: Mapped[str | None]
    changed_by: Mapped[str | None]
    changed_at: Mapped[dt.datetime]


class OperationalStateTransition(Base):
    """A change of the operational state."""

    __tablename__ = "operational_state_transitions"

    from_state: Mapped[str]
    to_state: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str | None]
    actor: Mapped[str | None]
    at: Mapped[dt.datetime] = mapped_column(primary_key=True)


# -- metrics --------------------------------------------------------------------------------------------------


class MetricTotal(Base):
    """What was counted from the history, ever."""

    __tablename__ = "metric_totals"

    metric: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[list[str]] = mapped_column(primary_key=True)
    value: Mapped[float]


class MetricProgress(Base):
    """Up to when history was counted: one row."""

    __tablename__ = "metric_progress"

    one: Mapped[bool] = mapped_column(primary_key=True)
    counted_until: Mapped[dt.datetime]
    waiting: Mapped[dict[str, Any]]


class EndedExecutor(Base):
    """What executors had counted that are gone; it has no key."""

    __tablename__ = "ended_executors"

    kind: Mapped[str] = mapped_column(primary_key=True)
    counters: Mapped[dict[str, Any]] = mapped_column(primary_key=True)
