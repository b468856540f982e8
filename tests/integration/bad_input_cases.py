"""Bad input that needs a database: what is given, by which way in, and the error it gets; for tests and reference."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import psycopg

from tasker import StepContext, Tasker, TaskHandle, workflow
from tasker.config.sections import PgmqSettings, SystemSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.errors import InvalidRequest, InvalidTransition, NotFound, PayloadTooLarge, TaskerError, ValueNotStorable
from tasker.executors.delegation import DelegatedStep
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.messaging.client import PgmqClient
from tasker.messaging.queues import STEP_ENQUEUE, STEP_RESULTS, TASK_FINALIZATION, TASK_REQUESTS
from tasker.testing import run_until_idle

SHOP_QUEUE = "shop_queue"
NOBODY = UUID("00000000-0000-7000-8000-000000000000")
"""No task's uuid."""

LIMIT = 4096
"""Bytes of a context and of a result that the place allows."""

RETURNED: dict[str, Any] = {
    "NaN": math.nan,
    "an infinity": math.inf,
    "a NUL character": "a\0b",
    "a lone surrogate": "\ud800",
    "a whole number beyond 64 bits": 2**64,
    "a key that is no text": {1: 2},
    "an object of no kind": object(),
    "bytes that are no text": b"\xff",
    "more bytes than are allowed": "x" * 2 * LIMIT,
}
"""What a handler may return and JSON or PostgreSQL cannot carry."""


def nested(levels: int) -> Any:
    """A list in a list, so many times."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


RETURNED["a value nested too deep"] = nested(220)

order = workflow("shop", "order", version="1.0.0")


@order.step
def reserve(ctx: StepContext) -> Any:
    """Return what the context names."""
    return {"value": RETURNED[ctx.context["returns"]]} if "returns" in ctx.context else {"reserved": True}


@order.step
def ship(ctx: StepContext, reserve: Any) -> Any:
    """Follow it."""
    return {"shipped": True}


checked = workflow(
    "shop",
    "checked",
    version="1.0.0",
    input_schema={"type": "object", "required": ["order_id"], "properties": {"order_id": {"type": "integer"}}},
)


@checked.step
def accept(ctx: StepContext) -> Any:
    """Do nothing."""
    return None


paid = workflow("shop", "paid", version="1.0.0")
paid.celery_step(
    "charge",
    task="shop.charge",
    timeout_seconds=60,
    result_schema={"type": "object", "required": ["paid"], "properties": {"paid": {"type": "integer"}}},
)

failing = workflow("shop", "failing", version="1.0.0")


@failing.step
def fail(ctx: StepContext) -> Any:
    """Fail for good."""
    from tasker import PermanentError

    raise PermanentError("no")


SETTINGS = Settings(
    system=SystemSettings(max_context_bytes=LIMIT, max_result_bytes=LIMIT),
    pgmq=PgmqSettings(max_message_bytes=4 * LIMIT),
)


class Shop:
    """A database with four workflows, and all that works on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent: list[DelegatedStep] = []
        self.core = OrchestrationCore.from_settings(SETTINGS, database_url=url, send=self.sent.append)
        for each in (order, checked, paid, failing):
            self.core.templates.register(each)
        self.client = Tasker(self.core.database, settings=SETTINGS, requested_by="the test")
        self.queues = PgmqClient(self.core.database, SETTINGS.pgmq)
        self.connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self.connection.close()
        self.client.close()
        self.core.close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), parameters or None).fetchall()

    def send(self, queue: str, body: Any) -> int:
        """As somebody with nothing but PGMQ does; a text is JSON already. The message's number."""
        text = body if isinstance(body, str) else orjson.dumps(body).decode()
        ((msg_id,),) = self.rows("SELECT pgmq.send(%s, %s::jsonb)", queue, text)
        return int(msg_id)

    def run(self) -> dict[str, int]:
        return run_until_idle(self.core)

    def run_steps(self) -> None:
        stop = StopSignal()
        with self.core.build_loop([ExecutorKind.STEP_EXECUTOR], [SHOP_QUEUE], stop=stop, worker="test") as loop:
            loop.run_until_idle(20)
        stop.close()

    def charge(self) -> tuple[TaskHandle, dict[str, Any]]:
        """A task that waits for a Celery task, and a good answer of that."""
        handle = self.client.create("shop", "paid")
        self.run_steps()
        step = self.sent[-1]
        answer = {
            "task_uuid": step.task_uuid,
            "step_uuid": step.step_uuid,
            "executor": step.executor,
            "fence": step.fence,
            "status": "complete",
            "results": {"paid": 7},
        }
        return handle, answer

    def dead_letters(self) -> dict[tuple[str, int], tuple[str, str | None]]:
        """Reason, and what is said, of each message's dead letter, by queue and number."""
        found = self.rows(
            "SELECT queue, (snapshot->>'msg_id')::bigint, reason, snapshot->>'why' FROM tasker.dead_letters"
            " WHERE kind = 'message'"
        )
        return {(queue, msg_id): (reason, why) for queue, msg_id, reason, why in found}

    def contents(self) -> dict[str, Any]:
        """Every row of every table that holds work, as one number each."""
        tables = self.rows(
            """SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
                 AND (n.nspname = 'tasker' AND c.relname NOT IN ('executors', 'waiters', 'coordinator')
                      OR n.nspname = 'pgmq' AND c.relname LIKE 'q\\_%')
               ORDER BY 1"""
        )
        query = "SELECT count(*), coalesce(sum(hashtext(t::text)), 0) FROM {} AS t"
        return {name: self.rows(query.format(name))[0] for (name,) in tables}


