"""The sections of the settings: frozen, typed, one class per table of the TOML files.

A duration carries its unit in its name (``_seconds``, ``_ms``), a size its ``_bytes``. Each field's description is what
``tasker config explain`` prints; each default is also written, with its reason, in ``settings/base/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_STEPS = 65_534
"""Positions are 16 bits of a step's uuid, and 0 is kept free."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_DATABASE_URL = re.compile(r"(postgres|postgresql)(\+\w+)?://\S*|.*\b(host|dbname|service|user|port)\s*=.*", re.DOTALL)
_ANY_URL = re.compile(r"[A-Za-z][\w+.-]*://\S*")
_BROKER_URL_ALLOWED = "a URL such as redis://host:6379/0"
_BIND_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")
_BIND_ADDRESS_ALLOWED = "an address and a port, such as 127.0.0.1:8080 or [::1]:8080"


def _refuse(allowed: str) -> PydanticCustomError:
    """The error of a value that has the right type and the wrong content."""
    return PydanticCustomError("tasker_value", "{allowed}", {"allowed": allowed})


def _split(value: object) -> object:
    """A list from TOML, or ``a,b`` from an environment variable, as a tuple; anything else is left to be refused."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise _refuse("each entry once")
    return values


def _namespace(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > 33:
        raise _refuse("namespaces match [a-z][a-z0-9_]* and have at most 33 characters")
    return value


def _module(value: str) -> str:
    if not _MODULE.fullmatch(value):
        raise _refuse("dotted names of Python modules, such as shop.handlers")
    return value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value else value


def _url(value: str) -> str:
    if not _DATABASE_URL.fullmatch(value):
        raise _refuse("a PostgreSQL URL such as postgresql://user:password@host:5432/database")
    return value


def _broker_url(value: str) -> str:
    if not _ANY_URL.fullmatch(value):
        raise _refuse(_BROKER_URL_ALLOWED)
    return value


def _bind_address(value: str) -> str:
    found = _BIND_ADDRESS.fullmatch(value)
    if found is None or int(found["port"]) > 65_535:
        raise _refuse(_BIND_ADDRESS_ALLOWED)
    return value


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
Seconds = Annotated[float, Field(gt=0, le=604_800)]
WholeSeconds = Annotated[int, Field(ge=1, le=604_800)]
Bytes = Annotated[int, Field(ge=1024, le=268_435_456)]
Namespaces = Annotated[
    tuple[Annotated[str, AfterValidator(_namespace)], ...], BeforeValidator(_split), AfterValidator(_distinct)
]
Modules = Annotated[
    tuple[Annotated[str, AfterValidator(_module)], ...], BeforeValidator(_split), AfterValidator(_distinct)
]
Paths = Annotated[
    tuple[Annotated[Path, BeforeValidator(_path)], ...], BeforeValidator(_split), AfterValidator(_distinct)
]


class Section(BaseModel):
    """A table of settings: frozen, without unknown keys, without guessing of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    free: ClassVar[type[Section] | None] = None
    """What tables are like whose names are free, where a table holds such."""

    def member(self, name: str) -> object:
        """The value, or the table, called ``name``.

        Raises:
            KeyError: there is none.
        """
        if name not in type(self).model_fields:
            raise KeyError(name)
        value: object = getattr(self, name)
        return value


class OperationalStateSettings(Section):
    """How workers end."""

    graceful_shutdown_timeout_seconds: Seconds = Field(
        30,
        description="At a warm end of a worker running handlers may go on for so long; then they are interrupted, and"
        " their steps go back to their queues. What kills workers must wait longer.",
    )
    emergency_shutdown_timeout_seconds: Seconds = Field(
        5, description="The same at a cold end (SIGQUIT, Ctrl-C twice), and for a pool process that is ended alone."
    )
    suppress_alerts_during_shutdown: bool = Field(
        True, description="Say nothing of executors and workers that go while the system ends on purpose."
    )
    startup_health_threshold_multiplier: float = Field(
        3, ge=1, le=100, description="While the system starts, things may take so many times longer until they count."
    )
    shutdown_health_threshold_multiplier: float = Field(
        5, ge=1, le=100, description="The same while the system ends on purpose."
    )


