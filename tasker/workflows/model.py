"""The one model of a workflow, whether it was written in YAML or declared in Python.

A model holds what its author said, and nothing else: what is left out stays out, and is resolved from the settings
only when a version is registered (``definition.py``). Instances are immutable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

from tasker.workflows.names import check_identifier, check_namespace, check_version
from tasker.workflows.yaml_source import Source

if TYPE_CHECKING:
    from tasker.config.settings import Settings

MAX_ATTEMPTS = 32_767
MAX_DELAY_MS = 30 * 24 * 3600 * 1000
MAX_TIMEOUT_SECONDS = 30 * 24 * 3600
MAX_ENVIRONMENTS = 50

STEP_TYPES_NOT_YET = ("decision", "deferred_convergence", "batchable", "batch_worker")

IdentityStrategy = Literal["strict", "caller_provided", "always_unique"]
Backoff = Literal["exponential", "linear", "fixed", "none"]


def _at_least_one(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    if not steps:
        raise ValueError("must have at least one step")
    return steps


def _whole_if_possible(number: float) -> float:
    """30.0 and 30 are the same to their author, so they must be the same to the digest."""
    return int(number) if float(number).is_integer() else number


def _step_type(name: str) -> str:
    if name in STEP_TYPES_NOT_YET:
        raise ValueError(f"steps of type {name!r} are not supported yet: only 'standard' is")
    if name != "standard":
        raise ValueError(f"must be 'standard', not {name!r}")
    return name


def _batch_config(value: Any) -> Any:
    raise ValueError("belongs to steps of type 'batchable', which are not supported yet")


def _pointer(key: str) -> str:
    """A JSON Pointer (RFC 6901) to a value inside the context."""
    if not key.startswith("/") or len(key) > 500:
        raise ValueError("must be a JSON Pointer into the context, such as /tenant or /customer/id")
    return key


Identifier = Annotated[str, AfterValidator(check_identifier)]
Namespace = Annotated[str, AfterValidator(check_namespace)]
Version = Annotated[str, AfterValidator(check_version)]
Text = Annotated[str, StringConstraints(max_length=10_000)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Milliseconds = Annotated[int, Field(ge=0, le=MAX_DELAY_MS)]
Timeout = Annotated[float, Field(gt=0, le=MAX_TIMEOUT_SECONDS), AfterValidator(_whole_if_possible)]
Minutes = Annotated[int, Field(ge=1, le=525_600)]
JsonObject = dict[str, Any]


class Part(BaseModel):
    """Base of everything in a template: closed, immutable, and without conversions (``"3"`` is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    renamed: ClassVar[dict[str, str]] = {}
    """Other spellings of fields: as written, and the field's name here."""

    null_says_something: ClassVar[frozenset[str]] = frozenset()
    """Fields for which an explicit null differs from leaving them out."""


class HandlerSpec(Part):
    """Which code runs a step, and its settings."""

    callable: ShortText
    method: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)] | None = None
    initialization: JsonObject = Field(default_factory=dict)


class HandlerOverride(Part):
    """What an environment changes of a step's handler."""

    callable: ShortText | None = None
    method: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)] | None = None
    initialization: JsonObject | None = None


class TaskHandlerSpec(Part):
    """The hook object of a whole task: its methods ``on_complete`` and ``on_error`` are called once it is finished."""

    callable: ShortText
    initialization: JsonObject = Field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether the name can stand for something in Python; a class path of another language cannot."""
        return "::" not in self.callable


class TaskHandlerOverride(Part):
    """What an environment changes of the task's hook object."""

    callable: ShortText | None = None
    initialization: JsonObject | None = None


class RetryPolicy(Part):
    """When a failed attempt is followed by another; ``None`` leaves a value to the settings."""

    renamed: ClassVar[dict[str, str]] = {"limit": "max_attempts"}

    retryable: bool | None = None
    max_attempts: Annotated[int, Field(ge=0, le=MAX_ATTEMPTS)] | None = None
    backoff: Backoff | None = None
    backoff_base_ms: Milliseconds | None = None
    max_backoff_ms: Milliseconds | None = None


class RateSpec(Part):
    """So many in a time."""

    count: Annotated[int, Field(ge=1, le=1_000_000_000)]
    per_seconds: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_SECONDS), AfterValidator(_whole_if_possible)] = 1


class ConcurrencySpec(Part):
    """A limit that tasks share which have the same value in their context."""

    key: Annotated[str, AfterValidator(_pointer)]
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    rate: RateSpec | None = None

    @property
    def path(self) -> list[str]:
        """Where the value is found, part by part."""
        return [part.replace("~1", "/").replace("~0", "~") for part in self.key[1:].split("/")]


class EventDeclaration(Part):
    """A domain event that a step or a task publishes, once what its condition says has happened."""

    name: ShortText
    description: Text | None = None
    condition: Literal["success", "failure", "retryable_failure", "permanent_failure", "always"] | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    delivery_mode: Literal["durable", "fast", "broadcast"] | None = None
    publisher: ShortText | None = None


