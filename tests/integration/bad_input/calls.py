"""Calls of the client that are refused: identifiers that name nothing, sizes, and values that cannot be stored."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasker import TaskHandle
from tasker.errors import InvalidRequest, InvalidTransition, NotFound, PayloadTooLarge, TaskerError, ValueNotStorable
from tasker.messaging.queues import TASK_REQUESTS
from tests.integration.bad_input.shop import LARGE, LIMIT, NOBODY, ORDER, SHOP_QUEUE, Shop, nested


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
        lambda shop, task: shop.queues.send(TASK_REQUESTS, {**ORDER, "context": {"note": LARGE}}),
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
        lambda shop, task: shop.queues.send(TASK_REQUESTS, {**ORDER, "context": {"n": math.nan}}),
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