class BackpressureSettings(Section):
    """When new tasks of a namespace wait, and when they are refused."""

    soft_queue_depth: int = Field(
        100_000,
        ge=0,
        le=1_000_000_000,
        description="With so many steps waiting on its queue, a namespace's new tasks wait for admission. 0: no limit.",
    )
    hard_queue_depth: int = Field(
        5_000_000,
        ge=0,
        le=1_000_000_000,
        description="With so many steps and tasks waiting in a namespace, more tasks are refused. 0: no limit.",
    )
    max_oldest_message_seconds: int = Field(
        0,
        ge=0,
        le=3_153_600_000,
        description="While a step waits on a namespace's queue for longer, new tasks wait for admission. 0: no limit.",
    )
    retry_after_seconds: Seconds = Field(5, description="What a refused caller is told to wait.")


class OrchestrationSettings(Section):
    """How executors are hosted, kept alive and watched."""

    active_namespaces: Namespaces = Field((), description="Namespaces whose queues are made sure of at start.")
    hosting: Literal["resident", "periodic"] = Field(
        "resident",
        description="Orchestration executors live in worker slots (resident), or beat sends one bounded drain of each"
        " kind per tick (periodic).",
    )
    health_check_interval_seconds: Seconds = Field(10, description="Period of the coordinator's tick.")
    max_backlog_age_seconds: Seconds = Field(
        300,
        description="A message that waits for longer makes health degraded; unhealthy where nobody serves its queue.",
    )
    auto_scaling_enabled: bool = Field(
        True,
        description="Change how many executors there are by what they have to do; otherwise only missing ones come.",
    )
    target_utilization: float = Field(
        0.75, ge=0.1, le=0.95, description="Share of their time that executors of a pool of the right size are at work."
    )
    scaling_interval_seconds: Seconds = Field(
        30, description="How often it is decided how many executors there shall be."
    )
    scaling_cooldown_seconds: Seconds = Field(
        60, description="Shortest time between two changes of one pool; fewer executors take five times as long."
    )
    scaling_backlog_per_executor: Count = Field(
        100, description="A pool with more waiting messages for each executor than this grows."
    )
    scaling_message_age_seconds: Seconds = Field(
        30, description="A pool whose oldest message waits for longer than this grows, however few there are."
    )
    scaling_drain_seconds: Seconds = Field(
        60, description="A pool is to be large enough for what arrives and to work off what waits within this time."
    )
    max_worker_slots: int = Field(
        0,
        ge=0,
        le=1000,
        description="Executors that a prefork worker may host where it was started with fewer: its pool grows and"
        " shrinks between -c and this. 0: it keeps its size. Workers with --autoscale name their bounds there.",
    )
    heartbeat_interval_seconds: Seconds = Field(3, description="Each executor writes its heartbeat this often.")
    executor_lease_seconds: Seconds = Field(
        15,
        description="An executor whose heartbeat did not change over this time counts as lost; its steps go back to"
        " their queues. At least three heartbeats.",
        json_schema_extra={"derived": "five heartbeats"},
    )
    executor_lifetime_seconds: Seconds = Field(
        300, description="An executor gives its slot back after about this time (jittered) and is started again."
    )
    spare_slots: int = Field(
        1, ge=0, le=1000, description="Worker slots kept free for ordinary Celery tasks and the coordinator."
    )
    finalization_claim_timeout_seconds: WholeSeconds = Field(
        30, description="A finalization claim expires after this, so that another finalizer may continue."
    )
    default_claim_timeout_seconds: WholeSeconds = Field(
        60, description="A claim on a task that waits for admission expires after this."
    )
    operational_state: OperationalStateSettings = OperationalStateSettings()
    max_db_pool_usage: float = Field(
        0.85,
        gt=0,
        le=1,
        description="With more of the server's connections in use, new tasks wait for admission. 1: no such limit.",
    )
    backpressure: BackpressureSettings = BackpressureSettings()

    @model_validator(mode="before")
    @classmethod
    def _derive_lease(cls, values: Any) -> Any:
        heartbeat = values.get("heartbeat_interval_seconds") if isinstance(values, dict) else None
        if isinstance(heartbeat, (int, float)) and heartbeat > 0 and "executor_lease_seconds" not in values:
            return {**values, "executor_lease_seconds": 5 * heartbeat}
        return values


