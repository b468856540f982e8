"""What a delegated step passes to its Celery task: arguments, references into results and context, Celery's options.

``handler.initialization`` of a ``celery:`` step holds ``args``, ``kwargs`` and options. Inside ``args`` and ``kwargs``,
``{"$result": "charge", "pointer": "/id"}`` stands for a part of a step's result, ``{"$context": "/order_id"}`` for a
part of the context; a JSON pointer that is left out or empty means the whole. Without ``args`` and ``kwargs`` the task
is called with ``context=`` and ``results=``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import TypedDict

from tasker.errors import PermanentError
from tasker.workflows.problems import did_you_mean, one_of
from tasker.workflows.yaml_source import Path_

SERIALIZERS = ("json", "msgpack", "pickle", "yaml")
MAX_PRIORITY = 255


class CeleryOptions(TypedDict, total=False):
    """How a step's Celery task is sent; Celery's names, and seconds for all durations.

    Attributes:
        queue: Celery queue to send to; Celery's routing decides when left out.
        exchange: exchange to publish to; needs a ``routing_key``.
        routing_key: routing key to publish with.
        priority: of the message, from 0 to 255; what it means is up to the broker.
        expires: the task is not begun any more after this many seconds. It never is once the step has timed out.
        countdown: the task is not begun for this many seconds; the step's timeout includes them.
        time_limit: the task's process is killed after this many seconds.
        soft_time_limit: the task is interrupted after this many seconds.
        ignore_result: whether its workers keep its result from their result backend; Tasker gets it all the same.
        serializer: how its arguments travel: ``json``, ``msgpack``, ``pickle`` or ``yaml``.
        terminate: whether its process is ended when the step is over before it: cancelled, resolved or timed out.
            ``engine.celery_steps.terminate`` decides when left out.
    """

    queue: str
    exchange: str
    routing_key: str
    priority: int
    expires: float
    countdown: float
    time_limit: float
    soft_time_limit: float
    ignore_result: bool
    serializer: str
    terminate: bool


def _text(what: str) -> Callable[[Any], str | None]:
    return lambda value: None if isinstance(value, str) and value else f"must be {what}"


def _seconds(value: Any) -> str | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return None if right else "must be a number of seconds above 0"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _priority(value: Any) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PRIORITY
    return None if right else f"must be a whole number from 0 to {MAX_PRIORITY}"


def _serializer(value: Any) -> str | None:
    return None if value in SERIALIZERS else f"must be {one_of(SERIALIZERS)}"


_OPTIONS: dict[str, Callable[[Any], str | None]] = {
    "queue": _text("the name of a Celery queue"),
    "exchange": _text("the name of an exchange"),
    "routing_key": _text("a routing key"),
    "priority": _priority,
    "expires": _seconds,
    "countdown": _seconds,
    "time_limit": _seconds,
    "soft_time_limit": _seconds,
    "ignore_result": _flag,
    "serializer": _serializer,
    "terminate": _flag,
}
"""Each option of ``CeleryOptions``, and what says what is wrong with a value of it."""

OPTIONS = tuple(_OPTIONS)
_FIELDS = ("args", "kwargs", *OPTIONS)


@dataclass(frozen=True)
class CeleryCall:
    """How to send one Celery task.

    Attributes:
        args: its positional arguments.
        kwargs: its keyword arguments.
        options: how it is sent; those left out are up to Celery.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    options: CeleryOptions = field(default_factory=CeleryOptions)


def check_call(
    initialization: Mapping[str, Any], depends_on: Sequence[str], timeout_seconds: float | None = None
) -> Iterator[tuple[Path_, str]]:
    """What is wrong with the ``initialization`` of a ``celery:`` handler, as paths and messages.

    Args:
        initialization: as the template has it.
        depends_on: names of the steps whose results there are.
        timeout_seconds: the step's own, if it has one.
    """
    for name in initialization:
        if name not in _FIELDS:
            yield (name,), f"unknown field of a Celery task's call{did_you_mean(name, _FIELDS)}"
    args, kwargs = initialization.get("args"), initialization.get("kwargs")
    if args is not None and not isinstance(args, list):
        yield ("args",), "must be a list"
    if kwargs is not None and not isinstance(kwargs, dict):
        yield ("kwargs",), "must be a mapping"
    options = {name: initialization[name] for name in OPTIONS if initialization.get(name) is not None}
    wrong = [((name,), message) for name, value in options.items() if (message := _OPTIONS[name](value)) is not None]
    yield from wrong or _between(options, timeout_seconds)
    for path, value in _mappings({"args": args, "kwargs": kwargs}, ()):
        yield from ((path, message) for message in _check_reference(value, depends_on))


def _between(options: Mapping[str, Any], timeout_seconds: float | None) -> Iterator[tuple[Path_, str]]:
    """What contradicts what among options that are right one by one."""
    if "exchange" in options and "routing_key" not in options:
        yield ("exchange",), "needs a routing_key"
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft is not None and hard is not None and soft >= hard:
        yield ("soft_time_limit",), f"must be below time_limit ({hard:g} s), which kills the task"
    countdown = options.get("countdown")
    if countdown is None:
        return
    for name, end in (("expires", options.get("expires")), ("the step's timeout_seconds", timeout_seconds)):
        if end is not None and countdown >= end:
            yield ("countdown",), f"must be below {name} ({end:g} s): the task would never begin"


def build_call(initialization: Mapping[str, Any], context: Any, results: Mapping[str, Any]) -> CeleryCall:
    """The call of a delegated step's Celery task, with its references resolved.

    Args:
        initialization: the step's ``handler.initialization``.
        context: the task's context.
        results: results of the steps that this one depends on.

    Raises:
        PermanentError: a reference leads nowhere.
    """
    args, kwargs = initialization.get("args"), initialization.get("kwargs")
    options = CeleryOptions(
        **{name: initialization[name] for name in OPTIONS if initialization.get(name) is not None}  # type: ignore[typeddict-item]
    )
    if args is None and kwargs is None:
        return CeleryCall([], {"context": context, "results": dict(results)}, options)
    return CeleryCall(_resolve(args or [], context, results), _resolve(kwargs or {}, context, results), options)


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