@contextmanager
def shop_at(url: str) -> Iterator[Shop]:
    shop = Shop(url)
    try:
        yield shop
    finally:
        shop.close()


# -- messages ---------------------------------------------------------------------------------------------------


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


_ORDER = {"namespace": "shop", "name": "order", "context": {}}
_TOO_MUCH = "it is nested deeper than 254 levels, or holds a whole number beyond 64 bits"
_LARGE = "x" * 5 * LIMIT


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
            {**_ORDER, "name": 5},
            "invalid_request",
            _refused("name must be a string, not number"),
        ),
        BadMessage(
            "an unknown field",
            {**_ORDER, "colour": "red"},
            "invalid_request",
            _refused(
                "colour is an unknown field; known are namespace, name, version, context, identity_key, "
                "identity_strategy, priority, run_at, tags, correlation_id, requested_by, source_system, reason, "
                "parent_task_uuid, context_checked"
            ),
        ),
        BadMessage(
            "a time that is none",
            {**_ORDER, "run_at": "soon"},
            "invalid_request",
            _refused("run_at is no time; write it like 2026-01-31T12:00:00Z"),
        ),
        BadMessage(
            "a parent that is no UUID",
            {**_ORDER, "parent_task_uuid": "one"},
            "invalid_request",
            _refused("parent_task_uuid is no UUID"),
        ),
        BadMessage(
            "a workflow that is not registered",
            {**_ORDER, "name": "odrer"},
            "unknown_template",
            "no workflow shop/odrer is registered, did you mean 'shop/order'? "
            "(`tasker template list` shows what is; `tasker template register FILE` adds one)",
        ),
        BadMessage(
            "a context that is a list",
            {**_ORDER, "context": [1]},
            "invalid_request",
            _refused("context must be an object, not array"),
        ),
        BadMessage(
            "a context that does not fit its schema",
            {**_ORDER, "name": "checked", "context": {"order_id": "one"}},
            "invalid_context",
            'the context does not fit the input_schema of shop/checked:1.0.0: order_id: "one" is not of type '
            '"integer" (`tasker template show shop/checked:1.0.0` prints the schema)',
        ),
        BadMessage(
            "a context that is too large",
            {**_ORDER, "context": {"note": "x" * 2 * LIMIT}},
            "payload_too_large",
            _refused("context has 8204 bytes of JSON; 4096 are allowed"),
        ),
        BadMessage(
            "a message that is too large",
            {**_ORDER, "context": {"note": _LARGE}},
            "payload_too_large",
            "it has 20,537 bytes of JSON; pgmq.max_message_bytes allows 16,384",
        ),
        BadMessage(
            "a context nested deeper than others can read",
            json.dumps({**_ORDER, "context": {"deep": nested(220)}}),
            "invalid_request",
            _refused("context is nested deeper than 200 levels"),
        ),
        BadMessage(
            "a context nested deeper than anybody can read",
            json.dumps(_ORDER).replace("{}", '{"deep": ' + "[" * 1500 + "]" * 1500 + "}"),
            "not_readable",
            _TOO_MUCH,
        ),
        BadMessage(
            "a number that no double holds", json.dumps(_ORDER).replace("{}", '{"n": 1e400}'), "not_readable", _TOO_MUCH
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
            {"results": _LARGE},
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


# -- calls of the client ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadCall:
    """A call that is refused.

    Attributes:
        case: the mistake, in words.
        call: how it looks.
        do: makes it, with a task that runs (``paid``) and one that failed.
        error: what it raises.
        says: the error's text, the running task's uuid as ``TASK``.
    """

    case: str
    call: str
    do: Callable[[Shop, TaskHandle], object]
    error: type[TaskerError]
    says: str


_NOT_A_TASK = "is not a task (give its uuid, its handle or its record)"
_NOT_A_STEP = "is not a step (give its name, its position (from 0) or its uuid)"
_NO_TASK = f"there is no task {NOBODY} (if it was created in a transaction, it is there once that has committed)"
_NO_PLACE = (
    "NaN, infinity and NUL characters have no place in jsonb (replace them, for instance by null or an empty string)"
)

BAD_IDENTIFIERS: list[BadCall] = [
    BadCall(
        "a task that is no UUID",
        'get("one")',
        lambda shop, task: shop.client.get("one"),
        InvalidRequest,
        f"'one' {_NOT_A_TASK}",
    ),
    BadCall(
        "nothing as a task",
        "cancel(None)",
        lambda shop, task: shop.client.cancel(None),  # type: ignore[arg-type]
        InvalidRequest,
        f"None {_NOT_A_TASK}",
    ),
    BadCall("a task that does not exist", "get(uuid)", lambda shop, task: shop.client.get(NOBODY), NotFound, _NO_TASK),
    BadCall(
        "a task that does not exist", "steps(uuid)", lambda shop, task: shop.client.steps(NOBODY), NotFound, _NO_TASK
    ),
    BadCall(
        "a task that does not exist", "pause(uuid)", lambda shop, task: shop.client.pause(NOBODY), NotFound, _NO_TASK
    ),
    BadCall(
        "a task that does not exist", "cancel(uuid)", lambda shop, task: shop.client.cancel(NOBODY), NotFound, _NO_TASK
    ),
    BadCall(
        "a task that does not exist",
        "retry(uuid)",
        lambda shop, task: shop.client.retry(NOBODY),
        NotFound,
        f"there is no task {NOBODY} (was it committed, and is it not pruned?)",
    ),
    BadCall(
        "a task that does not exist",
        "why(uuid)",
        lambda shop, task: shop.client.why(NOBODY),
        NotFound,
        f"there is no task {NOBODY} (was it committed, and is it not pruned?)",
    ),
    BadCall(
        "a task that is not committed, or does not exist",
        "wait(uuid)",
        lambda shop, task: shop.client.wait(NOBODY, 1),
        NotFound,
        f"task {NOBODY} cannot be waited for: it is not there (if it was created in a transaction, commit that first)",
    ),
    BadCall(
        "a step that the task does not have",
        'reset_step(task, "ship")',
        lambda shop, task: shop.client.reset_step(task, "ship"),
        NotFound,
        "task TASK has no step ship (name it by step (its name), position or step_uuid)",
    ),
    BadCall(
        "a step of another task",
        "reset_step(task, uuid)",
        lambda shop, task: shop.client.reset_step(task, NOBODY),
        NotFound,
        f"task TASK has no step {NOBODY} (name it by step (its name), position or step_uuid)",
    ),
    BadCall(
        "a step that is a fraction",
        "reset_step(task, 1.5)",
        lambda shop, task: shop.client.reset_step(task, 1.5),  # type: ignore[arg-type]
        InvalidRequest,
        f"1.5 {_NOT_A_STEP}",
    ),
    BadCall(
        "a position that no step has",
        "resolve_step(task, -1, …)",
        lambda shop, task: shop.client.resolve_step(task, -1, {}),
        InvalidRequest,
        f"-1 {_NOT_A_STEP}",
    ),
    BadCall(
        "a position out of all range",
        "reset_step(task, 10**12)",
        lambda shop, task: shop.client.reset_step(task, 10**12),
        InvalidRequest,
        f"1000000000000 {_NOT_A_STEP}",
    ),
    BadCall(
        "a task that has not failed",
        "retry(task)",
        lambda shop, task: shop.client.retry(task),
        InvalidTransition,
        "task TASK is in_progress, only one in error can be retried (a task that runs needs no retry, one that ended "
        "otherwise has none)",
    ),
    BadCall(
        "a page after what is no task",
        'list(after="one")',
        lambda shop, task: shop.client.list(after="one"),  # type: ignore[arg-type]
        InvalidRequest,
        f"'one' {_NOT_A_TASK}",
    ),
    BadCall(
        "a state that there is not",
        'list(states=["running"])',
        lambda shop, task: shop.client.list(states=["running"]),
        InvalidRequest,
        "'running' is not a state of tasks (they are pending, in_progress, paused, complete, error, cancelled, "
        "resolved_manually)",
    ),
    BadCall(
        "a timeout in the past",
        "wait(task, -1)",
        lambda shop, task: shop.client.wait(task, -1),
        InvalidRequest,
        "a timeout of -1 s lies in the past",
    ),
    BadCall(
        "a namespace that is a number",
        'create(5, "order")',
        lambda shop, task: shop.client.create(5, "order"),  # type: ignore[arg-type]
        InvalidRequest,
        "request 0: namespace must be a string, not int",
    ),
    BadCall(
        "a version that is a number",
        'create("shop", "order", version=1)',
        lambda shop, task: shop.client.create("shop", "order", version=1),  # type: ignore[arg-type]
        InvalidRequest,
        "request 0: version must be a string, not int",
    ),
    BadCall(
        "no name",
        'create("shop", None)',
        lambda shop, task: shop.client.create("shop", None),  # type: ignore[arg-type]
        InvalidRequest,
        "request 0 has no name",
    ),
    BadCall(
        "a queue that does not exist",
        'PgmqClient.peek("nowhere")',
        lambda shop, task: shop.queues.peek("nowhere"),
        NotFound,
        "there is no queue 'nowhere' (create it with create_queue())",
    ),
    BadCall(
        "a queue's name that PGMQ cannot take",
        'PgmqClient.create_queue("My Queue")',
        lambda shop, task: shop.queues.create_queue("My Queue"),
        InvalidRequest,
        "'My Queue' is no name for a queue (use at most 47 lower-case letters, digits and underscores)",
    ),
    BadCall(
        "a step queue to be emptied",
        'PgmqClient.purge("shop_queue")',
        lambda shop, task: shop.queues.purge(SHOP_QUEUE),
        InvalidRequest,
        "shop_queue is a step queue, and is not purged: its steps would wait for ever (cancel the tasks whose steps "
        "are in it)",
    ),
    BadCall(
        "a reserved namespace",
        'initialize_queues(["celery_shop"])',
        lambda shop, task: shop.core.initialize_queues(["celery_shop"]),
        InvalidRequest,
        "namespace 'celery_shop' is reserved (choose another name: it belongs to the engine's own queues)",
    ),
]

BAD_SIZES: list[BadCall] = [
    BadCall(
        "a context that is too large",
        "create(…, context)",
        lambda shop, task: shop.client.create("shop", "order", {"note": "x" * 2 * LIMIT}),
        PayloadTooLarge,
        "the context of shop/order is 8,203 bytes of JSON; 4,096 are allowed (store the payload elsewhere and pass a "
        "reference)",
    ),
    BadCall(
        "a context nested too deep",
        "create(…, context)",
        lambda shop, task: shop.client.create("shop", "order", {"deep": nested(220)}),
        InvalidRequest,
        "request 0: context is nested deeper than 200 levels (nothing was created; mend the request)",
    ),
    BadCall(
        "results that are too large, by hand",
        "resolve_step(task, step, results)",
        lambda shop, task: shop.client.resolve_step(task, "charge", {"note": "x" * 2 * LIMIT}),
        PayloadTooLarge,
        "the results for step charge is 8,203 bytes of JSON; 4,096 are allowed (store the payload elsewhere and pass a "
        "reference)",
    ),
    BadCall(
        "results nested too deep, by hand",
        "resolve_step(task, step, results)",
        lambda shop, task: shop.client.resolve_step(task, "charge", nested(220)),
        InvalidRequest,
        "results are nested deeper than 200 levels (nothing was changed; give them another shape)",
    ),
    BadCall(
        "a message that is too large",
        "PgmqClient.send(queue, message)",
        lambda shop, task: shop.queues.send(TASK_REQUESTS, {**_ORDER, "context": {"note": _LARGE}}),
        PayloadTooLarge,
        "the message for task_requests_queue is 20,537 bytes of JSON; 16,384 are allowed (store the payload elsewhere "
        "and pass a reference)",
    ),
    BadCall(
        "a key of pages",
        "create(…, identity_key=…)",
        lambda shop, task: shop.client.create("shop", "order", identity_key="k" * 1025),
        InvalidRequest,
        "request 0: identity_key must have at most 1024 characters (nothing was created; mend the request)",
    ),
    BadCall(
        "a tag of pages",
        "create(…, tags=[…])",
        lambda shop, task: shop.client.create("shop", "order", tags=["t" * 1025]),
        InvalidRequest,
        "request 0: tags must be an array of at most 100 strings, each of at most 1024 characters (nothing was "
        "created; mend the request)",
    ),
    BadCall(
        "too many tags",
        "create(…, tags=[…])",
        lambda shop, task: shop.client.create("shop", "order", tags=["t"] * 101),
        InvalidRequest,
        "request 0: tags must be an array of at most 100 strings, each of at most 1024 characters (nothing was "
        "created; mend the request)",
    ),
]


def _context(value: Any) -> Callable[[Shop, TaskHandle], object]:
    return lambda shop, task: shop.client.create("shop", "order", value)


_PLAIN = "(use plain JSON values: dict with string keys, list, str, int of 64 bits, finite float, bool, None)"
_CONTEXT = "the context of shop/order cannot be stored as JSON at"

BAD_VALUES: list[BadCall] = [
    BadCall("NaN", "create(…, context)", _context({"n": math.nan}), ValueNotStorable, f"{_CONTEXT} $.n: {_NO_PLACE}"),
    BadCall(
        "an infinity", "create(…, context)", _context({"n": math.inf}), ValueNotStorable, f"{_CONTEXT} $.n: {_NO_PLACE}"
    ),
    BadCall(
        "a NUL character",
        "create(…, context)",
        _context({"notes": ["fine", "a\0b"]}),
        ValueNotStorable,
        f"{_CONTEXT} $.notes[1]: {_NO_PLACE}",
    ),
    BadCall(
        "a lone surrogate",
        "create(…, context)",
        _context({"note": "\ud800"}),
        ValueNotStorable,
        f"{_CONTEXT} $.note: str is not valid UTF-8: surrogates not allowed {_PLAIN}",
    ),
    BadCall(
        "a key that is no text",
        "create(…, context)",
        _context({"items": {1: 2}}),
        ValueNotStorable,
        f"{_CONTEXT} $.items[1]: Dict key must be str {_PLAIN}",
    ),
    BadCall(
        "a whole number beyond 64 bits",
        "create(…, context)",
        _context({"n": 2**64}),
        ValueNotStorable,
        f"{_CONTEXT} $.n: Integer exceeds 64-bit range {_PLAIN}",
    ),
    BadCall(
        "an object of no kind",
        "create(…, context)",
        _context({"when": dt.timedelta(1)}),
        ValueNotStorable,
        f"{_CONTEXT} $.when: Type is not JSON serializable: datetime.timedelta {_PLAIN}",
    ),
    BadCall(
        "a NUL in a key",
        "create(…, identity_key=…)",
        lambda shop, task: shop.client.create("shop", "order", identity_key="a\0b"),
        ValueNotStorable,
        f"the request cannot be stored as JSON at $[0].identity_key: {_NO_PLACE}",
    ),
    BadCall(
        "a NUL in a name",
        "create(namespace, …)",
        lambda shop, task: shop.client.create("sh\0op", "order"),
        ValueNotStorable,
        "request 0: namespace 'sh\\x00op' holds a character that PostgreSQL cannot (leave out NUL characters and lone "
        "surrogates)",
    ),
    BadCall(
        "a NUL in a reason",
        "cancel(task, reason=…)",
        lambda shop, task: shop.client.cancel(task, reason="a\0b"),
        ValueNotStorable,
        f"the request cannot be stored as JSON at $.reason: {_NO_PLACE}",
    ),
    BadCall(
        "NaN in results, by hand",
        "resolve_step(task, step, results)",
        lambda shop, task: shop.client.resolve_step(task, "charge", {"paid": math.nan}),
        ValueNotStorable,
        f"the results for step charge cannot be stored as JSON at $.paid: {_NO_PLACE}",
    ),
    BadCall(
        "NaN in a message",
        "PgmqClient.send(queue, message)",
        lambda shop, task: shop.queues.send(TASK_REQUESTS, {**_ORDER, "context": {"n": math.nan}}),
        ValueNotStorable,
        f"the message for task_requests_queue cannot be stored as JSON at $.context.n: {_NO_PLACE}",
    ),
    BadCall(
        "a NUL in a filter",
        "list(tag=…)",
        lambda shop, task: shop.client.list(tag="\0"),
        ValueNotStorable,
        "list: tag '\\x00' holds a character that PostgreSQL cannot (leave out NUL characters and lone surrogates)",
    ),
]

BAD_CALLS: Sequence[BadCall] = (*BAD_IDENTIFIERS, *BAD_SIZES, *BAD_VALUES)


# -- SQL ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadSql:
    """A statement that is refused.

    Attributes:
        case: the mistake, in words.
        statement: the statement; ``TASK`` stands for the uuid of a task that runs.
        sqlstate: of the error.
        says: its message, and after it its hint, where it has one.
    """

    case: str
    statement: str
    sqlstate: str
    says: str


_WRITE_IT = "(write it like 01932c07-4d8a-7c3e-9f10-2b5d6e7f8a00)"
_MEND_IT = "(nothing was created; mend the request)"

BAD_SQL: list[BadSql] = [
    BadSql(
        "a context that is a list",
        "SELECT tasker.create_task('shop', 'order', '[1]')",
        "TK001",
        f"request 0: context must be an object, not array {_MEND_IT}",
    ),
    BadSql(
        "a context nested too deep",
        "SELECT tasker.create_task('shop', 'order', (repeat('{\"a\":', 300) || '1' || repeat('}', 300))::jsonb)",
        "TK001",
        f"request 0: context is nested deeper than 200 levels {_MEND_IT}",
    ),
    BadSql(
        "a time that never comes",
        "SELECT tasker.create_task('shop', 'order', run_at => 'infinity')",
        "TK001",
        f"request 0: run_at must be a time that comes {_MEND_IT}",
    ),
    BadSql(
        "a workflow that is not registered",
        "SELECT tasker.create_task('shop', 'odrer')",
        "TK002",
        "request 0: no workflow shop/odrer is registered (register it first (tasker template register FILE), or look "
        "what is there (tasker template list))",
    ),
    BadSql(
        "a task that is no UUID",
        """SELECT tasker.cancel_tasks('{"task_uuids": ["one"]}')""",
        "TK001",
        f"task_uuids: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a task that is no UUID",
        """SELECT tasker.retry_task('{"task_uuid": "one"}')""",
        "TK001",
        f"task_uuid: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a step that is no UUID",
        """SELECT tasker.reset_step('{"task_uuid": "TASK", "step_uuid": "one"}')""",
        "TK001",
        f"step_uuid: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a position that is no number",
        """SELECT tasker.reset_step('{"task_uuid": "TASK", "position": "first"}')""",
        "TK004",
        "task TASK has no step first (name it by step (its name), position or step_uuid)",
    ),
    BadSql(
        "a task that does not exist",
        f"SELECT tasker.explain_task('{NOBODY}')",
        "TK004",
        f"there is no task {NOBODY} (was it committed, and is it not pruned?)",
    ),
    BadSql(
        "an executor that never registered",
        f"""SELECT tasker.claim_steps('{{"executor": "{NOBODY}", "call_no": 1, "queues": ["shop_queue"]}}')""",
        "TK006",
        f"executor {NOBODY} is not registered (register anew under a new uuid; the steps it held are given to others)",
    ),
    BadSql(
        "an executor of no kind",
        f"""SELECT tasker.register_executor('{{"executor": "{NOBODY}", "kind": "cook", "worker": "w"}}')""",
        "TK001",
        'the executor cannot be registered: new row for relation "executors" violates check constraint '
        '"executors_kind_check" (it needs executor (a uuid), kind, worker and queues)',
    ),
    BadSql(
        "a namespace that is no name",
        "SELECT tasker.ensure_namespace('My Shop')",
        "TK001",
        "namespace 'My Shop' is not a name (use at most 33 of a-z, 0-9 and _, beginning with a letter)",
    ),
]

# -- commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadCommand:
    """A command that fails.

    Attributes:
        arguments: after ``tasker``.
        exit_code: 1 failed, 2 called wrongly.
        says: the last lines of its output.
    """

    arguments: tuple[str, ...]
    exit_code: int
    says: str


BAD_COMMANDS: list[BadCommand] = [
    BadCommand(
        ("task", "create", "shop", "order", "{oops"),
        1,
        "Error: context is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
        "Hint: quote it for the shell: '{\"order_id\": 42}'",
    ),
    BadCommand(
        ("task", "create", "shop", "order", "--run-at", "tomorrow"),
        1,
        "Error: 'tomorrow' is no time\nHint: write it like 2027-01-31T08:00:00+01:00",
    ),
    BadCommand(
        ("task", "create", "shop", "odrer"),
        1,
        "Error: request 0: no workflow shop/odrer is registered\n"
        "Hint: register it first (tasker template register FILE), or look what is there (tasker template list)",
    ),
    BadCommand(("task", "show", "one"), 2, "Error: Invalid value for 'UUID': 'one' is not a valid UUID."),
    BadCommand(
        ("task", "cancel", str(NOBODY)),
        1,
        f"Error: there is no task {NOBODY}\n"
        "Hint: if it was created in a transaction, it is there once that has committed",
    ),
    BadCommand(
        ("task", "list", "--state", "running"),
        2,
        "Error: Invalid value for '--state': 'running' is not one of 'pending', 'in_progress', 'paused', 'complete', "
        "'error', 'cancelled', 'resolved_manually'.",
    ),
    BadCommand(
        ("queue", "peek", "nowhere"), 1, "Error: there is no queue 'nowhere'\nHint: create it with create_queue()"
    ),
    BadCommand(
        ("template", "show", "shop"),
        1,
        "Error: 'shop' names no workflow\nHint: write namespace/name or namespace/name:version; `tasker template list` "
        "shows what is registered",
    ),
    BadCommand(
        ("config", "explain", "orchestration.spare_slot"),
        1,
        "Error: there is no setting orchestration.spare_slot\nHint: did you mean orchestration.spare_slots?",
    ),
]
