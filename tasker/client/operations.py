"""What the client does, written once: generators that yield calls and receive their answers.

``Tasker`` drives them on a sync or an async connection. An operation knows nothing of connections, threads or loops.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from tasker.client.requests import TaskRequest, TemplateKey, as_request, to_message, with_defaults
from tasker.client.template_cache import TemplateCache
from tasker.database import functions, reads
from tasker.database.calls import Call
from tasker.database.records import StepRecord, TaskRecord, TaskState, TemplateRecord, TransitionRecord
from tasker.errors import InvalidRequest, NotFound, TaskerError

T = TypeVar("T")
Operation: TypeAlias = Generator[Call[Any], Any, T]

_STALE_ATTEMPTS = 5
MAX_POSITION = 65_533
"""The highest position that a step can have."""


@dataclass(frozen=True)
class Created:
    """A task that ``create`` found or made."""

    task_uuid: UUID
    is_new: bool
    same_context: bool
    state: str


@dataclass(frozen=True)
class TaskChange:
    """What an operator's action did.

    Attributes:
        task_uuid: the task.
        changed: whether anything changed; pausing a paused task does not.
        state: the task's state now.
    """

    task_uuid: UUID
    changed: bool
    state: str


def create_tasks(
    given: Iterable[TaskRequest | Mapping[str, Any]],
    cache: TemplateCache,
    *,
    requested_by: str | None,
    source_system: str | None,
) -> Operation[tuple[Created, ...]]:
    """Check the requests against their templates and create them, all or none."""
    requests = [
        with_defaults(as_request(request, number), requested_by=requested_by, source_system=source_system)
        for number, request in enumerate(given)
    ]
    if not requests:
        return ()
    keys = list(dict.fromkeys(request.template_key for request in requests))
    for _ in range(_STALE_ATTEMPTS):
        templates: dict[TemplateKey, TemplateRecord] = {}
        for key in keys:
            template = cache.get(key) or (yield reads.template(key.namespace, key.name, key.version))
            if template is not None:
                templates[key] = template
                cache.put(key, template)
        messages = [to_message(request, templates.get(request.template_key)) for request in requests]
        expected = [{**vars(key), "digest": template.digest} for key, template in templates.items()]
        answer = yield functions.create_tasks_if(messages, expected)
        if answer is not None:
            return tuple(
                Created(UUID(entry["task_uuid"]), entry["is_new"], entry["same_context"], entry["state"])
                for entry in answer
            )
        for key in keys:
            cache.forget(key)
    names = ", ".join(f"{key.namespace}/{key.name}" for key in keys)
    raise TaskerError(f"the templates of {names} change faster than tasks can be created")


def ask(call: Call[T]) -> Operation[T]:
    """One call and its answer."""
    answer: T = yield call
    return answer


def get_task(task_uuid: UUID) -> Operation[TaskRecord]:
    """One task with its context."""
    found: TaskRecord | None = yield reads.task(task_uuid)
    if found is None:
        raise _not_found(task_uuid)
    return found


def get_steps(task_uuid: UUID) -> Operation[tuple[StepRecord, ...]]:
    """The steps of one task; every task has some."""
    found: tuple[StepRecord, ...] = yield reads.steps(task_uuid)
    if not found:
        raise _not_found(task_uuid)
    return found


def get_results(task_uuid: UUID) -> Operation[dict[str, Any]]:
    """What the steps returned, by name, for those that have ended well."""
    steps = yield from get_steps(task_uuid)
    return {step.name: step.results for step in steps if step.state in ("complete", "resolved_manually")}


def get_history(task_uuid: UUID) -> Operation[tuple[TransitionRecord, ...]]:
    """All transitions of one task; every task has some."""
    found: tuple[TransitionRecord, ...] = yield reads.transitions(task_uuid)
    if not found:
        raise _not_found(task_uuid)
    return found


def change_tasks(call: Call[dict[str, Any]], task_uuid: UUID) -> Operation[TaskChange]:
    """Pause, resume or cancel one task."""
    answer = yield call
    yield from _notify(answer)
    (entry,) = answer["tasks"]
    if entry["state"] is None:
        raise _not_found(task_uuid)
    return TaskChange(task_uuid, entry["changed"], entry["state"])


def act_on_task(call: Call[dict[str, Any]], task_uuid: UUID) -> Operation[TaskChange]:
    """Retry or resolve a task, reset or resolve a step of it."""
    answer = yield call
    yield from _notify(answer)
    states: dict[UUID, TaskState] = yield reads.task_states([task_uuid])
    return TaskChange(task_uuid, True, states[task_uuid].state)


def step_reference(step: str | int | UUID) -> dict[str, Any]:
    """How a request names a step given by name, position or uuid.

    Raises:
        InvalidRequest: it is given by something else.
    """
    if isinstance(step, UUID):
        return {"step_uuid": str(step)}
    if isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= MAX_POSITION:
        return {"position": step}
    if not isinstance(step, str):
        raise InvalidRequest(
            f"{step!r} is not a step", hint="give its name, its position (from 0) or its uuid", field="step"
        )
    try:
        return {"step_uuid": str(UUID(step))}
    except ValueError:
        return {"step": step}


def explain(task_uuid: UUID) -> Operation[Any]:
    """Why a task is not running."""
    found = yield functions.explain_task(task_uuid)
    if found is None:
        raise _not_found(task_uuid)
    return found


def _notify(answer: Mapping[str, Any]) -> Operation[None]:
    """Wake who waits for the task: after the action's commit, or with the commit of the caller's transaction."""
    if answer.get("notify"):
        yield functions.notify(answer["notify"])


def _not_found(task_uuid: UUID) -> NotFound:
    return NotFound(
        f"there is no task {task_uuid}",
        hint="if it was created in a transaction, it is there once that has committed",
        field="task_uuid",
    )