class StepExecutorSettings(Section):
    """Executors of one kind: how many, how often they look, how much they take."""

    min_executors: int = Field(
        1,
        ge=0,
        le=1000,
        description="Fewest executors of this kind over all workers; the coordinator replaces missing ones.",
    )
    max_executors: int = Field(
        2, ge=1, le=1000, description="Most executors of this kind over all workers; the connection budget counts them."
    )
    polling_interval_ms: Milliseconds = Field(
        50, description="Shortest wait after an empty drain; it doubles from here, and a notification ends it early."
    )
    max_polling_interval_ms: Milliseconds = Field(5000, description="Longest wait after empty drains.")
    batch_size: int = Field(50, ge=1, le=1000, description="Most items that one drain takes.")
    circuit_breaker_enabled: bool = Field(
        True, description="Leave an executor alone for half a minute whose drains fail one after the other."
    )
    circuit_breaker_threshold: int = Field(
        5, ge=1, le=1000, description="So many drains in a row that fail open the circuit of their executor."
    )


class PoolSettings(StepExecutorSettings):
    """Executors of one orchestration kind, whose drains have a deadline."""

    processing_timeout_ms: Milliseconds = Field(
        30_000, description="Deadline of one drain of an orchestration executor, never of a step."
    )


class ExecutorPools(Section):
    """One table per kind of executor."""

    step_executor: StepExecutorSettings = StepExecutorSettings(max_executors=8, batch_size=200)
    task_request_processor: PoolSettings = PoolSettings()
    task_claimer: PoolSettings = PoolSettings()
    step_enqueuer: PoolSettings = PoolSettings()
    step_result_processor: PoolSettings = PoolSettings(batch_size=100)
    task_finalizer: PoolSettings = PoolSettings(batch_size=20)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_each_kind(cls, values: Any) -> Any:
        """A kind of which only some keys are given keeps its own defaults for the others, not those of its class."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for kind, given in values.items():
            field = cls.model_fields.get(kind)
            if field is not None and isinstance(given, dict):
                merged[kind] = {**field.default.model_dump(), **given}
        return merged

    def __getitem__(self, kind: str) -> StepExecutorSettings:
        """The settings of the kind named ``kind`` (an ``ExecutorKind`` is such a name)."""
        if kind not in type(self).model_fields:
            raise KeyError(kind)
        settings: StepExecutorSettings = getattr(self, kind)
        return settings

    def by_kind(self) -> Iterator[tuple[str, StepExecutorSettings]]:
        """Name and settings of every kind."""
        for kind in type(self).model_fields:
            yield kind, self[kind]


class ConnectionPoolSettings(Section):
    """The pool of PostgreSQL connections that each process has."""

    max_connections: int = Field(
        5,
        ge=2,
        le=1000,
        description="Most connections of one process: one for work, one for heartbeats, the rest in parallel.",
    )
    min_connections: int = Field(
        1, ge=0, le=1000, description="Connections of one process that are kept open when idle."
    )
    acquire_timeout_seconds: Seconds = Field(10, description="Longest wait for a free connection of the pool.")
    idle_timeout_seconds: Seconds = Field(
        300, description="Connections above the minimum are closed after this idle time."
    )
    max_lifetime_seconds: Seconds = Field(3600, description="A connection is replaced when it reaches this age.")


class RetentionSettings(Section):
    """How long is kept what is over."""

    finished_task_days: float = Field(
        30,
        ge=0,
        le=36_500,
        description="A finished task goes with its steps and results when it has been final for so many days (0.5 is"
        " twelve hours). 0 keeps finished tasks for ever.",
    )
    audit_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="The history of tasks, steps, circuits and pools is kept for so many days. 0 keeps it for ever. At"
        " least finished_task_days.",
    )


class DatabaseSettings(Section):
    """The one PostgreSQL that holds all state."""

    url: Annotated[str, AfterValidator(_url)] | None = Field(
        None,
        repr=False,
        description="URL of the database; unset means the embedded PostgreSQL.",
        json_schema_extra={
            "secret": True,
            "allowed": "a PostgreSQL URL such as postgresql://user:password@host:5432/database",
        },
    )
    pool: ConnectionPoolSettings = ConnectionPoolSettings()
    statement_timeout_ms: int = Field(
        30_000, ge=100, le=3_600_000, description="PostgreSQL cancels a statement of ours after this time."
    )
    answer_timeout_seconds: Seconds = Field(
        35,
        description="A connection on which the server says nothing for so long in the middle of a call counts as lost."
        " Above statement_timeout_ms.",
        json_schema_extra={"derived": "five seconds more than statement_timeout_ms"},
    )
    connection_timeout_seconds: WholeSeconds = Field(10, description="Longest wait for a new connection to be made.")
    resource_validation: Literal["fail_fast", "degraded", "best_effort"] = Field(
        "degraded",
        description="When all processes together could want more connections than the server has: refuse to start"
        " (fail_fast), make the pools smaller (degraded), or warn (best_effort).",
    )
    retention: RetentionSettings = RetentionSettings()
    migrate_on_start: bool = Field(
        True,
        description="Migrate the database when the core starts, instead of stopping at an old schema.",
        json_schema_extra={"derived": "true for the embedded PostgreSQL, false when database.url is set"},
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_migrate_on_start(cls, values: Any) -> Any:
        if isinstance(values, dict) and "migrate_on_start" not in values:
            return {**values, "migrate_on_start": values.get("url") is None}
        return values

    @model_validator(mode="before")
    @classmethod
    def _derive_answer_timeout(cls, values: Any) -> Any:
        statement = values.get("statement_timeout_ms") if isinstance(values, dict) else None
        if isinstance(statement, int) and statement > 0 and "answer_timeout_seconds" not in values:
            return {**values, "answer_timeout_seconds": statement / 1000 + 5}
        return values


class DependencyGraphSettings(Section):
    """Bounds of a workflow's graph."""

    max_depth: int = Field(1000, ge=1, le=MAX_STEPS, description="Longest chain of dependencies in a workflow.")


