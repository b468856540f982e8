"""Dead letters as the client finds and settles them; operations, as in ``operations``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast
from uuid import UUID

from tasker.client.operations import Operation, TaskChange, act_on_task
from tasker.client.requests import as_uuid, check_text
from tasker.database import functions, reads
from tasker.database.calls import Call
from tasker.database.records import DeadLetterRecord
from tasker.errors import InvalidRequest, NotFound

KINDS = ("step", "message")

BATCH = 250
"""Letters in one transaction: as many as one call sends messages for, and few enough to hold no lock for long."""

MAX_BATCH = 1000
MAX_ID = 2**63 - 1

MEANINGS: Mapping[str, tuple[str, str]] = {
    "poison": (
        "Its executors died again and again while it ran (losses): it may kill whatever process runs it, by the memory"
        " that it takes, or by a crash in native code.",
        "look at the logs of the workers that died; retry it only once the cause is mended",
    ),
    "outcome_unknown": (
        "Its executor died after it had started, and it may not run twice (retryable: false): whether it took effect,"
        " nobody can tell from here.",
        "look in the system that it calls; if it took effect, resolve it with what it would have returned, else"
        " retry it",
    ),
    "timeout": (
        "It did not end within timeout_seconds, in any of its attempts; the last one may still have taken effect.",
        "look why it takes so long; retry it, or raise timeout_seconds in a new version",
    ),
    "result_not_storable": ("It returned what PostgreSQL cannot store as JSON.", "mend the handler, then retry it"),
    "lifecycle_max_duration": (
        "It, or its task, took longer than max_duration_minutes of the workflow's lifecycle.",
        "look what held it up: its history tells where the time went; retrying starts the clock anew",
    ),
    "lifecycle_waiting_for_dependencies": (
        "Another step waited for this one longer than its max_waiting_for_dependencies_minutes.",
        "look what held it up; retrying starts the clock anew",
    ),
    "lifecycle_waiting_for_retry": (
        "It waited for another attempt longer than max_waiting_for_retry_minutes.",
        "see the error of its last attempt; retrying runs it at once, with fresh attempts",
    ),
    "lifecycle_steps_in_process": (
        "One attempt ran longer than max_steps_in_process_minutes. It may still run somewhere: what it returns counts"
        " no more.",
        "see that the handler ends or can be interrupted; retry it then",
    ),
}
"""What a reason means that the engine itself gives, and what to do; others are types of errors that handlers raised."""

EVENT_MEANINGS: Mapping[str, tuple[str, str]] = {
    "event_not_valid": (
        "A domain event whose payload does not fit the schema that its workflow declares, or cannot be stored. What it"
        " tells of did happen.",
        "retry it with a mended message (the payload is in it), or dismiss it; mend the handler or the publisher",
    ),
    "event_publisher_failed": (
        "A domain event whose publisher was not found or raised; the message holds what there was without it. What it"
        " tells of did happen.",
        "mend the publisher, and retry this one with a mended message, or dismiss it",
    ),
    "event_not_handled": (
        "A domain event whose handler failed again and again (pgmq.max_receive_count).",
        "mend the handler, then retry it: it is sent to its queue again",
    ),
    "not_a_domain_event": (
        "A message in a queue of domain events that is none: somebody else sent it.",
        "retry it with a mended message, or dismiss it",
    ),
}
"""The same of domain events."""

_OF_STEPS = (
    "The step failed for good with an error of this type.",
    "mend the cause and retry it, or resolve it with the result that it would have had",
)
_OF_MESSAGES = (
    "The message could not be understood, so nothing was done about it.",
    "retry it, with a mended message if need be, or dismiss it",
)


class DeadLetterFilters(TypedDict, total=False):
    """Which dead letters are meant: those to which all that is given applies.

    ``kind`` is ``step`` or ``message``; ``failure`` is a letter's ``reason``: the type of a step's error, or what is
    wrong with a message. ``created_after`` is inclusive, ``created_before`` is not.
    """

    kind: str | None
    namespace: str | None
    workflow: str | None
    version: str | None
    step: str | None
    failure: str | None
    queue: str | None
    task_uuid: UUID | str | None
    created_after: dt.datetime | None
    created_before: dt.datetime | None


@dataclass(frozen=True)
class DeadLetterOutcome:
    """What became of one dead letter.

    Attributes:
        id: of the letter.
        kind: ``step`` or ``message``; ``None`` if there is no such letter.
        task_uuid: the step's task.
        outcome: ``retried``, ``dismissed`` or ``refused``.
        reason: why it was refused: ``not_found``, ``already_retried`` and the like, ``is_a_step`` (steps are not
            dismissed), ``no_queue`` (the message's queue is gone), ``no_task``.
    """

    id: int
    kind: str | None
    task_uuid: UUID | None
    outcome: str
    reason: str | None


@dataclass(frozen=True)
class DeadLetterChange:
    """What an action did about dead letters.

    Attributes:
        done: how many letters were retried or dismissed.
        refused: the others that were named, each with the reason.
        tasks: how many tasks go on.
    """

    done: int
    refused: tuple[DeadLetterOutcome, ...]
    tasks: int


class Batches:
    """The batches of one action, and what they did so far; each is an operation of its own, and a transaction.

    Args:
        build: the SQL function's call.
        request: what is the same in all batches.
        ids: the letters that are meant, or ``None``.
        filters: conditions on letters, where no ``ids`` are given.
        everything: say so where there are no conditions: every open letter is meant.
        size: most letters in one batch.

    Raises:
        InvalidRequest: neither or both are given, or one has a wrong form; ``field`` names it.
    """

    def __init__(
        self,
        build: Callable[[Mapping[str, Any]], Call[dict[str, Any]]],
        request: Mapping[str, Any],
        ids: Iterable[int | DeadLetterRecord] | None,
        filters: DeadLetterFilters,
        *,
        everything: bool,
        size: int,
    ) -> None:
        conditions = checked(filters)
        if sum((ids is not None, bool(conditions), everything)) != 1:
            raise InvalidRequest(
                "which dead letters are meant is to be said in one way",
                hint="give ids, or conditions, or everything=True for all that are open",
                field="ids",
            )
        if not 1 <= size <= MAX_BATCH:
            raise InvalidRequest(f"batch_size must be 1 to {MAX_BATCH}, not {size!r}", field="batch_size")
        self._build = build
        if ids is None:
            which: dict[str, Any] = {"filter": {key: _plain(value) for key, value in conditions.items()}}
        else:
            which = {"ids": sorted({as_id(identifier) for identifier in ids})}
        self._request = {**request, **which, "limit": size}
        self._refused: list[DeadLetterOutcome] = []
        self._tasks: set[UUID] = set()
        self.done = 0
        """How many letters were settled so far."""
        self.is_over = which.get("ids") == []
        """Whether no batch is left."""

    def next(self) -> Operation[None]:
        """Do the next batch."""
        answer = yield self._build(self._request)
        outcomes = [_outcome(entry) for entry in answer["letters"]]
        self._refused += [outcome for outcome in outcomes if outcome.outcome == "refused"]
        settled = [outcome for outcome in outcomes if outcome.outcome != "refused"]
        self._tasks |= {outcome.task_uuid for outcome in settled if outcome.task_uuid is not None}
        self.done += len(settled)
        # What the action itself brings about is not meant: a step that fails again has another letter, beyond "until".
        self._request |= {key: answer[key] for key in ("until",) if answer[key] is not None}
        self._request["after"] = answer["next_after"]
        self.is_over = answer["next_after"] is None

    def change(self) -> DeadLetterChange:
        """What all of them did."""
        return DeadLetterChange(self.done, tuple(self._refused), len(self._tasks))


def checked(filters: DeadLetterFilters) -> dict[str, Any]:
    """``filters`` without those that are ``None``, by the names that the tables know.

    Raises:
        InvalidRequest: one of them has a wrong form; ``field`` names it.
        ValueNotStorable: one of them holds a character that PostgreSQL cannot.
    """
    known = DeadLetterFilters.__annotations__
    if unknown := filters.keys() - known.keys():
        field = min(unknown)
        raise InvalidRequest(f"{field!r} is no condition", hint=f"they are {', '.join(known)}", field=field)
    for field in ("kind", "namespace", "workflow", "version", "step", "failure", "queue"):
        if (text := filters.get(field)) is not None:
            check_text(text, field, "dead letters")
    kind = filters.get("kind")
    if kind is not None and kind not in KINDS:
        raise InvalidRequest(f"{kind!r} is no kind of dead letters", hint="say step or message", field="kind")
    found: dict[str, Any] = {
        "reason" if field == "failure" else field: value for field, value in filters.items() if value is not None
    }
    if "task_uuid" in found:
        found["task_uuid"] = as_uuid(found["task_uuid"])
    for field in ("created_after", "created_before"):
        moment: Any = found.get(field)
        if moment is not None and (not isinstance(moment, dt.datetime) or moment.tzinfo is None):
            raise InvalidRequest(f"{field} must be a datetime with a time zone, not {moment!r}", field=field)
    return found


def as_id(identifier: object, *, field: str = "ids") -> int:
    """The number of a letter, given as such or as its record; ``field`` is what errors name.

    Raises:
        InvalidRequest: it is none.
    """
    found = identifier.id if isinstance(identifier, DeadLetterRecord) else identifier
    if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MAX_ID:
        return found
    raise InvalidRequest(f"{identifier!r} is no dead letter", hint="give its number or its record", field=field)


def meaning_of(letter: DeadLetterRecord) -> tuple[str, str]:
    """What the letter's reason means, and what to do about it."""
    if letter.kind == "message":
        return EVENT_MEANINGS.get(letter.reason, _OF_MESSAGES)
    return MEANINGS.get(letter.reason, _OF_STEPS)


def get(identifier: object) -> Operation[DeadLetterRecord]:
    """One letter, open or closed."""
    number = as_id(identifier, field="letter")
    found: DeadLetterRecord | None = yield reads.dead_letter(number)
    if found is None:
        raise NotFound(f"there is no dead letter {number}", hint="look what is there: `tasker dlq list`", field="id")
    return found


def resolve(request: Mapping[str, Any]) -> Operation[TaskChange]:
    """Settle the step of one letter."""
    letter = yield from get(request["id"])
    # Of a message the function says what is to be done instead.
    return (yield from act_on_task(functions.resolve_dead_letter(request), cast("UUID", letter.task_uuid)))


def _outcome(entry: Mapping[str, Any]) -> DeadLetterOutcome:
    task_uuid = None if entry["task_uuid"] is None else UUID(entry["task_uuid"])
    return DeadLetterOutcome(entry["id"], entry["kind"], task_uuid, entry["outcome"], entry["reason"])


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
