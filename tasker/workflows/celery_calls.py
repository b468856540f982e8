"""What a delegated step passes to its Celery task: literal arguments, and references into results and context.

``handler.initialization`` of a ``celery:`` step holds ``args``, ``kwargs`` and ``queue``. Inside ``args`` and
``kwargs``, ``{"$result": "charge", "pointer": "/id"}`` stands for a part of a step's result,
``{"$context": "/order_id"}`` for a part of the context; a JSON pointer that is left out or empty means the whole.
Without ``args`` and ``kwargs`` the task is called with ``context=`` and ``results=``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.errors import PermanentError
from tasker.workflows.problems import did_you_mean
from tasker.workflows.yaml_source import Path_

_FIELDS = ("args", "kwargs", "queue")


@dataclass(frozen=True)
class CeleryCall:
    """How to send one Celery task.

    Attributes:
        args: its positional arguments.
        kwargs: its keyword arguments.
        queue: the Celery queue to send it to; ``None`` leaves it to Celery's routing.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    queue: str | None


def check_call(initialization: Mapping[str, Any], depends_on: Sequence[str]) -> Iterator[tuple[Path_, str]]:
    """What is wrong with the ``initialization`` of a ``celery:`` handler, as paths and messages."""
    for name in initialization:
        if name not in _FIELDS:
            yield (name,), f"unknown field of a Celery task's call{did_you_mean(name, _FIELDS)}"
    args, kwargs, queue = (initialization.get(name) for name in _FIELDS)
    if args is not None and not isinstance(args, list):
        yield ("args",), "must be a list"
    if kwargs is not None and not isinstance(kwargs, dict):
        yield ("kwargs",), "must be a mapping"
    if queue is not None and (not isinstance(queue, str) or not queue):
        yield ("queue",), "must be the name of a Celery queue"
    for path, value in _mappings({"args": args, "kwargs": kwargs}, ()):
        yield from ((path, message) for message in _check_reference(value, depends_on))


def build_call(initialization: Mapping[str, Any], context: Any, results: Mapping[str, Any]) -> CeleryCall:
    """The call of a delegated step's Celery task, with its references resolved.

    Args:
        initialization: the step's ``handler.initialization``.
        context: the task's context.
        results: results of the steps that this one depends on.

    Raises:
        PermanentError: a reference leads nowhere.
    """
    args, kwargs, queue = (initialization.get(name) for name in _FIELDS)
    if args is None and kwargs is None:
        return CeleryCall([], {"context": context, "results": dict(results)}, queue)
    return CeleryCall(
        _resolve(args or [], context, results),
        _resolve(kwargs or {}, context, results),
        queue,
    )


def _mappings(value: Any, path: Path_) -> Iterator[tuple[Path_, dict[str, Any]]]:
    if isinstance(value, dict):
        if path:
            yield path, value
        for key, item in value.items():
            yield from _mappings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mappings(item, (*path, index))


def _check_reference(value: dict[str, Any], depends_on: Sequence[str]) -> Iterator[str]:
    if "$result" in value:
        step, pointer = value["$result"], value.get("pointer", "")
        if set(value) - {"$result", "pointer"}:
            yield "a reference to a result has $result and pointer, and nothing else"
        if step not in depends_on:
            yield f"$result names {step!r}, on which the step does not depend{did_you_mean(step, depends_on)}"
    elif "$context" in value:
        pointer = value["$context"]
        if set(value) - {"$context"}:
            yield "a reference to the context has $context and nothing else"
    else:
        return
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        yield f"a JSON pointer is empty or begins with a slash, not {pointer!r}"


def _resolve(value: Any, context: Any, results: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$result" in value:
            step = value["$result"]
            return _at(results.get(step), value.get("pointer", ""), f"the result of step {step!r}")
        if "$context" in value:
            return _at(context, value["$context"], "the context")
        return {key: _resolve(item, context, results) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, context, results) for item in value]
    return value


def _at(value: Any, pointer: str, what: str) -> Any:
    """The part of ``value`` that a JSON pointer (RFC 6901) names."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise PermanentError(f"{what} has nothing at {pointer!r}, which the step passes on", code="bad_reference")
    return value
