"""From a Celery canvas to a workflow: ``from_canvas(signature, …)``.

Each task of the canvas becomes a step, so a chain is a line of dependencies, and the body of a chord is a step that
depends on the last steps of its header. What an element passes on is written down as a reference to results, in the
place where Celery would put the value itself.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasker.workflows.celery_calls import OPTIONS
from tasker.workflows.code_places import callers_place
from tasker.workflows.declaration import Workflow
from tasker.workflows.model import IdentityStrategy
from tasker.workflows.names import MAX_NAME_LENGTH
from tasker.workflows.problems import InvalidTemplate, Problem, did_you_mean
from tasker.workflows.retry import Retry
from tasker.workflows.yaml_source import Place

if TYPE_CHECKING:
    from celery.canvas import Signature

_ROUTING = ("queue", "exchange", "routing_key", "priority", "expires")
"""Options that a task's own declaration may hold, and that Celery adds where its code is at hand: here, not later."""

_FROZEN = ("task_id", "group_id", "group_index", "chord", "chain", "root_id", "parent_id", "reply_to")
"""Options that Celery gives a canvas when it is sent, or frozen."""

_NO_COUNTERPART = {
    "eta": "is a moment, and a workflow runs more than once: use countdown, or run_at when the task is created",
    "retry": "is about sending, which Tasker does as it does all sending",
    "retry_policy": "is about sending, which Tasker does as it does all sending",
    "stamped_headers": "cannot be kept: a step has its own",
}

_CONTAINERS = {"chain": "a chain", "group": "a group", "chord": "a chord"}


def from_canvas(
    signature: Signature | Mapping[str, Any],
    namespace: str,
    name: str,
    *,
    version: str,
    retry: Retry | None = None,
    timeout_seconds: float | None = None,
    input_schema: type[Any] | Mapping[str, Any] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    identity_strategy: IdentityStrategy | None = None,
    system_dependency: str | None = None,
) -> Workflow:
    """Turn a Celery canvas into a workflow whose steps are its tasks.

    Steps are named after their tasks, the second of a name with ``_2`` and so on, in the order of the canvas.
    Arguments are as fixed as everything in a template; write ``{"$context": "/order_id"}`` for what comes with each
    run. The options of a task (``queue``, ``priority``, ``countdown`` …) go with its step.

    Args:
        signature: a signature, chain, group or chord, nested as you like; also as the mapping it is serialized to.
        namespace: as for ``workflow``.
        name: as for ``workflow``.
        version: as for ``workflow``.
        retry: of each step; the settings decide when left out. Retries of the tasks themselves happen within one
            attempt.
        timeout_seconds: of each attempt of each step, in seconds.
        input_schema: as for ``workflow``.
        description: as for ``workflow``.
        metadata: as for ``workflow``.
        identity_strategy: as for ``workflow``.
        system_dependency: as for ``workflow``.

    Returns:
        the workflow, to which hooks and further steps can be added.

    Raises:
        InvalidTemplate: something of the canvas has no counterpart; the message names the element.
    """
    place, file = callers_place(inspect.currentframe())
    made = Workflow(
        namespace,
        name,
        version=version,
        input_schema=input_schema,
        description=description,
        metadata=metadata,
        identity_strategy=identity_strategy,
        system_dependency=system_dependency,
        place=place,
        file=file,
    )
    translation = _Translation(place, file)
    translation.element(signature, _Given(), "")
    if not translation.steps and not translation.problems:
        translation.wrong("", signature, "is empty: there is nothing to run")
    if translation.problems:
        raise InvalidTemplate(translation.problems)
    common = {"retry": None if retry is None else retry.to_document(), "timeout_seconds": timeout_seconds}
    for step in translation.steps:
        made.add_step({**step, **common}, place, file)
    return made


