# mypy: allow-untyped-calls
"""Celery's broker on PostgreSQL: ``broker_url = "tasker-pgmq://…"``.

One session per broker connection sends, reads and listens. Reading is one round trip for everything: acknowledgements
go up, messages of all queues and mailboxes that have news come down. In Celery's event loop the session's socket is one
of the loop's descriptors, and the loop does not wait for the answer; elsewhere ``drain_events`` waits on it. A quiet
queue is not polled, but for a look every few seconds, with the housekeeping that all readers share.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any
from uuid import uuid4

import psycopg
from kombu.exceptions import ChannelError
from kombu.transport import base, virtual

from tasker.errors import ConfigurationError
from tasker.messaging.connecting import ANSWER_TIMEOUT_SECONDS
from tasker.messaging.transport import channel as channels
from tasker.messaging.transport.address import SCHEME, ShownUrl, dsn_of_broker, masked, whole_url
from tasker.messaging.transport.payload import decode_message
from tasker.messaging.transport.poll import Answer, Delivery, Held, PollRequest
from tasker.messaging.transport.qos import mail_tag_of, tag_of
from tasker.messaging.transport.reading import ReadingList
from tasker.messaging.transport.session import PollFailed, Session

logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 5.0
"""Messages of a reader that died are back in their queues after about this time."""


class Transport(virtual.Transport):
    """The broker connection.

    Transport options, both in seconds: ``housekeeping_interval``, and ``answer_timeout``, the longest silence of the
    server in the middle of a call; then the connection counts as lost.
    """

    Channel = channels.Channel

    can_parse_url = True
    driver_type = "pgmq"
    driver_name = "psycopg"

    implements = virtual.Transport.implements.extend(
        asynchronous=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
        heartbeats=False,
    )

    connection_errors: tuple[type[BaseException], ...] = (
        *base.Transport.connection_errors,
        psycopg.OperationalError,
        psycopg.InterfaceError,
        OSError,
    )
    recoverable_connection_errors = connection_errors
    channel_errors = (ChannelError,)
    recoverable_channel_errors: tuple[type[BaseException], ...] = ()

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        url = whole_url(client.hostname or f"{SCHEME}://")
        self.dsn = dsn_of_broker(url)
        client.hostname = ShownUrl(url)
        if len(client.alt) > 1:
            raise ConfigurationError(
                "a list of brokers is not understood by the broker on PostgreSQL",
                hint=f"name all hosts in one URL, as libpq does: {SCHEME}://host1,host2/database",
                field="broker_url",
            )
        # To switch to the next of one, kombu would take the URL apart.
        client.cycle = None
        self.mailboxes: dict[str, bool] = {}
        """Mailboxes that this connection declared, and whether each goes with its consumer."""
        self._session: Session | None = None
        self._loop: Any = None
        self._timer: Any = None
        self._loop_fd = -1
        self._drainer: int | None = None
        interval = float(client.transport_options.get("housekeeping_interval", HOUSEKEEPING_SECONDS))
        # Workers that start together shall not do their housekeeping together.
        self._housekeeping_seconds = interval * random.uniform(0.8, 1.2)
        self._answer_timeout = float(client.transport_options.get("answer_timeout", ANSWER_TIMEOUT_SECONDS))
        self._reset()

    def _reset(self) -> None:
        self.state = virtual.base.BrokerState()
        self.mailboxes.clear()
        self._callbacks.clear()
        self._reading = ReadingList()
        self._read_from: set[str] = set()
        self._done: deque[Held] = deque()
        self._inbox: deque[tuple[str, dict[str, Any]]] = deque()
        self._next_housekeeping = monotonic() + self._housekeeping_seconds
        self._tend_next = False

    # -- the connection -----------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session.

        Raises:
            psycopg.OperationalError: it is gone; the broker connection must be established again.
        """
        if self._session is None or not self._session.usable:
            raise psycopg.OperationalError("the connection to the broker's database is closed")
        return self._session

    @property
    def usable(self) -> bool:
        """Whether there is a session that works, as far as is known."""
        return self._session is not None and self._session.usable

    def establish_connection(self) -> Transport:
        """Open a session; whatever an earlier one held went back to the queues."""
        self._forget_channels()
        timeout = getattr(self.client, "connect_timeout", None) or 5
        self._session = Session(
            self.dsn,
            name="tasker-broker",
            connect_timeout_seconds=float(timeout),
            answer_timeout_seconds=self._answer_timeout,
        )
        return self

    def verify_connection(self, connection: Transport) -> bool:
        """Whether the connection can be used, as far as is known without asking the server.

        Callers open it anew if not. A connection that reads is not looked at: its reader is to hear of the loss.
        """
        return self._session is not None and self.usable and (bool(self._reading) or self._session.is_alive())

    def close_connection(self, connection: Transport) -> None:
        """Acknowledge what is done, give back the rest, and end the session."""
        self._leave_event_loop()
        session = self._session
        if session is None:
            return
        try:
            if session.usable:
                self._flush()
                for channel in tuple(self.channels):
                    channel.close()
                session.detach(sorted(self._read_from))
        finally:
            self._forget_channels()
            session.close()

    def _forget_channels(self) -> None:
        for channel in self.channels:
            channel.closed = True
            channel.qos._delivered.clear()
        self.channels.clear()
        self._avail_channels.clear()
        _owe(self.dsn, self._done)
        session, self._session = self._session, None
        if session is not None:
            _owe(self.dsn, session.unacknowledged)
        self._reset()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The broker URL as it may be shown."""
        return whole_url(uri) if include_password else masked(whole_url(uri), mask)

    def driver_version(self) -> str:
        """The version of psycopg."""
        return psycopg.__version__

    # -- in the event loop of a worker --------------------------------------------------------------------------

    def register_with_event_loop(self, connection: Transport, loop: Any) -> None:
        """Have messages delivered by ``loop`` from now on."""
        self._loop = loop
        self._loop_fd = self.session.fileno()
        loop.add_reader(self._loop_fd, self._on_readable)
        loop.on_tick.add(self._on_tick)
        loop.on_close.add(self._on_loop_closed)
        self._timer = loop.call_repeatedly(self._housekeeping_seconds, self._housekeep)

    def _leave_event_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.on_tick.discard(self._on_tick)
            loop.on_close.discard(self._on_loop_closed)
            self._timer.cancel()
            # The number may be somebody else's by now: a broken connection closes its socket by itself.
            if loop.readers.get(self._loop_fd, (None,))[0] == self._on_readable:
                loop.remove(self._loop_fd)

    def _on_loop_closed(self, loop: Any) -> None:
        # Tasks that end while the worker shuts down are acknowledged after the loop's last round: at once, then.
        self._leave_event_loop()

    def _on_readable(self) -> None:
        session = self.session
        waited = session.polling
        session.receive()
        self._take_answers()
        while self._inbox:
            self._deliver_next()
        if self._tend_next and waited and not session.polling:
            # The loop waits for this call, so it is made right after an answer, and not into a silence.
            self._tend_next = False
            session.tend()

    def _on_tick(self) -> None:
        # Called before the loop waits. Messages are delivered when the session is readable and only then, so that what
        # a delivery leaves for the loop to do (acknowledging) is done in its next round, and not after it has waited.
        session = self.session
        if session.polling:
            try:
                session.check_answer()
            except PollFailed as error:
                _owe(self.dsn, error.request.done)
                raise
            return
        self._take_answers()
        request = self._next_request()
        if request is None and self._inbox:
            # Brought along by another query: an empty poll makes the session readable, and the loop come round.
            request = PollRequest()
        if request is not None:
            self._begin_poll(request)

    def _housekeep(self) -> None:
        # The look at every queue is for news that were lost; none is known to get lost.
        self._reading.look_everywhere()
        self._next_housekeeping = monotonic() + self._housekeeping_seconds
        if self._reading:
            if self._loop is None:
                self.session.tend()
            else:
                self._tend_next = True

    # -- everywhere else ----------------------------------------------------------------------------------------

    def drain_events(self, connection: Transport, timeout: float | None = None, **kwargs: Any) -> None:
        """Deliver one message, waiting for it up to ``timeout`` seconds.

        Raises:
            TimeoutError: none came.
        """
        if not self._inbox:
            self._drainer = threading.get_ident()
            try:
                self._await_message(None if timeout is None else monotonic() + timeout)
            finally:
                self._drainer = None
        self._deliver_next()

    def _await_message(self, deadline: float | None) -> None:
        while not self._inbox:
            self.session.receive()
            self._take_answers()
            request = self._next_request()
            if request is not None:
                self._poll(request)
                continue
            now = monotonic()
            if deadline is not None and now >= deadline:
                raise socket.timeout  # noqa: UP041  # the name under which kombu's callers know it
            if now >= self._next_housekeeping:
                self._housekeep()
                continue
            until = self._next_housekeeping if deadline is None else min(self._next_housekeeping, deadline)
            self.session.wait(until - now)

    def take_one(self, queue: str, *, no_ack: bool) -> dict[str, Any] | None:
        """One message of ``queue``, if there is one."""
        self._take_answers()
        self._read_from.add(queue)
        is_mailbox = queue in self.mailboxes
        request = PollRequest(mailboxes=[queue], mail_limit=1) if is_mailbox else PollRequest(queues=[queue], limit=1)
        for delivery in self._ask(request)[-1].deliveries:
            raw = self._raw_of(delivery)
            if raw is not None:
                if no_ack and delivery.held is not None:
                    self.acknowledge(delivery.held)
                return raw
        return None

    # -- what channels ask for ----------------------------------------------------------------------------------

    def consume(self, channel: channels.Channel, queue: str, no_ack: bool) -> None:
        """Deliver messages of ``queue`` through ``channel`` from now on."""
        is_mailbox = queue in self.mailboxes
        if not is_mailbox:
            self._read_from.add(queue)
        # Listening begins before the first look: what is sent in between is seen by either.
        self.session.listen([self._reading.add(channel, queue, no_ack=no_ack, is_mailbox=is_mailbox)])

    def cancel(self, channel: channels.Channel, queue: str) -> None:
        """Deliver messages of ``queue`` no longer; what was fetched and not delivered goes back."""
        news = self._reading.remove(queue)
        undelivered = [raw for source, raw in self._inbox if source == queue]
        self._inbox = deque((source, raw) for source, raw in self._inbox if source != queue)
        if news is None or not self.usable:
            return
        if self.session.in_a_call:
            # Celery cancels its consumer in the handler of SIGQUIT, whatever that interrupts; a call within a call
            # would wait for itself. What was fetched goes back when the connection is closed, which comes next.
            return
        self.session.unlisten(news)
        if self.mailboxes.get(queue):
            channel.queue_delete(queue)
        elif undelivered:
            channel.give_back([channel.Message(raw, channel=channel) for raw in undelivered])

    def acknowledge(self, held: Held) -> None:
        """Have a message deleted: with the next round trip in an event loop, else now.

        Any thread may do so while another one is in ``drain_events``.
        """
        if not self.usable:
            # Its task has run, and shall not run again if that can be helped: the process's next session says so.
            _owe(self.dsn, [held])
            return
        self._done.append(held)
        if self._loop is not None:
            return
        if self._drainer in (None, threading.get_ident()):
            self._flush()
        else:
            # Another thread waits for messages. The answer, and news that come with it, are left to that one.
            self._begin_poll(PollRequest(done=self._take_done()))

    def release(self, messages: Sequence[Held]) -> None:
        """Return messages to the front of their queues. If the session is gone, that happens by itself."""
        if self.usable:
            self.session.release(messages)

    def _flush(self) -> None:
        done = self._take_done()
        if done:
            self._poll(PollRequest(done=done))

    # -- asking and delivering ----------------------------------------------------------------------------------

    def _take_done(self) -> list[Held]:
        done: list[Held] = []
        for waiting in (self._done, _owed.get(self.dsn)):
            while waiting:
                done.append(waiting.popleft())
        return done

    def _next_request(self) -> PollRequest | None:
        """What the next round trip is to do; ``None`` if there is nothing to do."""
        self._reading.heard(self.session.news())
        # Without a limit an event loop gets all there is, batch by batch. Who drains by hand gets one, and leaves the
        # others to others until they come for more.
        mailboxes, queues, limit = self._reading.take_due(
            undelivered=[queue for queue, _ in self._inbox], unlimited=100 if self._loop is not None else 1
        )
        done = self._take_done()
        if not (done or queues or mailboxes):
            return None
        return PollRequest(done, queues, limit, mailboxes, 100)

    def _poll(self, request: PollRequest) -> None:
        for answer in self._ask(request):
            self._take_in(answer)

    def _begin_poll(self, request: PollRequest) -> None:
        try:
            self.session.begin_poll(request)
        except PollFailed as error:
            _owe(self.dsn, error.request.done)
            raise

    def _take_answers(self) -> None:
        """Take what has come in answer to polls."""
        for answer in self._ask(None):
            self._take_in(answer)

    def _ask(self, request: PollRequest | None) -> list[Answer]:
        try:
            return self.session.take() if request is None else self.session.poll(request)
        except PollFailed as error:
            _owe(self.dsn, error.request.done)
            raise

    def _take_in(self, answer: Answer) -> None:
        if answer.more_in_queues:
            self._reading.look_at(answer.request.queues)
        if answer.more_in_mailboxes:
            self._reading.look_at(answer.request.mailboxes)
        for delivery in answer.deliveries:
            raw = self._raw_of(delivery)
            if raw is not None:
                if delivery.held is not None and self._reading.no_ack(delivery.queue):
                    self._done.append(delivery.held)
                self._inbox.append((delivery.queue, raw))

    def _raw_of(self, delivery: Delivery) -> dict[str, Any] | None:
        """The message as kombu knows it, with a delivery tag that says where it is."""
        try:
            raw = decode_message(delivery.text)
            properties = raw["properties"]
            delivery_info = properties["delivery_info"]
        except (ValueError, KeyError, TypeError):
            logger.error("a message of queue %s is no Celery message: %.200s", delivery.queue, delivery.text)
            if delivery.held is not None:
                self.session.set_aside(delivery.held)
            return None
        if delivery.held is None:
            properties["delivery_tag"] = mail_tag_of(delivery.queue, uuid4().hex)
        else:
            properties["delivery_tag"] = tag_of(delivery.held)
            if delivery.read_count > 1:
                delivery_info["redelivered"] = True
        return raw

    def _deliver_next(self) -> None:
        queue, raw = self._inbox.popleft()
        self._deliver(raw, queue)


_owed: dict[str, deque[Held]] = {}
"""Acknowledgements that a lost session could not take along, by database; the process's next session takes them."""

os.register_at_fork(after_in_child=_owed.clear)


def _owe(dsn: str, done: Sequence[Held] | deque[Held]) -> None:
    if done:
        _owed.setdefault(dsn, deque()).extend(done)
