"""One PostgreSQL session of a broker connection: calls the ``tasker.celery_*`` functions and listens for news."""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from psycopg import sql

from tasker.errors import SchemaVersionError
from tasker.messaging.connecting import abandon_socket, connect
from tasker.messaging.transport.poll import Answer, Held, Poller, PollRequest

_PUBLISH = "SELECT tasker.celery_publish(%s, %s, %s, %s::smallint, %s::float8, %s)"
_PUBLISH_UNFLUSHED = f"{_PUBLISH} FROM set_config('synchronous_commit', 'off', true)"
_FLUSH = "SELECT pg_logical_emit_message(true, 'tasker', '')"
"""The smallest thing whose commit waits for the disk; nobody reads it."""

PIPELINED_CHARACTERS = 4096
"""A longer message is sent without a pipeline: psycopg's flushes once and then waits for the answer, although the
socket may have taken only a part of what was sent."""


class PollFailed(psycopg.OperationalError):
    """A poll got no answer: the connection broke, or the server refused it.

    Either way the broker connection is to be established anew. ``request``: the poll.
    """

    def __init__(self, request: PollRequest, error: psycopg.Error) -> None:
        super().__init__(f"reading from the broker's database failed: {error}")
        self.request = request


class Session:
    """A session belongs to the process that opened it; in a forked child it is inert.

    Being a reader of queues is tied to the session (see ``tasker.celery_attach``), so a session is never reopened: when
    its connection breaks, the broker connection gets a new one, and what was held returns to the queues.

    Args:
        dsn: connection string for libpq.
        name: application name.
        connect_timeout_seconds: how long to try.
        answer_timeout_seconds: longest silence of the server in the middle of a call; then the session is over.

    Raises:
        psycopg.OperationalError: the server cannot be reached.
    """

    def __init__(self, dsn: str, *, name: str, connect_timeout_seconds: float, answer_timeout_seconds: float) -> None:
        self._connection = connect(
            dsn,
            name=name,
            timeout_seconds=connect_timeout_seconds,
            answer_timeout_seconds=answer_timeout_seconds,
        )
        # All queries here are few and the same for life: prepared at once, they cost no planning.
        self._connection.prepare_threshold = 0
        self._connection.add_notify_handler(self._on_notify)
        self._pid = os.getpid()
        # A poll may be under way while other threads (the pool's) use the session: whoever comes takes its turn.
        self._lock = threading.RLock()
        self._poller = Poller(self._connection)
        self._under_way: PollRequest | None = None
        self._sent_at = 0.0
        self._answers: list[Answer] = []
        self._waiter: int | None = None
        self._failure: tuple[psycopg.Error, PollRequest] | None = None
        self._consumer: int | None = None
        self._listening: set[str] = set()
        self._notified: set[str] = set()
        _open_sessions.add(self)

    # -- the connection -------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether this process may use the session: it is open, and its own."""
        return self._pid == os.getpid() and not self._connection.closed

    def is_alive(self) -> bool:
        """Whether the server has not ended the session meanwhile; looks at what has arrived, and asks nothing.

        For a session that nobody reads from: what is due to somebody stays where it is.
        """
        with self._lock:
            poller = select.poll()
            poller.register(self._connection.fileno(), select.POLLIN)
            try:
                # A server that ends a session says so first: the end itself comes after that.
                while self._under_way is None and poller.poll(0):
                    self._connection.pgconn.consume_input()
                    self._collect_notifies()
            except psycopg.OperationalError:
                self._connection.close()
                return False
            return True

    @property
    def in_a_call(self) -> bool:
        """Whether this very thread is in the middle of a call: who asks then is a signal's handler."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]
        return owned

    def fileno(self) -> int:
        """The descriptor that is readable when there may be news."""
        return self._connection.fileno()

    def close(self) -> None:
        """End the session. In a forked child nothing is sent: the connection is the parent's."""
        if self._pid == os.getpid():
            _open_sessions.discard(self)
            self._connection.close()

    def abandon(self) -> None:
        """Let go of the socket in a forked child."""
        abandon_socket(self._connection)

    # -- news -----------------------------------------------------------------------------------------------------

    def _on_notify(self, notify: psycopg.Notify) -> None:
        self._notified.add(notify.channel)

    def _collect_notifies(self) -> None:
        while (notify := self._connection.pgconn.notifies()) is not None:
            self._notified.add(notify.relname.decode())

    def listen(self, channels: Iterable[str]) -> None:
        """Listen on ``channels`` as well. News from before are not reported: look once after this."""
        new = [channel for channel in channels if channel not in self._listening]
        for channel in new:
            self._execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._listening.update(new)

    def unlisten(self, channel: str) -> None:
        """Listen on ``channel`` no longer."""
        if channel in self._listening:
            self._listening.discard(channel)
            self._execute(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)))

    def news(self) -> set[str]:
        """The channels that were notified since the last call: while waiting, or in the course of queries."""
        if not self._notified:
            return set()
        notified, self._notified = self._notified, set()
        return notified

    def receive(self) -> None:
        """Take in what has arrived, without waiting.

        Raises:
            psycopg.OperationalError: the connection is broken.
        """
        with self._lock:
            self._connection.pgconn.consume_input()
            if self._under_way is not None:
                self._settle(wait=False)
            self._collect_notifies()

    def wait(self, timeout_seconds: float) -> None:
        """Wait until something may have arrived, at most ``timeout_seconds``."""
        self._waiter = threading.get_ident()
        try:
            if not self._notified and not self._answers:
                poller = select.poll()
                poller.register(self._connection.fileno(), select.POLLIN)
                poller.poll(max(0, -int(-timeout_seconds * 1000 // 1)))
        finally:
            self._waiter = None

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def consumer(self) -> int:
        """This session's number as a reader of queues; becoming one is its first use."""
        with self._lock:
            if self._consumer is None:
                self._consumer = int(self._value("SELECT tasker.celery_attach()"))
            return self._consumer

    @property
    def attached(self) -> bool:
        """Whether the session is a reader of queues."""
        return self._consumer is not None

    @property
    def polling(self) -> bool:
        """Whether a poll is under way."""
        return self._under_way is not None

    def begin_poll(self, request: PollRequest) -> None:
        """Send ``request`` and return. The session is readable when its answer is there: ``receive``, then ``take``."""
        consumer = self.consumer
        with self._lock:
            self._settle(wait=True)
            self._under_way, self._sent_at = request, monotonic()
            try:
                self._poller.send(request, consumer)
            except psycopg.Error as error:
                self._under_way = None
                raise PollFailed(request, error) from error

    def check_answer(self) -> None:
        """See that a poll under way has not been without an answer for too long.

        Raises:
            PollFailed: it has; the session is over.
        """
        request = self._under_way
        if request is not None:
            try:
                self._connection.check_silence(self._sent_at)
            except psycopg.Error as error:
                self._under_way = None
                raise PollFailed(request, error) from error

    @property
    def unacknowledged(self) -> list[Held]:
        """What polls were to acknowledge of which nobody knows whether they were carried out."""
        requests = [self._under_way, self._failure[1] if self._failure is not None else None]
        return [held for request in requests if request is not None for held in request.done]

    def take(self) -> list[Answer]:
        """The answers to polls since the last call.

        Raises:
            PollFailed: the server refused one; what it was to acknowledge is not.
        """
        if self._failure is not None:
            (error, request), self._failure = self._failure, None
            raise PollFailed(request, error) from error
        with self._lock:
            answers, self._answers = self._answers, []
        return answers

    def poll(self, request: PollRequest) -> list[Answer]:
        """Send ``request`` and wait for its answer; it comes last, after those of earlier polls not taken yet.

        Raises:
            PollFailed: it failed; what it was to acknowledge is not.
        """
        with self._lock:
            self.begin_poll(request)
            self._settle(wait=True)
        return self.take()

    def _settle(self, *, wait: bool) -> None:
        """Put the answer of a poll under way aside, so that the connection is free."""
        request = self._under_way
        if request is None:
            return
        try:
            answer = self._poller.answer(wait=wait)
        except psycopg.Error as error:
            self._under_way = None
            self._failure = (error, request)
            return
        if answer is not None:
            self._under_way = None
            self._answers.append(Answer(request, answer))
        self._collect_notifies()

    def release(self, messages: Sequence[Held]) -> int:
        """Return ``messages`` that this session still holds to the front of their queues; how many."""
        return int(
            self._value(
                "SELECT tasker.celery_release(%s, %s::text[], %s::bigint[])",
                self.consumer,
                [held.pgmq_queue for held in messages],
                [held.msg_id for held in messages],
            )
        )

    def set_aside(self, message: Held) -> None:
        """Move a message that is no Celery message to its queue's archive."""
        self._execute("SELECT tasker.celery_set_aside(%s, %s)", message)

    def tend(self) -> int:
        """Do the housekeeping that all readers share; how many messages of dead readers returned to their queues."""
        return int(self._value("SELECT tasker.celery_tend(%s::integer)", self._consumer))

    def detach(self, queues: Sequence[str]) -> None:
        """Give back at once what this session holds from ``queues``, and its mailboxes."""
        if self._consumer is not None:
            self._execute("SELECT tasker.celery_detach(%s, %s::text[])", (self._consumer, list(queues)))
            self._consumer = None

    # -- sending and declaring ------------------------------------------------------------------------------------

    def publish(
        self,
        exchange: str,
        routing_key: str,
        text: str,
        *,
        priority: int,
        ttl_seconds: float | None,
        pgmq_queue: str | None,
        durable: bool,
    ) -> int:
        """Send one message; how many queues and mailboxes it reached. On disk by then, if it is ``durable``.

        ``pgmq_queue``: see ``tasker.celery_publish``.
        """
        parameters = (exchange, routing_key, text, priority, ttl_seconds, pgmq_queue)
        if not durable or len(text) > PIPELINED_CHARACTERS or not psycopg.Pipeline.is_supported():
            return int(self._value(_PUBLISH, *parameters))
        with self._calling():
            # A commit that notifies lets no other one that does pass until it is on disk, in the whole server: senders
            # would wait for the disk one after the other. So the message is committed first, which wakes its readers,
            # and then all wait for the disk together. Both in one round trip.
            with self._connection.pipeline() as pipeline:
                sent = self._connection.execute(_PUBLISH_UNFLUSHED, parameters)
                pipeline.sync()
                self._connection.execute(_FLUSH)
            row = sent.fetchone()
        assert row is not None
        return int(row[0])

    def declare_queue(self, name: str, pgmq_queue: str) -> None:
        """Make sure that the task queue ``name`` exists."""
        self._execute("SELECT tasker.celery_declare_queue(%s, %s)", (name, pgmq_queue))

    def declare_mailbox(self, name: str, expires_seconds: float, message_ttl_seconds: float) -> tuple[int, int]:
        """Make sure that the mailbox ``name`` exists and is this session's; its messages, and its other readers."""
        row = self._execute(
            "SELECT messages, readers FROM tasker.celery_declare_mailbox(%s, %s, %s::float8, %s::float8)",
            (name, self.consumer, expires_seconds, message_ttl_seconds),
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def bind(self, exchange: str, exchange_type: str, routing_key: str, pattern: str | None, queue: str) -> None:
        """Bind a queue or mailbox to an exchange."""
        self._execute(
            "SELECT tasker.celery_bind(%s, %s, %s, %s, %s)", (exchange, exchange_type, routing_key, pattern, queue)
        )

    def unbind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Take a binding back."""
        self._execute("SELECT tasker.celery_unbind(%s, %s, %s)", (exchange, routing_key, queue))

    def bindings(self, exchange: str) -> list[tuple[str, str | None, str]]:
        """Routing key, pattern and queue of each binding of ``exchange``."""
        return self._execute(
            "SELECT routing_key, pattern, queue FROM tasker.celery_bindings WHERE exchange = %s", (exchange,)
        ).fetchall()

    def delete(self, name: str) -> None:
        """Delete a task queue or mailbox with all that is in it."""
        self._execute("SELECT tasker.celery_delete(%s)", (name,))

    def purge(self, name: str) -> int:
        """Remove the ready messages of a task queue or mailbox; how many."""
        return int(self._value("SELECT tasker.celery_purge(%s)", name))

    def size(self, name: str) -> int | None:
        """How many messages are ready in a task queue or mailbox; ``None`` if it does not exist."""
        value = self._value("SELECT tasker.celery_size(%s)", name)
        return None if value is None else int(value)

    def _value(self, query: str, *parameters: object) -> Any:
        row = self._execute(query, parameters).fetchone()
        assert row is not None
        return row[0]

    def _execute(self, query: str | sql.Composed, parameters: Sequence[object] = ()) -> psycopg.Cursor[Any]:
        with self._calling():
            return self._connection.execute(query, parameters)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """The connection is free for a call, and what comes with its answer is lost to nobody."""
        try:
            with self._lock:
                self._settle(wait=True)
                yield
                if self._consumer is not None and self._waiter not in (None, threading.get_ident()):
                    # News may have come with the answer, while another thread waits for them: another answer wakes it.
                    self.begin_poll(PollRequest())
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
            # Not an error of the connection: trying again would not help, and Celery would try for ever.
            raise SchemaVersionError(
                "the broker's database has no tables and functions for Celery, or older ones",
                hint="run `tasker db migrate` on it",
            ) from error


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _abandon_all() -> None:
    for session in tuple(_open_sessions):
        session.abandon()
    _open_sessions.clear()


os.register_at_fork(after_in_child=_abandon_all)