class CeleryStepsSettings(Section):
    """The Celery app that steps which are Celery tasks are sent through: Tasker's own, unless another is named."""

    broker_url: Annotated[str, AfterValidator(_broker_url)] | None = Field(
        None,
        repr=False,
        description="Broker of the workers that run Celery tasks as steps; unset means the broker of Tasker's own"
        " workers, or what config_module says.",
        json_schema_extra={"secret": True, "allowed": _BROKER_URL_ALLOWED},
    )
    result_backend: Annotated[str, AfterValidator(_broker_url)] | None = Field(
        None,
        repr=False,
        description="Result backend of those workers, where Tasker reads why a task failed; unset means what"
        " config_module says, or none.",
        json_schema_extra={"secret": True, "allowed": "a URL such as redis://host:6379/1"},
    )
    config_module: Annotated[str, AfterValidator(_module)] | None = Field(
        None,
        description="Module of plain Celery settings for sending those tasks (routes, queues, transport options).",
        json_schema_extra={
            "derived": "none",
            "allowed": "the dotted name of a Python module, such as shop.celeryconfig",
        },
    )
    callback_queue: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "tasker_step_results",
        description="Queue on that broker by which outcomes come back; workers of the queue orchestration read it.",
        json_schema_extra={"allowed": "a Celery queue's name"},
    )
    terminate: bool = Field(
        False,
        description="End the process of a step's Celery task when the step is over before it: cancelled, resolved or"
        " timed out. Steps may say otherwise.",
    )

    @property
    def is_other_app(self) -> bool:
        """Whether steps are sent through another app than Tasker's own."""
        return self.broker_url is not None or self.config_module is not None


class EngineSettings(Section):
    """Where workflows and handlers are found, and when two tasks are the same."""

    template_paths: Paths = Field(
        (),
        description="Folders (or files) of YAML templates. Relative ones count from the folder that holds the settings"
        " folder, or from the working directory when given by an environment variable.",
    )
    handler_modules: Modules = Field(
        (), description="Modules (with their submodules) among which handlers named by templates are looked up."
    )
    identity_strategy: Literal["strict", "caller_provided", "always_unique"] | None = Field(
        None,
        description="When two tasks are the same: equal context (strict), equal key (caller_provided), never"
        " (always_unique). Unset: by key where one is given, else never. Templates may say otherwise.",
        json_schema_extra={"derived": "by key where one is given, else never"},
    )
    dependency_graph: DependencyGraphSettings = DependencyGraphSettings()
    celery_steps: CeleryStepsSettings = CeleryStepsSettings()


