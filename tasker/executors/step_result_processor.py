"""Records outcomes that came by message: from workers in other languages, and from Celery tasks."""

from __future__ import annotations

import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import psycopg

from tasker.database import functions, work
from tasker.database.work import Message, Unreadable
from tasker.errors import ExecutorLost, TaskerError
from tasker.executors.counters import STALE_RESULTS
from tasker.executors.domain_events import MessageDomainEvents
from tasker.executors.executor import ExecutorKind
from tasker.executors.link import is_transient
from tasker.executors.orchestration import OrchestrationExecutor
from tasker.executors.step_circuits import DelegatedCircuits
from tasker.executors.submission import is_bad_value
from tasker.handlers.failures import TOO_LARGE
from tasker.handlers.registry import HandlerRegistry
from tasker.handlers.results import MISMATCH
from tasker.hooks.events import Publishing
from tasker.messaging.queues import STEP_RESULTS
from tasker.resilience.circuits import CircuitBreakers
from tasker.workflows.registry import TemplateRegistry
from tasker.workflows.schemas import SchemaInvalid, compile_schema

logger = logging.getLogger(__name__)

Revoke = Callable[[Sequence[str]], None]
"""Revokes Celery tasks by id."""

# What PostgreSQL takes, too: uuid.UUID reads more than that.
_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_TIMEOUT = {"message": "no result came before the deadline", "type": "timeout", "retryable": True}
_LOW_64_BITS = (1 << 64) - 1
_POSITION_SHIFT = 46
_MAP_INDEX_SHIFT = 22
_MAX_MAP_INDEX = (1 << 24) - 1