@dataclass(frozen=True)
class _Given:
    """What an element gets from around it.

    Attributes:
        args: put before its own positional arguments, unless it is immutable; may hold references to results.
        kwargs: added to its own keyword arguments, unless it is immutable.
        after: steps that must be done before; all that ``args`` refer to are among them.
        options: rule over its own.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Passed:
    """What an element passes on.

    Attributes:
        value: JSON with references to results.
        steps: those that must be done before the value is there.
    """

    value: Any
    steps: tuple[str, ...]

    def to_next(self) -> _Given:
        return _Given(args=(self.value,), after=self.steps)


class _Translation:
    """One canvas on its way to steps.

    Args:
        place: where the canvas is translated, for problems.
        file: likewise.
    """

    def __init__(self, place: Place | None, file: str | None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.problems: list[Problem] = []
        self._line = None if place is None else place.line
        self._file = file
        self._names: set[str] = set()

    def wrong(self, path: str, element: Any, message: str) -> None:
        """Note a problem of an element; ``path`` leads to it from the canvas's top."""
        task = element.get("task") if isinstance(element, Mapping) else None
        kind = element.get("subtask_type") if isinstance(element, Mapping) else None
        name = _CONTAINERS.get(str(kind)) or task or repr(element)[:80]
        self.problems.append(Problem(f"{name} {message}", field=path or "canvas", file=self._file, line=self._line))

    # -- elements ---------------------------------------------------------------------------------------------

    def element(self, element: Any, given: _Given, path: str) -> _Passed | None:
        """Make steps of ``element``; what it passes on, or ``None`` if there is nothing or something is wrong."""
        from celery.canvas import Signature, maybe_signature

        if not isinstance(element, Mapping) or not isinstance(element.get("task"), str):
            name = getattr(element, "name", None)
            hint = f": pass its signature, {name}.s(…)" if name and hasattr(element, "apply_async") else ""
            self.wrong(path, element, f"is no signature{hint}")
            return None
        kind = element.get("subtask_type")
        if kind and kind not in Signature.TYPES:
            self.wrong(path, element, f"is a canvas of a kind that is not known: {kind!r}")
            return None
        signature = maybe_signature(element)
        match signature.subtask_type or signature.task:
            case "chain":
                passed = self._chain(signature, given, path)
            case "group":
                passed = self._group(signature, given, path)
            case "chord":
                passed = self._chord(signature, given, path)
            case "celery.chunks":
                passed = self._chunks(signature, given, path)
            case "celery.map" | "celery.starmap":
                passed = self._sequence(signature, given, path)
            case _:
                passed = self._task(signature, given, path)
        if passed is not None:
            for index, callback in enumerate(_listed(signature.options.get("link"))):
                self.element(callback, passed.to_next(), _join(path, f"link[{index}]"))
        return passed

    def _chain(self, chain: Any, given: _Given, path: str) -> _Passed | None:
        if set(chain.kwargs) - {"tasks"}:
            self.wrong(path, chain, "loses its keyword arguments in Celery, too: give them to its first task")
        options = self._options_of(chain, given, path)
        next_ = _Given(_args(chain, given), given.kwargs, given.after, options)
        passed: _Passed | None = None
        for index, element in enumerate(chain.tasks):
            at = _join(path, f"chain[{index}]")
            members = _members_of_group(element)
            if members is not None and len(members) == 1:
                # As Celery does: a group of one, in a chain, is that one.
                element, at = members[0], _join(at, "group[0]")
            elif members is not None and not members:
                continue
            found = self.element(element, next_, at)
            if found is not None:
                passed, next_ = found, found.to_next()
        return passed

    def _group(self, group: Any, given: _Given, path: str) -> _Passed | None:
        if group.args:
            self.wrong(path, group, "loses its arguments in Celery, too: give them to its tasks")
        if group.options.get("link"):
            self.wrong(path, group, "cannot have callbacks in Celery, either: use a chord")
            return None
        options = self._options_of(group, given, path)
        members = _members_of_group(group) or []
        inner = _Given(given.args, given.kwargs, given.after, options)
        return self._side_by_side(members, inner, path, "group")

    def _chord(self, chord: Any, given: _Given, path: str) -> _Passed | None:
        if chord.body is None:
            self.wrong(path, chord, "has no body")
            return None
        options = self._options_of(chord, given, path)
        kwargs = {**(chord.kwargs.get("kwargs") or {}), **given.kwargs}
        inner = _Given(_args(chord, given), kwargs, given.after, options)
        header = _members_of_group(chord.tasks)
        found = self._side_by_side(list(chord.tasks) if header is None else header, inner, path, "header")
        passed = found or _Passed([], given.after)
        body = {key: value for key, value in options.items() if key != "countdown"}
        return self.element(
            chord.body, _Given(args=(passed.value,), after=passed.steps, options=body), _join(path, "body")
        )

    def _side_by_side(self, members: Sequence[Any], given: _Given, path: str, kind: str) -> _Passed | None:
        """Elements that run at the same time; groups directly among them are one with them, as in Celery."""
        values: list[Any] = []
        steps: list[str] = []
        for index, member in enumerate(members):
            at = _join(path, f"{kind}[{index}]")
            inside = _members_of_group(member)
            if inside is None:
                found = self.element(member, given, at)
                if found is not None:
                    values.append(found.value)
                    steps += found.steps
                continue
            options = self._options_of(member, given, at)
            inner = _Given(given.args, given.kwargs, given.after, options)
            nested = self._side_by_side(inside, inner, at, "group")
            if nested is not None:
                values += nested.value
                steps += nested.steps
        return _Passed(values, tuple(dict.fromkeys(steps))) if values else None

    def _task(self, signature: Any, given: _Given, path: str) -> _Passed | None:
        args, kwargs = _args(signature, given), dict(signature.kwargs)
        if not signature.immutable:
            kwargs.update(given.kwargs)
        options = self._options_of(signature, given, path, task=signature)
        return self._step(signature, signature.task, signature.task, list(args), kwargs, options, given.after, path)

    def _chunks(self, chunks: Any, given: _Given, path: str) -> _Passed | None:
        from celery.canvas import chunks as make

        parts = make(*(chunks.kwargs[name] for name in ("task", "it", "n"))).group()
        return self._group(parts.set(**chunks.options), given, path)

    def _sequence(self, sequence: Any, given: _Given, path: str) -> _Passed | None:
        """``map`` and ``starmap``: one step, as it is one task, which every Celery program has."""
        from celery.canvas import maybe_signature

        called = maybe_signature(sequence.kwargs["task"])
        kind = sequence.task.rpartition(".")[2]
        options = self._options_of(sequence, given, path, task=called)
        kwargs = {"task": dict(called), "it": list(sequence.kwargs["it"])}
        name = f"{called.task}_{kind}"
        return self._step(sequence, name, sequence.task, [], kwargs, options, given.after, path)

    # -- steps ------------------------------------------------------------------------------------------------

    def _step(
        self,
        element: Any,
        name: str,
        task: str,
        args: list[Any],
        kwargs: dict[str, Any],
        options: Mapping[str, Any],
        after: tuple[str, ...],
        path: str,
    ) -> _Passed:
        call = {"args": args, **({"kwargs": kwargs} if kwargs else {})}
        for at, message in _not_json(call, ""):
            self.wrong(path, element, f"cannot be written down: {at} {message}")
        step_name = self._name(name)
        self.steps.append(
            {
                "name": step_name,
                "handler": {"callable": f"celery:{task}", "initialization": {**_json(call), **options}},
                "depends_on": list(after),
            }
        )
        return _Passed({"$result": step_name}, (step_name,))

    def _name(self, task: str) -> str:
        last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", task.rpartition(".")[2])
        plain = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_") or "task"
        plain = plain if plain[0].isalpha() else f"task_{plain}"
        number, name = 1, plain[:MAX_NAME_LENGTH]
        while name in self._names:
            number += 1
            suffix = f"_{number}"
            name = f"{plain[: MAX_NAME_LENGTH - len(suffix)]}{suffix}"
        self._names.add(name)
        return name

    def _options_of(self, element: Any, given: _Given, path: str, *, task: Any = None) -> dict[str, Any]:
        """The options of an element, under those given from around it."""
        options = {} if task is None else _declared_with(task)
        frozen = [name for name in _FROZEN if name in element.options]
        if frozen:
            self.wrong(path, element, f"was frozen or sent before ({', '.join(frozen)}): build the canvas anew")
            return options
        for name, value in element.options.items():
            if name == "link" or value is None:
                continue
            if name == "link_error":
                if _listed(value):
                    message = (
                        "has a link_error, which a graph has no place for: leave it out, use the workflow's on_error"
                    )
                    self.wrong(path, element, message)
            elif name in _NO_COUNTERPART:
                self.wrong(path, element, f"has an option without a counterpart: {name} {_NO_COUNTERPART[name]}")
            elif name not in OPTIONS:
                hint = did_you_mean(name, OPTIONS)
                self.wrong(path, element, f"has an option that a step cannot have: {name}{hint}")
            else:
                options[name] = value
        options = {name: getattr(value, "name", value) for name, value in {**options, **given.options}.items()}
        return {name: value for name, value in options.items() if name != "countdown" or value}