class PgmqSettings(Section):
    """Queues and messages."""

    poll_interval_ms: Milliseconds = Field(
        250, description="Wait of PgmqClient.read_messages between two looks; executors have their own intervals."
    )
    max_batch_size: int = Field(1000, ge=1, le=10_000, description="Most messages of one PgmqClient.read_messages.")
    notify_enabled: bool = Field(
        True,
        description="Processes LISTEN for notifications; false (for session-less poolers) leaves polling alone.",
    )
    max_message_bytes: Bytes = Field(2_097_152, description="Largest message that is sent or accepted.")
    visibility_timeout_seconds: WholeSeconds = Field(
        60, description="A message that is read before it is deleted comes back after this time."
    )
    max_receive_count: int = Field(
        5, ge=1, le=1000, description="A message read this often without success goes to dead letters."
    )
    archive_retention_seconds: int = Field(
        2_592_000,
        ge=0,
        le=3_153_600_000,
        description="A message in the archive of one of Tasker's queues goes after this time. 0 keeps it for ever.",
    )
    event_retention_seconds: int = Field(
        604_800,
        ge=0,
        le=3_153_600_000,
        description="A durable domain event that no consumer has handled goes after this time. 0 keeps it for ever.",
    )


class CacheSettings(Section):
    """One cache of the process."""

    ttl_seconds: Seconds = Field(300, description="An entry is read again after this time.")
    max_entries: Count = Field(1000, description="The cache keeps this many entries, the most recently used ones.")


class QueryCacheSettings(Section):
    """Caches of what seldom changes; health is never cached."""

    enabled: bool = Field(True, description="Whether these caches keep anything.")
    task_metadata: CacheSettings = CacheSettings()
    handler_metadata: CacheSettings = CacheSettings()


class BackoffSettings(Section):
    """Retry delays of steps that say nothing of their own."""

    base_seconds: Seconds = Field(1, description="Delay before the first retry.")
    multiplier: float = Field(2, ge=1, le=100, description="Factor from one delay to the next (exponential backoff).")
    max_seconds: Seconds = Field(300, description="Longest delay.")
    jitter_enabled: bool = Field(True, description="Whether delays are spread at random.")
    jitter_max_percentage: float = Field(
        0.1, ge=0, le=1, description="Largest share by which a delay is spread; 0.1 is a tenth either way."
    )

    @property
    def jitter_fraction(self) -> float:
        """The spread that applies: 0 when jitter is off."""
        return self.jitter_max_percentage if self.jitter_enabled else 0.0


class SystemSettings(Section):
    """Limits and defaults that hold for all workflows."""

    max_concurrent_tasks: int = Field(
        0, ge=0, le=1_000_000_000, description="With so many tasks under way, others wait for admission. 0: no limit."
    )
    max_concurrent_steps: int = Field(
        0, ge=0, le=1_000_000_000, description="With so many live steps, tasks wait for admission. 0: no limit."
    )
    max_workflow_steps: int = Field(10_000, ge=1, le=MAX_STEPS, description="Most steps of one workflow.")
    max_context_bytes: Bytes = Field(1_048_576, description="Largest context of a task, as JSON.")
    max_result_bytes: Bytes = Field(1_048_576, description="Largest result of a step, as JSON.")
    max_claim_bytes: Bytes = Field(
        8_388_608, description="Parents' results above this size in one claim are read in pages instead."
    )
    step_execution_timeout_seconds: Seconds = Field(
        300, description="Deadline of one attempt of a step that names none."
    )
    backoff: BackoffSettings = BackoffSettings()


class WebPoolSettings(Section):
    """The server's own pool of PostgreSQL connections."""

    max_connections: int = Field(
        5,
        ge=2,
        le=1000,
        description="Most connections of the server, and so the requests that ask the database at the same time.",
    )


class WebSettings(Section):
    """The HTTP server."""

    bind_address: Annotated[str, AfterValidator(_bind_address)] = Field(
        "0.0.0.0:8080",
        description="Where the server listens; port 0 takes a free one.",
        json_schema_extra={"allowed": _BIND_ADDRESS_ALLOWED},
    )
    request_timeout_ms: Milliseconds = Field(
        30_000, description="A request that is not answered after this is answered with 504."
    )
    max_concurrent_requests: int = Field(
        100,
        ge=1,
        le=100_000,
        description=(
            "Requests beyond these are answered with 503 and Retry-After; /live and /ready are always answered."
        ),
    )
    database_pool: WebPoolSettings = WebPoolSettings()

    @property
    def host(self) -> str:
        """The address of ``bind_address``, without brackets."""
        return self.bind_address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of ``bind_address``."""
        return int(self.bind_address.rpartition(":")[2])