class StepResultProcessor(OrchestrationExecutor):
    """Reads outcomes, checks their form and their results, and records them; also fires deadlines of delegated steps.

    Args:
        templates: know the result schemas.
        revoke: revokes Celery tasks whose step is over; ``None`` where there is no Celery.
        circuits: guard the systems that steps need.
        handlers: finds publishers and subscribers of domain events.
        visibility_timeout_seconds: after this, a message that was read is seen by others again.
        max_receive_count: a message that was read more often, always without success, is rejected.
        max_message_bytes: a larger message is rejected.
        max_result_bytes: a larger result is a permanent error of its step.
        shared: as for every orchestration executor.
    """

    def __init__(
        self,
        *,
        templates: TemplateRegistry,
        revoke: Revoke | None,
        circuits: CircuitBreakers,
        handlers: HandlerRegistry,
        visibility_timeout_seconds: float,
        max_receive_count: int,
        max_message_bytes: int,
        max_result_bytes: int,
        **shared: Any,
    ) -> None:
        super().__init__(ExecutorKind.STEP_RESULT_PROCESSOR, (STEP_RESULTS,), **shared)
        self._templates = templates
        self._revoke = revoke
        self._circuits = DelegatedCircuits(circuits, self.counters)
        self._domain_events = MessageDomainEvents(Publishing(handlers, max_result_bytes, self.counters.add))
        self._ids: dict[str, int] = {}
        self._visibility_timeout_seconds = visibility_timeout_seconds
        self._max_receive_count = max_receive_count
        self._max_message_bytes = max_message_bytes
        self._max_result_bytes = max_result_bytes

    def drain(self, limit: int) -> int:
        """Process at most ``limit`` messages and as many deadlines; how many there were of both."""
        self.start()
        messages = self.take(
            work.read_messages(STEP_RESULTS, limit, self._visibility_timeout_seconds, max_bytes=self._max_message_bytes)
        )
        return self._process(self._entries(messages), limit)

    def close(self) -> None:
        """End the delivery of fast events, and close the connection."""
        self._domain_events.close()
        super().close()

    # -- checking -------------------------------------------------------------------------------------------------

    def _entries(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as ``process_step_results`` takes them: checked, or rejected with the reason."""
        entries = []
        for message in messages:
            outcome = message.body
            if isinstance(outcome, Unreadable):
                entries.append(_rejected(message, outcome.reason, outcome.message))
            elif (wrong := _what_is_wrong(outcome)) is not None:
                entries.append(_rejected(message, "invalid_outcome", wrong))
            elif message.read_ct > self._max_receive_count:
                entries.append(_rejected(message, "max_receive_count", f"read {message.read_ct} times without success"))
            else:
                if message.size > self._max_result_bytes:
                    self._check_size(outcome)
                entries.append({"msg_id": message.msg_id, "outcome": outcome})
        outcomes = [entry["outcome"] for entry in entries if "outcome" in entry]
        self._ids = self.call(work.template_ids([outcome["task_uuid"] for outcome in outcomes])) if outcomes else {}
        self._check_results([outcome for outcome in outcomes if outcome["status"] == "complete"])
        for outcome in outcomes:
            if (known := self._known(outcome)) is not None:
                self._domain_events.prepare(*known, outcome)
        return entries

    def _check_size(self, outcome: dict[str, Any]) -> None:
        """Turn a result that is too large into a permanent error."""
        size = len(orjson.dumps(outcome.get("results")))
        if outcome["status"] == "complete" and size > self._max_result_bytes:
            allowed = f"system.max_result_bytes allows {self._max_result_bytes:,}"
            _fail(outcome, f"the result is {size:,} bytes of JSON; {allowed}", TOO_LARGE)

    def _check_results(self, outcomes: list[dict[str, Any]]) -> None:
        """Turn results that do not fit their step's schema into permanent errors."""
        for outcome in outcomes:
            step = self._step(outcome)
            schema = None if step is None else step.get("result_schema")
            if step is None or schema is None:
                continue
            name = step["name"]
            try:
                difference = compile_schema(schema).explain(outcome["results"])
            except (SchemaInvalid, ValueError) as error:
                difference = (str(error), ())
            if difference is not None:
                text = f"the result of step {name!r} does not fit its result_schema: {difference[0]}"
                _fail(outcome, text, MISMATCH)

    def _step(self, outcome: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the template says of the step; ``None`` where there is none: the SQL core refuses it as stale."""
        known = self._known(outcome)
        return None if known is None else known[1]

    def _known(self, outcome: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """The workflow's definition, and in it that of the step."""
        template_id = self._ids.get(str(uuid.UUID(outcome["task_uuid"])))
        if template_id is None:
            return None
        definition = self._templates.get_by_id(template_id).definition
        steps: Sequence[Mapping[str, Any]] = definition["steps"]
        position, _ = _place(outcome["task_uuid"], outcome["step_uuid"])
        return (definition, steps[position]) if 0 <= position < len(steps) else None

    # -- recording ------------------------------------------------------------------------------------------------

    def _process(self, entries: list[dict[str, Any]], deadline_limit: int) -> int:
        """Record; an outcome that the SQL core refuses is found by halving, and harms no other."""
        try:
            answer = self.call(functions.process_step_results({"messages": entries, "deadline_limit": deadline_limit}))
        except ExecutorLost:
            raise
        except (TaskerError, psycopg.Error) as error:
            if not entries or is_transient(error) or not is_bad_value(error):
                raise
            if len(entries) == 1:
                if "rejected" in entries[0]:
                    raise
                rejected = {"reason": "not_storable", "message": str(error)}
                return self._process([{"msg_id": entries[0]["msg_id"], "rejected": rejected}], deadline_limit)
            middle = len(entries) // 2
            return self._process(entries[:middle], deadline_limit) + self._process(entries[middle:], deadline_limit)
        self.next_due_seconds = answer["next_due_seconds"]
        self.tell(answer)
        if answer["revoke"] and self._revoke is not None:
            try:
                self._revoke(answer["revoke"])
            except Exception:
                # Its outcome is refused by the fence; that it goes on working is all that happens.
                logger.warning("Celery tasks could not be revoked", exc_info=True)
        verdicts = [outcome["answer"] for outcome in answer["outcomes"]]
        stale = Counter(outcome["reason"] for outcome in answer["outcomes"] if outcome["answer"] == "stale")
        self.counters.add(**{f"{STALE_RESULTS}|{reason}": count for reason, count in stale.items()})
        self._count([entry["outcome"] for entry in entries if "outcome" in entry], answer)
        self.counters.add(
            taken=len(entries),
            accepted=verdicts.count("accepted"),
            stale=verdicts.count("stale"),
            busy=verdicts.count("busy"),
            rejected=answer["rejected"],
            timeouts=len(answer["timed_out"]),
            revoked=len(answer["revoke"]),
        )
        # Busy ones show again by themselves; counting them would make the loop look for them at once.
        return len(entries) - verdicts.count("busy") + len(answer["timed_out"])

    def _count(self, outcomes: Sequence[dict[str, Any]], answer: Mapping[str, Any]) -> None:
        """Tell circuits and subscribers of what was recorded, and was not before."""
        timed_out = answer["timed_out"]
        ended = [
            outcome
            for outcome, reply in zip(outcomes, answer["outcomes"], strict=True)
            if reply["answer"] == "accepted" and reply["reason"] is None
        ]
        if timed_out:
            known = self.call(work.template_ids([late["task_uuid"] for late in timed_out]))
            self._ids = {**self._ids, **known}
            ended += [{**late, "status": "error", "error": _TIMEOUT} for late in timed_out]
        of_systems = [
            (step["system_dependency"], {**outcome, "position": place[0], "map_index": place[1]})
            for outcome in ended
            if (step := self._step(outcome)) is not None
            and step.get("system_dependency") is not None
            and (place := _place(outcome["task_uuid"], outcome["step_uuid"]))
        ]
        if of_systems:
            self._circuits.ended(of_systems, self.call)
        states = {reply["step_uuid"]: reply["state"] for reply in (*answer["outcomes"], *timed_out)}
        for outcome in ended:
            if (known_step := self._known(outcome)) is not None:
                self._domain_events.ended(*known_step, outcome, states.get(str(uuid.UUID(outcome["step_uuid"]))))


def _what_is_wrong(outcome: Any) -> str | None:
    """What is wrong with the form of an outcome, or ``None``."""
    if not isinstance(outcome, dict):
        return "an outcome is a JSON object"
    for field in ("task_uuid", "step_uuid", "executor"):
        if not _is_uuid(outcome.get(field)):
            return f"{field} must be a UUID"
    fence = outcome.get("fence")
    if not isinstance(fence, int) or isinstance(fence, bool) or not 0 < fence < 2**31:
        return "fence must be the whole number that came with the claim"
    for field in ("position", "map_index"):
        if not _is_place(outcome.get(field)):
            return f"{field} must be the whole number that came with the claim, or be left out"
    match outcome.get("status"):
        case "complete":
            return None if "results" in outcome else "results are missing"
        case "error":
            return _what_is_wrong_with_error(outcome.get("error"))
        case _:
            return "status must be complete or error"


def _what_is_wrong_with_error(error: Any) -> str | None:
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return "error must be an object with a message"
    if not isinstance(error.get("type"), str | None):
        return "error.type must be a string"
    if not isinstance(error.get("retryable"), bool | None):
        return "error.retryable must be true or false"
    delay = error.get("retry_after_seconds")
    if isinstance(delay, bool) or not isinstance(delay, int | float | None):
        return "error.retry_after_seconds must be a number"
    return None


def _is_uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_place(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31)


def _fail(outcome: dict[str, Any], message: str, error_type: str) -> None:
    """Turn an outcome with a result into a permanent error."""
    outcome["status"] = "error"
    del outcome["results"]
    outcome["error"] = {"message": message, "type": error_type, "retryable": False}


def _place(task_uuid: str, step_uuid: str) -> tuple[int, int]:
    """The step's position and map index, which its uuid carries: see ``tasker.step_key``."""
    key = (uuid.UUID(task_uuid).int ^ uuid.UUID(step_uuid).int) & _LOW_64_BITS
    return (key >> _POSITION_SHIFT) - 1, (key >> _MAP_INDEX_SHIFT) & _MAX_MAP_INDEX


def _rejected(message: Message, reason: str, text: str) -> dict[str, Any]:
    return {"msg_id": message.msg_id, "rejected": {"reason": reason, "message": text}}
