"""The round trip in which a reader acknowledges and receives, so that the process need not wait for its answer."""

from __future__ import annotations

import select
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

from tasker.resilience.answer_timeout import TimedConnection

_STATEMENT = b"tasker_celery_poll"
_QUERY = b"SELECT queue, pgmq_queue, msg_id, read_ct, message FROM tasker.celery_poll($1::jsonb)"


class Held(NamedTuple):
    """A message of a task queue that a reader holds."""

    pgmq_queue: str
    msg_id: int


class Delivery(NamedTuple):
    """One message as ``celery_poll`` hands it out; mail has no ``held`` and is gone from the database already."""

    queue: str
    held: Held | None
    read_count: int
    text: str


@dataclass(frozen=True, slots=True)
class PollRequest:
    """What one round trip is to do.

    Attributes:
        done: messages to acknowledge.
        queues: task queues to read, the most favoured first.
        limit: how many messages of task queues to claim at most.
        mailboxes: mailboxes to read.
        mail_limit: how much mail to take at most.
    """

    done: Sequence[Held] = ()
    queues: Sequence[str] = ()
    limit: int = 0
    mailboxes: Sequence[str] = ()
    mail_limit: int = 0

    def encode(self, consumer: int) -> bytes:
        """The request as ``celery_poll`` reads it."""
        done: dict[str, list[int]] = {}
        for held in self.done:
            done.setdefault(held.pgmq_queue, []).append(held.msg_id)
        return orjson.dumps(
            {
                "consumer": consumer,
                "done": done,
                "queues": self.queues,
                "limit": self.limit if self.queues else 0,
                "mailboxes": self.mailboxes,
                "mail_limit": self.mail_limit if self.mailboxes else 0,
            }
        )


class Answer(NamedTuple):
    """What one round trip brought."""

    request: PollRequest
    deliveries: list[Delivery]

    @property
    def more_in_queues(self) -> bool:
        """Whether the task queues may hold more than was asked for."""
        return sum(delivery.held is not None for delivery in self.deliveries) >= self.request.limit > 0

    @property
    def more_in_mailboxes(self) -> bool:
        """Whether the mailboxes may hold more than was asked for."""
        return sum(delivery.held is None for delivery in self.deliveries) >= self.request.mail_limit > 0


class Poller:
    """Sends poll requests over a connection that others use in between; one at a time.

    The caller sees to it that nobody uses the connection while an answer is due.
    """

    def __init__(self, connection: TimedConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared = False

    def send(self, request: PollRequest, consumer: int) -> None:
        """Send ``request`` without waiting for its answer."""
        if not self._prepared:
            self._pgconn.send_prepare(_STATEMENT, _QUERY)
            self._flush()
            self._results()
            self._prepared = True
        self._pgconn.send_query_prepared(_STATEMENT, [request.encode(consumer)])
        self._flush()

    def answer(self, *, wait: bool) -> list[Delivery] | None:
        """The answer to the request; ``None`` if it is not there yet, unless ``wait``.

        Raises:
            psycopg.Error: what the server said, or that the connection broke.
        """
        if not wait and self._pgconn.is_busy():
            return None
        return [delivery for result in self._results() for delivery in _rows(result)]

    def _flush(self) -> None:
        while self._pgconn.flush():
            self._connection.wait_for_socket(select.POLLOUT | select.POLLIN)
            self._pgconn.consume_input()

    def _results(self) -> list[Any]:
        """The results of what was sent, to the last one, unless one of them is an error."""
        results: list[Any] = []
        while True:
            # Asking for a result that has not arrived would wait for it, for as long as it takes.
            while self._pgconn.is_busy():
                self._connection.wait_for_socket(select.POLLIN)
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
            if result is None:
                break
            results.append(result)
        for result in results:
            self._check(result)
        return results

    def _check(self, result: Any) -> None:
        if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            return
        error = error_from_result(result)
        if self._pgconn.status != ConnStatus.OK and not isinstance(error, psycopg.OperationalError):
            # A connection that broke has no SQLSTATE to tell, and Celery reconnects on errors of this class alone.
            raise psycopg.OperationalError(str(error)) from error
        raise error


def _rows(result: Any) -> Iterable[Delivery]:
    for row in range(result.ntuples):
        pgmq_queue = result.get_value(row, 1)
        if pgmq_queue is None:
            yield Delivery(result.get_value(row, 0).decode(), None, 1, result.get_value(row, 4).decode())
        else:
            yield Delivery(
                result.get_value(row, 0).decode(),
                Held(pgmq_queue.decode(), int(result.get_value(row, 2))),
                int(result.get_value(row, 3)),
                result.get_value(row, 4).decode(),
            )