def _args(element: Any, given: _Given) -> tuple[Any, ...]:
    return tuple(element.args) if element.immutable else (*given.args, *element.args)


def _members_of_group(element: Any) -> list[Any] | None:
    """The members of a group that do anything; ``None`` for what is no group."""
    from celery.canvas import maybe_signature

    if not isinstance(element, Mapping) or element.get("subtask_type") != "group":
        return None
    members = [
        maybe_signature(member) if isinstance(member, Mapping) else member for member in element["kwargs"]["tasks"]
    ]
    return [member for member in members if not _is_empty_chain(member)]


def _is_empty_chain(element: Any) -> bool:
    if not isinstance(element, Mapping) or element.get("subtask_type") != "chain":
        return False
    return not element["kwargs"]["tasks"]


def _declared_with(signature: Any) -> dict[str, Any]:
    """What the task's declaration says of its routing, where its code is at hand."""
    from celery.exceptions import NotRegistered

    try:
        task = signature.type
    except (NotRegistered, KeyError):
        return {}
    found = {name: getattr(task, name, None) for name in _ROUTING}
    return {name: value for name, value in found.items() if value is not None}


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) or not isinstance(value, Iterable) else list(value)


def _join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _not_json(value: Any, path: str) -> Iterable[tuple[str, str]]:
    """What of a value is no plain JSON. Celery's own JSON carries dates and more, which a template cannot."""
    match value:
        case None | bool() | str() | int():
            return
        case float():
            if not math.isfinite(value):
                yield path, f"is {value}"
        case Mapping():
            for key, item in value.items():
                if isinstance(key, str):
                    yield from _not_json(item, _join(path, key))
                else:
                    yield path, f"has the key {key!r}, which is no text"
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _not_json(item, f"{path}[{index}]")
        case _:
            yield path, f"is a {type(value).__name__}; a template holds plain JSON"


def _json(value: Any) -> Any:
    """A value with plain lists and dicts instead of tuples and signatures."""
    match value:
        case Mapping():
            return {key: _json(item) for key, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case _:
            return value
