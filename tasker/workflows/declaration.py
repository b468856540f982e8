"""Workflows declared in Python: ``workflow(...)`` and the decorators of its steps.

What is declared becomes the same model as a YAML template, through the same checks; what is wrong is told when the
decorator runs, so that a mistake stops the import and not a task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from typing_extensions import Unpack

from tasker.workflows.celery_calls import CeleryOptions
from tasker.workflows.code_places import callers_names, callers_place, place_of
from tasker.workflows.concurrency import Concurrency
from tasker.workflows.declared import StepDeclaration, callable_path, declarations_of, mark_step, remember
from tasker.workflows.events import Event, documents
from tasker.workflows.loading import build_template, check_step
from tasker.workflows.model import IdentityStrategy, WorkflowTemplate
from tasker.workflows.problems import InvalidTemplate, Problem, did_you_mean
from tasker.workflows.retry import Retry
from tasker.workflows.signatures import HandlerSignature, SignatureUnusable, handler_signature
from tasker.workflows.typed import TypedValue, TypeUnusable
from tasker.workflows.yaml_source import Path_, Place, Source

F = TypeVar("F", bound=Callable[..., Any])


class _Unset:
    """Marks an argument that was left out, where ``None`` says something."""

    def __repr__(self) -> str:
        return "unset"


UNSET = _Unset()


@dataclass(frozen=True)
class StepReference:
    """A step that has no function of its own, to be named in ``depends_on``."""

    name: str


_RETRY: Path_ = ("steps", 0, "retry")
_PYTHON_SPELLING: dict[Path_, Path_] = {
    (*_RETRY, "initial_delay"): (*_RETRY, "base_seconds"),
    (*_RETRY, "max_delay"): (*_RETRY, "max_seconds"),
}
"""How Python spells fields, for messages about a step by itself."""

Needed = str | StepReference | Callable[..., Any]
"""How ``depends_on`` names a step: its name, what ``celery_step`` returned, or its function."""


class Workflow:
    """One version of a workflow under declaration; made by ``workflow(...)``.

    Raises:
        InvalidTemplate: a name, the version or the input schema is wrong.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        *,
        version: str,
        input_schema: type[Any] | Mapping[str, Any] | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        identity_strategy: IdentityStrategy | None = None,
        system_dependency: str | None = None,
        concurrency: Concurrency | None = None,
        publishes: Iterable[Event | str] = (),
        place: Place | None = None,
        file: str | None = None,
    ) -> None:
        self.namespace, self.name, self.version = namespace, name, version
        self._file = file
        self._places: dict[Path_, Place] = {} if place is None else {(): place}
        self._steps: list[dict[str, Any]] = []
        self._step_names: dict[str, None] = {}  # a set that keeps its order
        self._hooks: dict[str, list[str]] = {"on_complete": [], "on_error": []}
        self._template: WorkflowTemplate | None = None
        self.context_type, schema = self._input(input_schema)
        self._head = {
            "namespace_name": namespace,
            "name": name,
            "version": version,
            "description": description,
            "metadata": None if metadata is None else dict(metadata),
            "identity_strategy": identity_strategy,
            "input_schema": schema,
            "system_dependencies": {"primary": system_dependency},
            "concurrency": None if concurrency is None else concurrency.to_document(),
            "domain_events": self._events(publishes, None, self._places.get(()), file),
        }
        # Checked with a step that is surely right, since the real ones are not here yet.
        stub = {"name": "step", "handler": {"callable": "module:function"}}
        build_template(Source({**self._head, "steps": [stub]}, file, self._places))

    def __repr__(self) -> str:
        return f"<Workflow {self.namespace}/{self.name}:{self.version}, {len(self._steps)} steps>"

    @property
    def template(self) -> WorkflowTemplate:
        """The workflow as it is declared so far.

        Raises:
            InvalidTemplate: it has no step, or something is wrong as a whole.
        """
        if self._template is None:
            document = {**self._head, "hooks": self._hooks, "steps": self._steps}
            self._template = build_template(Source(document, self._file, dict(self._places)))
        return self._template

    # -- steps ------------------------------------------------------------------------------------------------

    @overload
    def step(self, function: F, /) -> F: ...

    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        depends_on: Iterable[Needed] = (),
        retry: Retry | None = None,
        timeout_seconds: float | None = None,
        namespace: str | None = None,
        system_dependency: str | _Unset | None = UNSET,
        settings: Mapping[str, Any] | None = None,
        result_schema: Mapping[str, Any] | None = None,
        publishes: Iterable[Event | str] = (),
        description: str | None = None,
    ) -> Callable[[F], F]: ...

    def step(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        depends_on: Iterable[Needed] = (),
        retry: Retry | None = None,
        timeout_seconds: float | None = None,
        namespace: str | None = None,
        system_dependency: str | _Unset | None = UNSET,
        settings: Mapping[str, Any] | None = None,
        result_schema: Mapping[str, Any] | None = None,
        publishes: Iterable[Event | str] = (),
        description: str | None = None,
    ) -> Callable[..., Any]:
        """Declare a function as a step; it stays the plain function it is.

        A parameter named after an earlier step makes that a dependency and receives its result, turned into the
        annotated type. The return annotation becomes the step's ``result_schema``.

        Args:
            function: when used without arguments, ``@orders.step``.
            name: the step's name; the function's when left out.
            depends_on: steps that must come first although their results are not taken.
            retry: when a failed attempt is followed by another.
            timeout_seconds: deadline of one attempt, in seconds.
            namespace: namespace of the queue, where it differs from the workflow's.
            system_dependency: name of the circuit that guards the step; ``None`` means none, left out means the
                workflow's.
            settings: what ``ctx.settings`` holds (the template's ``handler.initialization``).
            result_schema: JSON Schema of the result, instead of the return annotation.
            publishes: domain events that tell what came of it.
            description: for readers.

        Raises:
            InvalidTemplate: the declaration is wrong; the message says file, line and step.
        """
        needed, events = list(depends_on), list(publishes)

        def declare(target: F) -> F:
            names = callers_names(inspect.currentframe(), __file__)
            self._declare(
                target,
                name,
                needed,
                names,
                {
                    "description": description,
                    "retry": None if retry is None else retry.to_document(),
                    "timeout_seconds": timeout_seconds,
                    "namespace": namespace,
                    "result_schema": None if result_schema is None else dict(result_schema),
                    **({} if isinstance(system_dependency, _Unset) else {"system_dependency": system_dependency}),
                },
                dict(settings or {}),
                events,
            )
            return target

        return declare if function is None else declare(function)

    def celery_step(
        self,
        name: str,
        *,
        task: str,
        depends_on: Iterable[Needed] = (),
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        timeout_seconds: float | None = None,
        namespace: str | None = None,
        system_dependency: str | _Unset | None = UNSET,
        result_schema: Mapping[str, Any] | None = None,
        publishes: Iterable[Event | str] = (),
        description: str | None = None,
        **options: Unpack[CeleryOptions],
    ) -> StepReference:
        """Declare an ordinary Celery task as a step.

        Args:
            name: the step's name.
            task: the Celery task's name.
            depends_on: steps that must come first.
            args: positional arguments; ``{"$result": step, "pointer": "/id"}`` and ``{"$context": "/id"}`` stand for
                parts of a result and of the context. Without ``args`` and ``kwargs`` the task is called with
                ``context=`` and ``results=``.
            kwargs: keyword arguments, likewise.
            retry: as for ``step``.
            timeout_seconds: as for ``step``.
            namespace: as for ``step``.
            system_dependency: as for ``step``.
            result_schema: as for ``step``.
            publishes: as for ``step``.
            description: as for ``step``.
            options: how it is sent, by Celery's names.

        Returns:
            what ``depends_on`` of later steps can name.

        Raises:
            InvalidTemplate: the declaration is wrong.
        """
        place, file = callers_place(inspect.currentframe())
        call = {"args": None if args is None else list(args), "kwargs": kwargs and dict(kwargs), **options}
        step = {
            "name": name,
            "description": description,
            "handler": {
                "callable": f"celery:{task}",
                "initialization": {key: value for key, value in call.items() if value is not None},
            },
            "depends_on": self._names(depends_on, name, place, file),
            "retry": None if retry is None else retry.to_document(),
            "timeout_seconds": timeout_seconds,
            "namespace": namespace,
            "result_schema": None if result_schema is None else dict(result_schema),
            "publishes_events": self._events(publishes, name, place, file),
            **({} if isinstance(system_dependency, _Unset) else {"system_dependency": system_dependency}),
        }
        self.add_step(step, place, file)
        return StepReference(name)

    def add_step(self, step: Mapping[str, Any], place: Place | None = None, file: str | None = None) -> None:
        """Add a step as a template writes it; for programs that make workflows.

        Args:
            step: the step's fields.
            place: the line to name in errors.
            file: the file to name in errors.

        Raises:
            InvalidTemplate: something of it is wrong.
        """
        step = {key: value for key, value in step.items() if value is not None or key == "system_dependency"}
        if step["name"] in self._step_names:
            raise self._wrong("another step has this name", place, file, step=step["name"], field="name")
        places: dict[Path_, Place] = {} if place is None else {("steps", 0): place}
        check_step(Source({"steps": [step]}, file, places, _PYTHON_SPELLING))
        if place is not None:
            self._places["steps", len(self._steps)] = place
        self._steps.append(step)
        self._step_names[step["name"]] = None
        self._template = None

    # -- hooks ------------------------------------------------------------------------------------------------

    def on_complete(self, function: F) -> F:
        """Call ``function(task: TaskOutcome)`` once a task of this workflow is complete.

        It runs under a finalization claim, at least once: make it safe to run twice, with (task, hook, finish_no) as
        its idempotency key.

        Raises:
            InvalidTemplate: it cannot be called with one argument, or has no importable name.
        """
        return self._hook("on_complete", function)

    def on_error(self, function: F) -> F:
        """Call ``function(task: TaskOutcome)`` once a task of this workflow ended in error; as ``on_complete``."""
        return self._hook("on_error", function)

    def _hook(self, kind: str, function: F) -> F:
        place, file = place_of(function)
        try:
            path = callable_path(function)
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise SignatureUnusable("is a generator: a hook is called once, and its result is not used")
            inspect.signature(function).bind(object())
        except (TypeError, ValueError) as error:
            message = str(error)
            if isinstance(error, TypeError):
                message = f"must take one argument, the TaskOutcome: {message}"
            name = getattr(function, "__name__", repr(function))
            raise self._wrong(f"{name} {message}", place, file, field=kind) from error
        remember(path, function)
        if path not in self._hooks[kind]:
            self._hooks[kind].append(path)
        self._template = None
        return function

    # -- how a declaration is taken in ------------------------------------------------------------------------

    def _declare(
        self,
        target: Callable[..., Any],
        name: str | None,
        needed: list[Needed],
        names: Mapping[str, Any],
        options: dict[str, Any],
        settings: dict[str, Any],
        events: list[Event | str],
    ) -> None:
        place, file = place_of(target)
        step_name = str(name or getattr(target, "__name__", ""))
        try:
            path = callable_path(target)
            signature = self._signature(target, names)
        except (SignatureUnusable, ValueError) as error:
            raise self._wrong(f"the function {error}", place, file, step=step_name) from error
        by_data = [dependency.name for dependency in signature.dependencies]
        for parameter in by_data:
            if parameter not in self._step_names:
                hint = did_you_mean(parameter, self._step_names)
                raise self._wrong(
                    f"the parameter {parameter!r} names no earlier step{hint}",
                    place,
                    file,
                    step=step_name,
                )
        depends_on = list(dict.fromkeys([*by_data, *self._names(needed, step_name, place, file)]))
        if options["result_schema"] is None and signature.returns is not None:
            try:
                options["result_schema"] = signature.returns.schema("serialization")
            except TypeUnusable as error:
                raise self._wrong(f"the function returns {error}", place, file, step=step_name) from error
        options["publishes_events"] = self._events(events, step_name, place, file)
        handler = {"callable": path, "initialization": settings}
        self.add_step({"name": step_name, **options, "handler": handler, "depends_on": depends_on}, place, file)
        remember(path, target)
        mark_step(target, StepDeclaration(self, step_name, signature))

    def _events(
        self, events: Iterable[Event | str], step: str | None, place: Place | None, file: str | None
    ) -> list[Any] | None:
        try:
            return documents(events) or None
        except ValueError as error:
            field = "domain_events" if step is None else "publishes_events"
            raise self._wrong(f"the publisher {error}", place, file, step=step, field=field) from error

    def _signature(self, target: Callable[..., Any], names: Mapping[str, Any]) -> HandlerSignature:
        if not isinstance(target, type):
            return handler_signature(target, names)
        call = getattr(target, "call", None)
        if call is None:
            raise SignatureUnusable("is a class without a method `call`: derive it from StepHandler")
        # Bound to nothing: only `self` has to go.
        return handler_signature(call.__get__(object(), target), names)

    def _names(self, needed: Iterable[Needed], step_name: str, place: Place | None, file: str | None) -> list[str]:
        result: list[str] = []
        for item in needed:
            match item:
                case str():
                    name = item
                case StepReference():
                    name = item.name
                case _:
                    found = [entry.step_name for entry in declarations_of(item) if entry.workflow is self]
                    name = found[0] if found else getattr(item, "__name__", repr(item))
            if name not in self._step_names:
                raise self._wrong(
                    f"there is no earlier step {name!r}{did_you_mean(name, self._step_names)}",
                    place,
                    file,
                    step=step_name,
                    field="depends_on",
                )
            result.append(name)
        return result

    def _input(self, schema: Any) -> tuple[TypedValue | None, dict[str, Any] | None]:
        if schema is None or isinstance(schema, Mapping):
            return None, None if schema is None else dict(schema)
        place = self._places.get(())
        try:
            found = TypedValue(schema)
            return found, found.schema("validation")
        except TypeUnusable as error:
            raise self._wrong(
                f"is {error}; give a pydantic model or a JSON Schema", place, self._file, field="input_schema"
            ) from error

    def _wrong(
        self, message: str, place: Place | None, file: str | None, *, step: str | None = None, field: str = ""
    ) -> InvalidTemplate:
        line = None if place is None else place.line
        return InvalidTemplate([Problem(message, field=field, step=step, file=file, line=line)])


