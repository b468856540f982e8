# mypy: allow-untyped-calls
"""What a channel has delivered and not yet seen acknowledged."""

from __future__ import annotations

from typing import Any

from kombu.transport import virtual

from tasker.messaging.transport.poll import Held


def tag_of(held: Held) -> str:
    """The delivery tag of a message of a task queue: it says where the message is, also when its channel is gone."""
    return f"queue:{held.pgmq_queue}:{held.msg_id}"


def mail_tag_of(mailbox: str, unique: str) -> str:
    """The delivery tag of a piece of mail."""
    return f"mail:{unique}:{mailbox}"


def held_by(tag: str) -> Held | None:
    """The message of a task queue that ``tag`` stands for; ``None`` for mail."""
    kind, _, rest = tag.partition(":")
    if kind != "queue":
        return None
    queue, _, msg_id = rest.rpartition(":")
    return Held(queue, int(msg_id))


def mailbox_of(tag: str) -> str | None:
    """The mailbox that a piece of mail came from; ``None`` for all else."""
    kind, _, rest = tag.partition(":")
    return rest.partition(":")[2] if kind == "mail" else None


class QoS(virtual.QoS):
    """kombu's bookkeeping of the prefetch window; giving back goes through the database, many at once."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a delivered message, or return it to the front of its queue."""
        if requeue:
            self.channel.give_back([self._delivered[delivery_tag]])
        else:
            self.channel.settle(delivery_tag)
        self._quick_ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Return all that is delivered and unacknowledged; the list of failures that kombu expects, empty."""
        self._flush()
        messages = list(self._delivered.values())
        self._delivered.clear()
        if messages:
            self.channel.give_back(messages)
        return []
