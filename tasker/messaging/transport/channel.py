# mypy: allow-untyped-calls
"""kombu's channel over the ``tasker.celery_*`` functions: declaring, routing, sending, acknowledging.

Task queues are PGMQ queues and outlive everybody; their messages are held while worked on and deleted when
acknowledged. Queues that live as long as their reader (remote control, replies, events, broadcasts) are mailboxes:
their messages are gone once delivered, which is all that anybody asks of them.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.uuid import uuid

from tasker.messaging.queues import celery_queue_name
from tasker.messaging.transport.payload import encode_message
from tasker.messaging.transport.qos import QoS, held_by, mailbox_of

if TYPE_CHECKING:
    from tasker.messaging.transport.session import Session
    from tasker.messaging.transport.transport import Transport

PRIORITY_STEPS = (0, 3, 6, 9)
"""Priorities in between count as the step below, as on Redis; 0 is served first."""

DEFAULT_EXPIRES_SECONDS = 60.0
"""How long a mailbox without a living reader is kept, unless its declaration says otherwise."""

DEFAULT_MESSAGE_TTL_SECONDS = 3600.0
"""How long mail is kept, unless its mailbox or itself says otherwise."""

_TRANSIENT = 1


class Channel(virtual.Channel):
    """One channel of a broker connection. Bodies of text stay text in the database, so that people can read them."""

    QoS = QoS
    supports_fanout = True
    do_restore = True

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        # kombu forgets the connection when the channel is closed; late acknowledgements still need it.
        self._transport = connection

    @property
    def _session(self) -> Session:
        return self._transport.session

    # -- declaring ------------------------------------------------------------------------------------------------

    def prepare_queue_arguments(self, arguments: Mapping[str, Any] | None, **kwargs: Any) -> Mapping[str, Any]:
        """Queue options under RabbitMQ's names, of which ``x-expires`` and ``x-message-ttl`` count for mailboxes."""
        prepared: Mapping[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **kwargs)
        return prepared

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Make sure that a queue exists; ``passive`` only asks, and counts its ready messages.

        Raises:
            ChannelError: ``passive``, and there is no such queue.
        """
        queue = queue or f"amq.gen-{uuid()}"
        if passive:
            size = self._session.size(queue)
            if size is None:
                raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", "404")
            return queue_declare_ok_t(queue, size, 0)
        if not is_mailbox(queue, **kwargs):
            self._session.declare_queue(queue, celery_queue_name(queue))
            return queue_declare_ok_t(queue, 0, 0)
        arguments = kwargs.get("arguments") or {}
        messages, readers = self._session.declare_mailbox(
            queue,
            _seconds(arguments.get("x-expires")) or DEFAULT_EXPIRES_SECONDS,
            _seconds(arguments.get("x-message-ttl")) or DEFAULT_MESSAGE_TTL_SECONDS,
        )
        self._transport.mailboxes[queue] = bool(kwargs.get("auto_delete") or kwargs.get("exclusive"))
        return queue_declare_ok_t(queue, messages, readers)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        self._session.bind(exchange, self.typeof(exchange).type, routing_key or "", pattern or None, queue)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        """Take a binding back, for all processes."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        self._session.unbind(exchange or "", routing_key, queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """Delete a queue with its messages and bindings."""
        if if_empty and self._session.size(queue):
            return
        self._session.delete(queue)
        self._transport.mailboxes.pop(queue, None)
        self.state.queue_bindings_delete(queue)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a reply queue, unless cancelling its consumer did so."""
        if queue in self._transport.mailboxes:
            self.queue_delete(queue)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Forget an exchange and its bindings; queues stay."""
        for routing_key, _, queue in self.get_table(exchange):
            self._session.unbind(exchange, routing_key, queue)
        self.state.exchanges.pop(exchange, None)

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        """The bindings of ``exchange``, whoever made them."""
        return self._session.bindings(exchange)

    def _size(self, queue: str) -> int:
        return self._session.size(queue) or 0

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._session.size(queue) is not None

    def _purge(self, queue: str) -> int:
        return self._session.purge(queue)

    # -- sending --------------------------------------------------------------------------------------------------

    def encode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Text stays as it is; anything else travels in base64."""
        if isinstance(body, str):
            return body, "utf-8"
        return super().encode_body(body, encoding)

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> int:
        """Route, store and announce ``message`` in one round trip; how many queues it reached."""
        self._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        # What is sent straight to an unknown queue makes that queue, if it is meant to last.
        durable = properties.get("delivery_mode") != _TRANSIENT
        return self._session.publish(
            exchange or "",
            routing_key or "",
            encode_message(message),
            priority=self._priority_step(message),
            ttl_seconds=_seconds(properties.get("expiration")),
            pgmq_queue=celery_queue_name(routing_key) if durable and not exchange else None,
            durable=durable,
        )

    # -- receiving ------------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:
        """Deliver messages of ``queue`` to ``callback``."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self._transport.consume(self, queue, bool(no_ack))

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; a mailbox made for its reader alone goes with it."""
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None and queue not in self._active_queues:
            self._transport.cancel(self, queue)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message, or ``None``."""
        raw = self._transport.take_one(queue, no_ack=no_ack)
        if raw is None:
            return None
        message = self.Message(raw, channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge one message; it is deleted with the next round trip."""
        super().basic_ack(delivery_tag, multiple)
        self.settle(delivery_tag)

    def settle(self, delivery_tag: str) -> None:
        """Have the message deleted."""
        held = held_by(delivery_tag)
        if held is not None:
            self._transport.acknowledge(held)

    def give_back(self, messages: Sequence[Any]) -> None:
        """Return delivered messages to the queues they came from."""
        held = [found for message in messages if (found := held_by(message.delivery_tag)) is not None]
        if held:
            self._transport.release(held)
        for message in messages:
            mailbox = mailbox_of(message.delivery_tag)
            if mailbox is not None and self._transport.usable:
                content = message.serializable()
                self._session.publish(
                    "",
                    mailbox,
                    encode_message(content),
                    priority=self._priority_step(content),
                    ttl_seconds=None,
                    pgmq_queue=None,
                    durable=False,
                )

    def _priority_step(self, message: dict[str, Any]) -> int:
        return PRIORITY_STEPS[bisect.bisect(PRIORITY_STEPS, self._get_message_priority(message)) - 1]


def is_mailbox(
    queue: str,
    *,
    exclusive: bool = False,
    auto_delete: bool = False,
    arguments: Mapping[str, Any] | None = None,
    **_: Any,
) -> bool:
    """Whether a queue declared so lives as long as its reader.

    Celery can be told to make its control and event queues durable; they expire then, and are mailboxes still. Other
    queues that expire are task queues and stay: losing tasks is worse than keeping a queue.
    """
    if auto_delete or exclusive:
        return True
    return "x-expires" in (arguments or {}) and (queue.endswith(".pidbox") or queue.startswith("celeryev."))


def _seconds(milliseconds: Any) -> float | None:
    """AMQP counts expiry in milliseconds, and kombu sends some of it as text; what is no number counts as unset."""
    try:
        return float(milliseconds) / 1000
    except (TypeError, ValueError):
        return None