def workflow(
    namespace: str,
    name: str,
    *,
    version: str,
    input_schema: type[Any] | Mapping[str, Any] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    identity_strategy: IdentityStrategy | None = None,
    system_dependency: str | None = None,
    concurrency: Concurrency | None = None,
    publishes: Iterable[Event | str] = (),
) -> Workflow:
    """Begin the declaration of a workflow.

    Args:
        namespace: its namespace; the steps go to that namespace's queue.
        name: its name.
        version: ``x.y.z``; a version that tasks use never changes, so raise it with every change.
        input_schema: what contexts must look like: a pydantic model (or dataclass, or TypedDict), of which
            ``ctx.context`` is then an instance, or a JSON Schema.
        description: for readers.
        metadata: free data, kept and searchable, never interpreted.
        identity_strategy: when two tasks are the same; the settings decide when left out.
        system_dependency: circuit of the steps that name none of their own.
        concurrency: a limit that tasks with the same value in their context share.
        publishes: domain events of the whole task, sent once it is final.

    Raises:
        InvalidTemplate: something of this is wrong.
    """
    place, file = callers_place(inspect.currentframe())
    return Workflow(
        namespace,
        name,
        version=version,
        input_schema=input_schema,
        description=description,
        metadata=metadata,
        identity_strategy=identity_strategy,
        system_dependency=system_dependency,
        concurrency=concurrency,
        publishes=publishes,
        place=place,
        file=file,
    )
