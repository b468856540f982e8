"""Which queues a broker connection reads, which of them have news, and how many messages may come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tasker.messaging.queues import celery_queue_name, channel_name, mail_channel_name

if TYPE_CHECKING:
    from tasker.messaging.transport.channel import Channel


class Reading(NamedTuple):
    """A queue or mailbox that a channel of the connection consumes."""

    channel: Channel
    no_ack: bool
    is_mailbox: bool
    news: str


class ReadingList:
    """What one broker connection reads. Due are the queues that may have messages: new ones, and those with news."""

    def __init__(self) -> None:
        self._readings: dict[str, Reading] = {}
        self._queue_of: dict[str, str] = {}
        self._due: set[str] = set()
        self._turn = 0

    def __bool__(self) -> bool:
        return bool(self._readings)

    def add(self, channel: Channel, queue: str, *, no_ack: bool, is_mailbox: bool) -> str:
        """Read ``queue`` from now on; the channel on which its news come."""
        news = mail_channel_name(queue) if is_mailbox else channel_name(celery_queue_name(queue))
        self._readings[queue] = Reading(channel, no_ack, is_mailbox, news)
        self._queue_of[news] = queue
        self._due.add(queue)
        return news

    def remove(self, queue: str) -> str | None:
        """Read ``queue`` no longer; the channel on which its news came, or ``None`` if it was not read."""
        self._due.discard(queue)
        reading = self._readings.pop(queue, None)
        if reading is None:
            return None
        del self._queue_of[reading.news]
        return reading.news

    def no_ack(self, queue: str) -> bool:
        """Whether messages of ``queue`` count as acknowledged once they are handed out."""
        reading = self._readings.get(queue)
        return reading is not None and reading.no_ack

    def heard(self, news: Iterable[str]) -> None:
        """Note the notifications that came."""
        self._due.update(self._queue_of[channel] for channel in news if channel in self._queue_of)

    def look_at(self, queues: Iterable[str]) -> None:
        """Note that ``queues`` may have more."""
        self._due.update(queue for queue in queues if queue in self._readings)

    def look_everywhere(self) -> None:
        """Note that any queue may have messages."""
        self._due.update(self._readings)

    def take_due(self, *, undelivered: Sequence[str], unlimited: int) -> tuple[list[str], list[str], int]:
        """Mailboxes to read, task queues to read, and how many messages may come from the latter.

        They no longer count as due: news that come from now on are for the next time. Task queues are those of one
        channel, as the limit is one channel's. Each comes first in its turn: a busy one does not starve the others.

        Args:
            undelivered: the queues of messages that were fetched and not delivered yet.
            unlimited: the limit for channels that have none.
        """
        if not self._due:
            return [], [], 0
        waiting = Counter(id(self._readings[queue].channel) for queue in undelivered if queue in self._readings)

        def room(queue: str) -> int:
            channel = self._readings[queue].channel
            if not channel.qos.prefetch_count:
                return unlimited
            return max(0, int(channel.qos.can_consume_max_estimate() or 0) - waiting[id(channel)])

        mailboxes = [queue for queue in self._due if self._readings[queue].is_mailbox and room(queue)]
        queues = sorted(queue for queue in self._due if not self._readings[queue].is_mailbox and room(queue))
        limit = 0
        if queues:
            self._turn += 1
            start = self._turn % len(queues)
            queues = queues[start:] + queues[:start]
            channel, limit = self._readings[queues[0]].channel, room(queues[0])
            queues = [queue for queue in queues if self._readings[queue].channel is channel]
        self._due.difference_update(mailboxes, queues)
        return mailboxes, queues, limit
