"""Messages that queues do not understand: what each says, and what its dead letter says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tasker.messaging.queues import STEP_ENQUEUE, STEP_RESULTS, TASK_FINALIZATION, TASK_REQUESTS
from tests.integration.bad_input.shop import LARGE, LIMIT, NOBODY, ORDER, SHOP_QUEUE, Shop, nested


@dataclass(frozen=True)
class BadMessage:
    """A message that a queue does not understand.

    Attributes:
        case: the mistake, in words.
        body: the message: a JSON value, a JSON text, or for ``orchestration_step_results`` what differs from a good
            one.
        reason: of its dead letter.
        why: what the dead letter says of it; ``None`` where the reason says all.
    """

    case: str
    body: Any
    reason: str
    why: str | None = None


_TOO_MUCH = "it is nested deeper than 254 levels, or holds a whole number beyond 64 bits"


def _refused(text: str) -> str:
    return f"request 0: {text} (nothing was created; mend the request)"


BAD_MESSAGES: dict[str, list[BadMessage]] = {
    TASK_REQUESTS: [
        BadMessage("a text", '"text"', "invalid_request", "a request is a JSON object"),
        BadMessage("an array", [], "invalid_request", "a request is a JSON object"),
        BadMessage("null", "null", "invalid_request", "a request is a JSON object"),
        BadMessage("no namespace", {"name": "order"}, "invalid_request", _refused("namespace is missing")),
        BadMessage(
            "a name that is a number",
            {**ORDER, "name": 5},
            "invalid_request",
            _refused("name must be a string, not number"),
        ),
        BadMessage(
            "an unknown field",
            {**ORDER, "colour": "red"},
            "invalid_request",
            _refused(
                "colour is an unknown field; known are namespace, name, version, context, identity_key, "
                "identity_strategy, priority, run_at, tags, correlation_id, requested_by, source_system, reason, "
                "parent_task_uuid, context_checked"
            ),
        ),
        BadMessage(
            "a time that is none",
            {**ORDER, "run_at": "soon"},
            "invalid_request",
            _refused("run_at is no time; write it like 2026-01-31T12:00:00Z"),
        ),
        BadMessage(
            "a parent that is no UUID",
            {**ORDER, "parent_task_uuid": "one"},
            "invalid_request",
            _refused("parent_task_uuid is no UUID"),
        ),
        BadMessage(
            "a workflow that is not registered",
            {**ORDER, "name": "odrer"},
            "unknown_template",
            "no workflow shop/odrer is registered, did you mean 'shop/order'? "
            "(`tasker template list` shows what is; `tasker template register FILE` adds one)",
        ),
        BadMessage(
            "a context that is a list",
            {**ORDER, "context": [1]},
            "invalid_request",
            _refused("context must be an object, not array"),
        ),
        BadMessage(
            "a context that does not fit its schema",
            {**ORDER, "name": "checked", "context": {"order_id": "one"}},
            "invalid_context",
            'the context does not fit the input_schema of shop/checked:1.0.0: order_id: "one" is not of type '
            '"integer" (`tasker template show shop/checked:1.0.0` prints the schema)',
        ),
        BadMessage(
            "a context that is too large",
            {**ORDER, "context": {"note": "x" * 2 * LIMIT}},
            "payload_too_large",
            _refused("context has 8204 bytes of JSON; 4096 are allowed"),
        ),
        BadMessage(
            "a message that is too large",
            {**ORDER, "context": {"note": LARGE}},
            "payload_too_large",
            "it has 20,537 bytes of JSON; pgmq.max_message_bytes allows 16,384",
        ),
        BadMessage(
            "a context nested deeper than others can read",
            json.dumps({**ORDER, "context": {"deep": nested(220)}}),
            "invalid_request",
            _refused("context is nested deeper than 200 levels"),
        ),
        BadMessage(
            "a context nested deeper than anybody can read",
            json.dumps(ORDER).replace("{}", '{"deep": ' + "[" * 1500 + "]" * 1500 + "}"),
            "not_readable",
            _TOO_MUCH,
        ),
        BadMessage(
            "a number that no double holds", json.dumps(ORDER).replace("{}", '{"n": 1e400}'), "not_readable", _TOO_MUCH
        ),
    ],
    STEP_RESULTS: [
        BadMessage("a text", '"text"', "invalid_outcome", "an outcome is a JSON object"),
        BadMessage("an array", "[]", "invalid_outcome", "an outcome is a JSON object"),
        BadMessage("no UUID of a task", {"task_uuid": "one"}, "invalid_outcome", "task_uuid must be a UUID"),
        BadMessage(
            "a UUID as PostgreSQL has none",
            {"step_uuid": f"urn:uuid:{NOBODY}"},
            "invalid_outcome",
            "step_uuid must be a UUID",
        ),
        BadMessage("no executor", {"executor": None}, "invalid_outcome", "executor must be a UUID"),
        BadMessage(
            "a fence that is a text",
            {"fence": "1"},
            "invalid_outcome",
            "fence must be the whole number that came with the claim",
        ),
        BadMessage(
            "a fence of 0", {"fence": 0}, "invalid_outcome", "fence must be the whole number that came with the claim"
        ),
        BadMessage(
            "a position that is a text",
            {"position": "first"},
            "invalid_outcome",
            "position must be the whole number that came with the claim, or be left out",
        ),
        BadMessage("an unknown status", {"status": "done"}, "invalid_outcome", "status must be complete or error"),
        BadMessage(
            "an error without a message",
            {"status": "error"},
            "invalid_outcome",
            "error must be an object with a message",
        ),
        BadMessage(
            "an error that is a text",
            {"status": "error", "error": "failed"},
            "invalid_outcome",
            "error must be an object with a message",
        ),
        BadMessage(
            "a flag that is a word",
            {"status": "error", "error": {"message": "m", "retryable": "yes"}},
            "invalid_outcome",
            "error.retryable must be true or false",
        ),
        BadMessage(
            "a delay that is a word",
            {"status": "error", "error": {"message": "m", "retry_after_seconds": "soon"}},
            "invalid_outcome",
            "error.retry_after_seconds must be a number",
        ),
        BadMessage("a result with a number that no double holds", {"results": "1e400"}, "not_readable", _TOO_MUCH),
        BadMessage(
            "a message that is too large",
            {"results": LARGE},
            "payload_too_large",
            "it has 20,676 bytes of JSON; pgmq.max_message_bytes allows 16,384",
        ),
    ],
    SHOP_QUEUE: [
        BadMessage("a number", "7", "not_a_step_message"),
        BadMessage("an array", [], "not_a_step_message"),
        BadMessage("no position", {"task_uuid": str(NOBODY)}, "not_a_step_message"),
        BadMessage("a negative position", {"task_uuid": str(NOBODY), "position": -1}, "not_a_step_message"),
        BadMessage("a task that is no UUID", {"task_uuid": "one", "position": 0}, "not_a_step_message"),
        BadMessage(
            "a map index out of range",
            {"task_uuid": str(NOBODY), "position": 0, "map_index": 10**9},
            "not_a_step_message",
        ),
    ],
    STEP_ENQUEUE: [
        BadMessage("null", "null", "not_a_step_enqueue_message"),
        BadMessage("a task alone", {"task_uuid": str(NOBODY)}, "not_a_step_enqueue_message"),
        BadMessage(
            "a start that is a word",
            {"task_uuid": str(NOBODY), "position": 0, "from_index": "first"},
            "not_a_step_enqueue_message",
        ),
    ],
    TASK_FINALIZATION: [
        BadMessage("a text", '"text"', "not_a_finalization_message"),
        BadMessage("a task that is no UUID", {"task_uuid": "one"}, "not_a_finalization_message"),
        BadMessage("another field", {"task": str(NOBODY)}, "not_a_finalization_message"),
    ],
}


def send_bad(shop: Shop, queue: str, bad: BadMessage, answer: dict[str, Any] | None = None) -> int:
    """Send ``bad``; ``answer`` is a good outcome, in which it makes its mistake. The message's number."""
    body = bad.body
    if queue == STEP_RESULTS and isinstance(body, dict):
        assert answer is not None
        changed = {**answer, **body}
        if changed["status"] == "error":
            del changed["results"]
        body = changed
        if changed.get("results") == "1e400":
            body = json.dumps(changed).replace('"1e400"', "1e400")
    return shop.send(queue, body)
