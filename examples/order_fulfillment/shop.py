"""The shop's database, and the frame of every handler: one transaction, done once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from order_fulfillment.model import Order
from order_fulfillment.outages import strike
from order_fulfillment.refusals import Refused, refuse
from tasker import PermanentError, StepContext

HERE = Path(__file__).parent
Connection = psycopg.Connection[Any]
Work = Callable[[Connection], dict[str, Any]]


class _Own(threading.local):
    """Each thread of each process has one connection: a forked child never uses its parent's."""

    connection: Connection | None = None
    pid: int = 0


_own = _Own()


@cache
def database_url() -> str:
    """The database of the engine, as its settings name it: ``DATABASE_URL``, or the embedded server."""
    from tasker.config.manager import ConfigManager

    url = ConfigManager.load().database.url
    if url is None:
        from tasker.database.embedded import EmbeddedServer

        url = EmbeddedServer.start().url
    return url


@contextmanager
def transaction() -> Iterator[Connection]:
    """A transaction on this thread's connection.

    A connection that was lost is replaced at the next call; the step that loses it fails, and is retried.
    """
    connection = _own.connection
    if connection is None or connection.closed or _own.pid != os.getpid():
        connection = connect(database_url())
        _own.connection, _own.pid = connection, os.getpid()
    with connection.transaction():
        yield connection


def connect(url: str) -> Connection:
    """A connection of its own to the database at ``url``, in autocommit mode.

    Two runs of one step wait for each other, but not for ever: a run that was frozen may hold its locks for long.
    """
    from tasker.database.dsn import dsn_of

    options = "-c lock_timeout=10s -c statement_timeout=30s"
    return psycopg.connect(dsn_of(url), autocommit=True, application_name="shop", connect_timeout=5, options=options)


def close() -> None:
    """Close this thread's connection, and ask the settings again at the next use."""
    connection, _own.connection = _own.connection, None
    if connection is not None and _own.pid == os.getpid():
        connection.close()
    database_url.cache_clear()


def once(ctx: StepContext[Order], work: Work) -> dict[str, Any]:
    """Do ``work`` for this step of this order, unless an earlier run did it; either way return what it came to.

    A step may run twice: its worker died after the commit, its answer was lost, it was taken for dead. So ``work`` and
    the note that it was done are one transaction; a run beside another one waits here for the other's end.

    Args:
        ctx: the attempt.
        work: what to do in the transaction; returns the step's result, or raises ``Refused``.

    Raises:
        PermanentError: the order is refused; what was done for it is taken back in the same transaction.
        RetryableError: an outage.
    """
    strike(ctx, "before")
    try:
        outcome = _recorded(ctx, lambda connection: {"result": work(connection)})
    except Refused as refusal:
        # Its transaction is undone; this one takes back what earlier steps did.
        outcome = _recorded(ctx, partial(_refuse, ctx=ctx, refusal=refusal))
    strike(ctx, "after")
    if "refused" in outcome:
        raise PermanentError(outcome["message"], code=outcome["refused"])
    result: dict[str, Any] = outcome["result"]
    return result


def _recorded(ctx: StepContext[Order], work: Work) -> dict[str, Any]:
    """The outcome of this step of this order: an earlier run's, else that of ``work``, recorded with what it does."""
    key = (ctx.context.order_id, ctx.step_name)
    with transaction() as connection:
        # The first run holds the key until its transaction ends.
        ((outcome,),) = connection.execute(
            """INSERT INTO shop.steps_done AS done (order_id, step) VALUES (%s, %s)
               ON CONFLICT (order_id, step) DO UPDATE SET runs = done.runs + 1
               RETURNING outcome""",
            key,
        ).fetchall()
        if outcome is not None:
            return dict(outcome)
        done = work(connection)
        connection.execute(
            "UPDATE shop.steps_done SET outcome = %s WHERE (order_id, step) = (%s, %s)", (Jsonb(done), *key)
        )
        return done


def _refuse(connection: Connection, *, ctx: StepContext[Order], refusal: Refused) -> dict[str, Any]:
    refuse(connection, ctx.context, ctx.task_uuid, refusal.code)
    return {"refused": refusal.code, "message": str(refusal)}


def set_up(url: str) -> None:
    """Make the shop's tables and fill the catalogue and the stock, in an empty or a used database."""
    products = [json.loads(line) for line in (HERE / "data" / "products.jsonl").read_text().splitlines()]
    with connect(url) as connection, connection.transaction():
        connection.execute("DROP SCHEMA IF EXISTS shop CASCADE")
        connection.execute((HERE / "schema.sql").read_bytes())
        with connection.cursor() as cursor:
            cursor.executemany(
                """INSERT INTO shop.products (sku, name, unit_price_cents, weight_grams)
                   VALUES (%(sku)s, %(name)s, %(unit_price_cents)s, %(weight_grams)s)""",
                products,
            )
            cursor.executemany(
                "INSERT INTO shop.stock (sku, received, quantity) VALUES (%(sku)s, %(stock)s, %(stock)s)", products
            )