class Lifecycle(Part):
    """How long a task or a step may take and wait, and what becomes of it then."""

    max_duration_minutes: Minutes | None = None
    max_waiting_for_dependencies_minutes: Minutes | None = None
    max_waiting_for_retry_minutes: Minutes | None = None
    max_steps_in_process_minutes: Minutes | None = None
    staleness_action: Literal["dlq", "error", "manual_review"] | None = None
    auto_fail_on_timeout: bool | None = None
    auto_dlq_on_timeout: bool | None = None


class SystemDependencies(Part):
    """The systems that a workflow needs: ``primary`` guards its steps by a circuit, unless it is ``default``."""

    primary: ShortText | None = None
    secondary: tuple[ShortText, ...] = ()


class StepTemplate(Part):
    """One step: a node of the graph."""

    renamed: ClassVar[dict[str, str]] = {"dependencies": "depends_on"}
    null_says_something: ClassVar[frozenset[str]] = frozenset({"system_dependency"})

    name: Identifier
    description: Text | None = None
    type: Annotated[str, AfterValidator(_step_type)] = "standard"
    handler: HandlerSpec
    depends_on: tuple[str, ...] = ()
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    timeout_seconds: Timeout | None = None
    system_dependency: ShortText | None = None
    namespace: Namespace | None = None
    result_schema: JsonObject | None = None
    publishes_events: tuple[EventDeclaration, ...] = ()
    batch_config: Annotated[Any, AfterValidator(_batch_config)] = None
    lifecycle: Lifecycle | None = None

    @property
    def celery_task(self) -> str | None:
        """Name of the Celery task that runs this step, if it is one."""
        prefix, _, name = self.handler.callable.partition(":")
        return name if prefix == "celery" else None


class StepOverride(Part):
    """What an environment changes of one step, or of all (``ALL``)."""

    renamed: ClassVar[dict[str, str]] = StepTemplate.renamed

    name: str
    description: Text | None = None
    type: Annotated[str, AfterValidator(_step_type)] | None = None
    handler: HandlerOverride | None = None
    depends_on: tuple[str, ...] | None = None
    retry: RetryPolicy | None = None
    timeout_seconds: Timeout | None = None
    system_dependency: ShortText | None = None
    namespace: Namespace | None = None
    result_schema: JsonObject | None = None
    publishes_events: tuple[EventDeclaration, ...] | None = None
    batch_config: Annotated[Any, AfterValidator(_batch_config)] = None
    lifecycle: Lifecycle | None = None


class EnvironmentOverrides(Part):
    """What one environment changes."""

    task_handler: TaskHandlerOverride | None = None
    steps: tuple[StepOverride, ...] = ()


class CompletionHooks(Part):
    """Functions called once a task is finished, as ``module:name``; declared in Python only."""

    on_complete: tuple[ShortText, ...] = ()
    on_error: tuple[ShortText, ...] = ()


class WorkflowTemplate(Part):
    """One version of one workflow."""

    namespace_name: Namespace
    name: Identifier
    version: Version
    description: Text | None = None
    metadata: JsonObject = Field(default_factory=dict)
    task_handler: TaskHandlerSpec | None = None
    system_dependencies: SystemDependencies = Field(default_factory=SystemDependencies)
    domain_events: tuple[EventDeclaration, ...] = ()
    input_schema: JsonObject | None = None
    identity_strategy: IdentityStrategy | None = None
    lifecycle: Lifecycle | None = None
    concurrency: ConcurrencySpec | None = None
    hooks: CompletionHooks = Field(default_factory=CompletionHooks)
    steps: Annotated[tuple[StepTemplate, ...], AfterValidator(_at_least_one)]
    environments: Annotated[dict[str, EnvironmentOverrides], Field(max_length=MAX_ENVIRONMENTS)] = Field(
        default_factory=dict
    )

    # Where it was written, and for which environment its steps were resolved: not part of what it says.
    _source: Source = PrivateAttr(default_factory=lambda: Source(None))
    _environment: str | None = PrivateAttr(default=None)

    @property
    def source(self) -> Source:
        """Where the template was written, for messages."""
        return self._source

    @property
    def environment(self) -> str | None:
        """The environment whose overrides the steps already contain."""
        return self._environment

    @property
    def full_name(self) -> str:
        """``namespace/name:version``, as messages name a workflow."""
        return f"{self.namespace_name}/{self.name}:{self.version}"

    @property
    def has_after_work(self) -> bool:
        """Whether anything is done once a task is finished: hooks are run, or events published."""
        calls = self.task_handler is not None and self.task_handler.is_ours
        return bool(self.hooks.on_complete or self.hooks.on_error or calls or self.domain_events)

    def digest(self) -> str:
        """SHA-256 of the canonical document, in hexadecimal; equal definitions have equal digests."""
        from tasker.workflows.canonical import digest_of

        return digest_of(self)

    def to_definition(self, settings: Settings) -> dict[str, Any]:
        """The argument of ``tasker.register_template``: see ``definition.to_definition``."""
        from tasker.workflows.definition import to_definition

        return to_definition(self, settings)

    def step(self, name: str) -> StepTemplate:
        """The step of that name.

        Raises:
            KeyError: there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)
