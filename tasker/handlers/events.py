"""Domain events as publishers, subscribers and consumers see them."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tasker.handlers.hooks import TaskOutcome

F = TypeVar("F", bound=Callable[..., Any])

MAX_PATTERN_LENGTH = 500


@dataclass(frozen=True, kw_only=True)
class DomainEvent:
    """What came of a step or a task, told to whom it may concern.

    Attributes:
        event_id: the same in every delivery of one event: the idempotency key.
        name: what it is called.
        payload: a JSON value: what the publisher made, else the step's result or error.
        namespace: namespace of the workflow.
        task: name of the workflow.
        task_version: its version.
        step: name of the step; ``None`` for an event of the whole task.
        task_uuid: the workflow run.
        step_uuid: the step.
        fence: of the claim under which the step ran.
        attempt: which attempt that was.
        finish_no: of a task's event: how often the task has finished.
        state: of the step or the task.
        condition: ``success``, ``retryable_failure`` or ``permanent_failure``; of a task that an operator ended, its
            state.
        correlation_id: as given when the task was created.
        at: when it was published.
        version: of this form.
    """

    event_id: str
    name: str
    payload: Any
    namespace: str
    task: str
    task_version: str
    step: str | None
    task_uuid: str
    step_uuid: str | None
    fence: int | None
    attempt: int | None
    finish_no: int | None
    state: str
    condition: str
    correlation_id: str | None
    at: dt.datetime
    version: int = 1

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> DomainEvent:
        """The event that a message of a queue of domain events is; keys that are unknown here are passed over.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = {name: message[name] for name in cls.__dataclass_fields__}
            return cls(**{**fields, "at": dt.datetime.fromisoformat(message["at"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the message is no domain event: {type(error).__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The message that this event is."""
        return {**{name: getattr(self, name) for name in type(self).__dataclass_fields__}, "at": self.at.isoformat()}


@dataclass(frozen=True, kw_only=True)
class EventDraft:
    """An event that is about to be published, as its publisher sees it; what that returns is the payload.

    Attributes:
        name: of the event.
        condition: what happened.
        namespace: namespace of the workflow.
        task: name of the workflow.
        task_version: its version.
        step: name of the step; ``None`` for an event of the whole task.
        task_uuid: the workflow run.
        step_uuid: the step.
        payload: what the event would carry without a publisher: the step's result or error, the counts of a task.
        context: the task's context; ``None`` for a step whose outcome came by message.
        correlation_id: as given when the task was created; likewise.
        outcome: of a task's event: the task with its results.
    """

    name: str
    condition: str
    namespace: str
    task: str
    task_version: str
    step: str | None
    task_uuid: str
    step_uuid: str | None
    payload: Any
    context: Any = None
    correlation_id: str | None = None
    outcome: TaskOutcome | None = None


Subscriber = Callable[[DomainEvent], Any]

_lock = threading.Lock()
_subscribers: dict[tuple[str, str], tuple[re.Pattern[str], Subscriber]] = {}
_found: dict[str, tuple[Subscriber, ...]] = {}

_MAX_FOUND = 10_000


def subscribe(*patterns: str) -> Callable[[F], F]:
    """Decorator: hand every ``fast`` (or ``broadcast``) event whose name matches to the function, in this process.

    It takes a ``DomainEvent``, and may be ``async def``. It runs on a thread of its own after the step was recorded:
    best effort, once at most, and what it raises is logged. Its module must be among ``engine.handler_modules``, so
    that workers import it.

    Args:
        patterns: of names; ``*`` stands for any characters: ``orders.*``.

    Raises:
        ValueError: there is no pattern, or an empty one.
    """
    compiled = [(pattern, compile_pattern(pattern)) for pattern in patterns]
    if not compiled:
        raise ValueError("say which events are meant: @subscribe('orders.*')")

    def register(function: F) -> F:
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
        with _lock:
            for pattern, expression in compiled:
                # A module that is imported again replaces its own.
                _subscribers[pattern, name] = (expression, function)
            _found.clear()
        return function

    return register


def subscribers_of(name: str) -> tuple[Subscriber, ...]:
    """Who wants an event of that name, each once, in the order in which they were declared."""
    known = _found.get(name)
    if known is None:
        with _lock:
            wanted = [function for expression, function in _subscribers.values() if expression.fullmatch(name)]
            known = tuple(dict.fromkeys(wanted))
            if len(_found) < _MAX_FOUND:
                _found[name] = known
    return known


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """``pattern`` as a regular expression over the whole name.

    Raises:
        ValueError: it is empty, or too long.
    """
    if not 0 < len(pattern) <= MAX_PATTERN_LENGTH:
        raise ValueError(f"a pattern of names has 1 to {MAX_PATTERN_LENGTH} characters, unlike {pattern!r}")
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
