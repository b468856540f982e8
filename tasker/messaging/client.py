"""PGMQ's queues from Python: send, read with a visibility timeout, delete, archive, look without touching.

Hot paths do not go through here: step queues are popped inside ``tasker.claim_steps``. This client is for queues that
are read before they are deleted, for tools, and for programs that use PGMQ for purposes of their own.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from psycopg import sql

from tasker.encoding import encode
from tasker.errors import InvalidRequest, NotFound
from tasker.messaging.queues import channel_name, is_step_queue
from tasker.resilience.circuits import CircuitBreakers

if TYPE_CHECKING:
    from tasker.config.sections import PgmqSettings

T = TypeVar("T")

# PGMQ folds case, and refuses other characters late or not at all: two names must never mean one queue.
_NAME = re.compile(r"[a-z0-9_]{1,47}")


class ConnectionSource(Protocol):
    """What the client needs of a ``Database``."""

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection in autocommit, for the time of a block."""
        ...


class Breaker(Protocol):
    """What the client needs of a circuit; pybreaker's are such, too."""

    def call(self, function: Callable[[], T], /) -> T:
        """Call ``function``, unless too many calls have failed of late."""
        ...


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in a queue.

    Attributes:
        msg_id: its number in the queue.
        read_count: how often it was read.
        enqueued_at: when it was sent.
        visible_at: from when on it can be read (again).
        message: the JSON value that was sent.
    """

    msg_id: int
    read_count: int
    enqueued_at: dt.datetime
    visible_at: dt.datetime
    message: Any


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """The state of a queue.

    Attributes:
        queue: its name.
        length: messages in it, invisible ones included.
        visible: messages that can be read now.
        oldest_age_seconds: since the sending of the oldest message; ``None`` if it is empty.
        newest_age_seconds: since the sending of the newest message; ``None`` if it is empty.
    """

    queue: str
    length: int
    visible: int
    oldest_age_seconds: float | None
    newest_age_seconds: float | None


class PgmqClient:
    """PGMQ behind a circuit.

    A database that fails repeatedly opens the circuit, and calls are then refused at once (``CircuitOpen``). Requests
    that are wrong do not count against the database.

    Args:
        database: where connections come from.
        settings: ``settings.pgmq``.
        circuit: the process's circuit ``pgmq``; the client makes its own when ``None``.
    """

    def __init__(self, database: ConnectionSource, settings: PgmqSettings, circuit: Breaker | None = None) -> None:
        self._database = database
        self._settings = settings
        self._circuit: Breaker = circuit or CircuitBreakers().get("pgmq")

    # -- queues -------------------------------------------------------------------------------------------------

    def create_queue(self, queue: str) -> bool:
        """Make sure that ``queue`` exists; whether it is new.

        Raises:
            InvalidRequest: PGMQ cannot take that name.
        """
        if not _NAME.fullmatch(queue):
            raise InvalidRequest(
                f"{queue!r} is no name for a queue",
                hint="use at most 47 lower-case letters, digits and underscores",
                field="queue",
            )

        def create(connection: psycopg.Connection[Any]) -> bool:
            known = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"pgmq.q_{queue}",)).fetchone()
            connection.execute("SELECT tasker.queue_ensure(%s)", (queue,))
            return known == (False,)

        return self._run(create)

    def list_queues(self) -> list[str]:
        """The names of all queues, sorted."""

        def names(connection: psycopg.Connection[Any]) -> list[str]:
            return [name for (name,) in connection.execute("SELECT queue_name FROM pgmq.list_queues() ORDER BY 1")]

        return self._run(names)

    def metrics(self, queue: str) -> QueueMetrics:
        """How full ``queue`` is.

        Raises:
            NotFound: there is no such queue.
        """
        query = sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE vt <= clock_timestamp()),"
            " extract(epoch FROM statement_timestamp() - min(enqueued_at))::float8,"
            " extract(epoch FROM statement_timestamp() - max(enqueued_at))::float8 FROM {}"
        ).format(_table(queue))
        return self._run(lambda connection: QueueMetrics(queue, *_row(connection.execute(query))), queue)

    def purge(self, queue: str) -> int:
        """Delete all messages of ``queue``; how many.

        Raises:
            InvalidRequest: it is a step queue: steps wait for their messages, and would wait for ever.
            NotFound: there is no such queue.
        """
        if is_step_queue(queue):
            raise InvalidRequest(
                f"{queue} is a step queue, and is not purged: its steps would wait for ever",
                hint="cancel the tasks whose steps are in it",
                field="queue",
            )
        query = sql.SQL("DELETE FROM {}").format(_table(queue))
        return self._run(lambda connection: connection.execute(query).rowcount, queue)

    # -- messages -----------------------------------------------------------------------------------------------

    def send(self, queue: str, message: object, *, delay_seconds: float = 0) -> int:
        """Send one message; its number.

        Args:
            queue: to where.
            message: a JSON value, or what ``tasker.encoding`` makes one of.
            delay_seconds: it is invisible for so long; PGMQ counts whole seconds, parts are rounded up.

        Raises:
            NotFound: there is no such queue.
            ValueNotStorable, PayloadTooLarge: the message cannot be sent.
        """
        return self.send_many(queue, [message], delay_seconds=delay_seconds)[0]

    def send_many(self, queue: str, messages: Sequence[object], *, delay_seconds: float = 0) -> list[int]:
        """Send messages in one statement; their numbers. Arguments and errors as for ``send``."""
        limit = self._settings.max_message_bytes
        texts = [encode(message, what=f"the message for {queue}", max_bytes=limit).decode() for message in messages]
        if not texts:
            return []
        announced = self._settings.notify_enabled and delay_seconds <= 0

        def send(connection: psycopg.Connection[Any]) -> list[int]:
            return list(
                _row(
                    connection.execute(
                        "SELECT array_agg(sent.id ORDER BY sent.id), CASE WHEN %s THEN pg_notify(%s, '') END"
                        " FROM pgmq.send_batch(%s, %s::jsonb[], %s::integer) AS sent (id)",
                        (announced, channel_name(queue), queue, texts, math.ceil(delay_seconds)),
                    )
                )[0]
            )

        return self._run(send, queue)

    def read_messages(
        self,
        queue: str,
        limit: int = 1,
        visibility_timeout_seconds: float | None = None,
        *,
        wait_seconds: float = 0,
    ) -> list[QueuedMessage]:
        """Up to ``limit`` messages, which nobody else sees for a time. Delete them when they are done with.

        Args:
            queue: from where.
            limit: at most ``pgmq.max_batch_size`` count.
            visibility_timeout_seconds: how long others do not see them (whole seconds, parts are rounded up);
                ``pgmq.visibility_timeout_seconds`` when ``None``.
            wait_seconds: if there are none, look again every ``pgmq.poll_interval_ms`` for so long.

        Raises:
            NotFound: there is no such queue.
        """
        settings = self._settings
        hidden = (
            settings.visibility_timeout_seconds if visibility_timeout_seconds is None else visibility_timeout_seconds
        )

        def read(connection: psycopg.Connection[Any]) -> list[QueuedMessage]:
            rows = connection.execute(
                "SELECT msg_id, read_ct, enqueued_at, vt, message FROM pgmq.read(%s, %s::integer, %s::integer)",
                (queue, math.ceil(hidden), min(limit, settings.max_batch_size)),
            )
            return [QueuedMessage(*row) for row in rows]

        deadline = time.monotonic() + wait_seconds
        while True:
            messages = self._run(read, queue)
            left = deadline - time.monotonic()
            if messages or left <= 0:
                return messages
            time.sleep(min(left, settings.poll_interval_ms / 1000))

    def delete_messages(self, queue: str, msg_ids: Sequence[int]) -> int:
        """Delete messages that are done with; how many there were.

        Raises:
            NotFound: there is no such queue.
        """
        return self._count("SELECT count(*) FROM pgmq.delete(%s, %s::bigint[])", queue, msg_ids)

    def archive(self, queue: str, msg_ids: Sequence[int]) -> int:
        """Move messages to the queue's archive table; how many there were.

        Raises:
            NotFound: there is no such queue.
        """
        return self._count("SELECT count(*) FROM pgmq.archive(%s, %s::bigint[])", queue, msg_ids)

    def peek(self, queue: str, limit: int = 10) -> list[QueuedMessage]:
        """The oldest messages, visible or not, without any change to them.

        Raises:
            NotFound: there is no such queue.
        """
        query = sql.SQL("SELECT msg_id, read_ct, enqueued_at, vt, message FROM {} ORDER BY msg_id LIMIT %s").format(
            _table(queue)
        )
        return self._run(lambda connection: [QueuedMessage(*row) for row in connection.execute(query, (limit,))], queue)

    # -- all of them --------------------------------------------------------------------------------------------

    def _count(self, query: str, queue: str, msg_ids: Sequence[int]) -> int:
        return int(self._run(lambda connection: _row(connection.execute(query, (queue, list(msg_ids))))[0], queue))

    def _run(self, work: Callable[[psycopg.Connection[Any]], T], queue: str = "") -> T:
        def guarded() -> tuple[T | None, psycopg.Error | None]:
            try:
                with self._database.connection() as connection:
                    return work(connection), None
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except psycopg.Error as error:
                # The database answered; the request was wrong. The circuit has nothing to count.
                return None, error

        result, refusal = self._circuit.call(guarded)
        if isinstance(refusal, psycopg.errors.UndefinedTable):
            raise NotFound(
                f"there is no queue {queue!r}", hint="create it with create_queue()", field="queue"
            ) from refusal
        if refusal is not None:
            raise refusal
        return result  # type: ignore[return-value]  # None only if T is


def _table(queue: str) -> sql.Identifier:
    return sql.Identifier("pgmq", f"q_{queue.lower()}")


def _row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row
