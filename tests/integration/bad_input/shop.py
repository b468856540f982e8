"""The place where bad input is given: a database with workflows, and all that works on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson
import psycopg

from tasker import StepContext, Tasker, TaskHandle, workflow
from tasker.config.sections import PgmqSettings, SystemSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.executors.delegation import DelegatedStep
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.messaging.client import PgmqClient
from tasker.testing import run_until_idle

SHOP_QUEUE = "shop_queue"
NOBODY = UUID("00000000-0000-7000-8000-000000000000")
"""No task's uuid."""

LIMIT = 4096
"""Bytes of a context and of a result that the place allows."""

LARGE = "x" * 5 * LIMIT
"""What is too much for a message, too."""

ORDER = {"namespace": "shop", "name": "order", "context": {}}
"""A good request."""

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
