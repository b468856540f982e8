"""The reference of ``Tasker``, from its methods."""

from __future__ import annotations

from docs.pages.markdown import page, table
from docs.pages.signatures import arguments, attributes, described, lead, signature
from tasker.client.async_client import AsyncClient
from tasker.client.core import ClientCore, ScheduledTaskOptions, TaskFilters, TaskOptions
from tasker.client.dead_letters import DeadLetterChange, DeadLetterFilters, DeadLetterOutcome
from tasker.client.handle import TaskHandle
from tasker.client.operations import TaskChange
from tasker.client.requests import TaskRequest
from tasker.client.schedules import ScheduleChange
from tasker.client.sync_client import SyncClient
from tasker.client.tasker import Tasker
from tasker.client.watching import Watch
from tasker.database.records import (
    DeadLetterPage,
    DeadLetterRecord,
    NamespaceRecord,
    StepRecord,
    TaskPage,
    TaskRecord,
    TaskState,
    TransitionRecord,
)
from tasker.database.schedules import ScheduleRecord

INTRO = """
`from tasker import Tasker`. How to use it: [enqueue from your program](../how-to/enqueue_from_your_program.md),
[operate](../how-to/operate.md). Errors are listed in the [Python API](python_api.md#errors).

Where a method takes `connection`, it is a psycopg connection or a SQLAlchemy connection or session of yours; what the
method does is then part of its transaction, which is never committed here. Where it takes `task`, that is a
`TaskHandle`, a `TaskRecord`, a `UUID` or its text; `step` is a step's name, position or uuid. All methods may be
called from several threads.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Starting tasks": ("create", "create_many"),
    "Waiting": ("wait", "wait_all", "watch"),
    "Reading": ("handle", "get", "steps", "results", "history", "list", "why"),
    "The operator's hand": ("cancel", "pause", "resume", "retry", "resolve_step", "reset_step", "resolve_task"),
    "Dead letters": (
        "dead_letters",
        "dead_letter",
        "retry_dead_letters",
        "dismiss_dead_letters",
        "resolve_dead_letter",
    ),
    "Domain events": ("consume_events", "tail_events"),
    "Namespaces": ("list_namespaces", "pause_namespace", "resume_namespace", "limit_namespace"),
    "Schedules": ("add_schedule", "list_schedules", "pause_schedule", "resume_schedule", "remove_schedule"),
    "The end": ("close",),
}
RECORDS = (
    TaskRequest,
    TaskRecord,
    StepRecord,
    TransitionRecord,
    TaskState,
    TaskPage,
    TaskChange,
    DeadLetterRecord,
    DeadLetterPage,
    DeadLetterChange,
    DeadLetterOutcome,
    NamespaceRecord,
    ScheduleRecord,
    ScheduleChange,
)
_OPTIONS = {
    "create": TaskOptions,
    "list": TaskFilters,
    "dead_letters": DeadLetterFilters,
    "retry_dead_letters": DeadLetterFilters,
    "dismiss_dead_letters": DeadLetterFilters,
    "add_schedule": ScheduledTaskOptions,
}


def make() -> str:
    """The page."""
    parts = [INTRO, "## Tasker", signature("Tasker", Tasker.__init__), lead(Tasker), arguments(ClientCore)]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        for name in names:
            method = getattr(Tasker, name)
            parts += [f"### {name}", signature(name, method, options=_OPTIONS.get(name)), described(method)]
            if name == "list":
                parts.append(lead(TaskFilters))
            if name == "dead_letters":
                parts.append(lead(DeadLetterFilters))
            if name == "watch":
                parts.append(lead(Watch))
    parts += ["## In an event loop", _twins()]
    parts += ["## TaskHandle", lead(TaskHandle), attributes(TaskHandle), _handle()]
    for record in RECORDS:
        parts += [f"## {record.__name__}", lead(record), attributes(record)]
    return page("The client", *parts)


def documented() -> set[str]:
    """The methods that the page describes."""
    return {name for names in GROUPS.values() for name in names} | set(_twin_names().values())


def _twin_names() -> dict[str, str]:
    """Each blocking method, and its async form."""
    found = {}
    for name in (*(name for name in vars(SyncClient) if not name.startswith("_")), "close"):
        for twin in (f"a{name}", f"{name}_async"):
            if twin in vars(AsyncClient) or twin in vars(ClientCore):
                found[name] = twin
    return found


def _twins() -> str:
    text = (
        "Async forms take the same arguments; `connection` is then a psycopg `AsyncConnection`, or a SQLAlchemy\n"
        "`AsyncConnection` or `AsyncSession`. `watch` is iterated with `async for`, a client used by `async with`."
    )
    rows = [[f"`{name}`", f"`{twin}`"] for name, twin in _twin_names().items()]
    return f"{text}\n\n{table(['blocking', 'async'], rows)}"


def _handle() -> str:
    names = ("wait", "state", "record", "results")
    rows = []
    for name in names:
        member = vars(TaskHandle)[name]
        twin = f"{name}_async" if name == "wait" else f"a{name}"
        call = f"`{name}(timeout, finalized=…)`" if name == "wait" else f"`{name}`"
        rows.append([call, f"`{twin}()`", lead(member.fget if isinstance(member, property) else member)])
    return table(["blocking", "async", "meaning"], rows)
