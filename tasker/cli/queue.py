"""``tasker queue``: how full the queues are, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output

if TYPE_CHECKING:
    from tasker.messaging.client import PgmqClient


@group()
def queue() -> None:
    """Queues: how full they are, what is in them."""


@queue.command("list")
@click.option("--celery", is_flag=True, help="Also the queues of the Celery transport.")
def list_queues(celery: bool) -> None:
    """All queues with their messages: how many, how many can be read now, how old the oldest is."""
    from tasker.messaging.queues import CELERY_PREFIX

    with _queues() as client:
        names = [name for name in client.list_queues() if celery or not name.startswith(CELERY_PREFIX)]
        rows = [_as_row(client.metrics(name)) for name in names]
    Output().table(
        rows,
        {
            "queue": "queue",
            "length": "messages",
            "visible": "readable",
            "oldest_age_seconds": "oldest (s)",
            "newest_age_seconds": "newest (s)",
        },
        title="Queues",
    )


@queue.command("peek")
@click.argument("name")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many messages.")
def peek(name: str, limit: int) -> None:
    """The oldest messages of queue NAME, without touching them."""
    with _queues() as client:
        rows = [_as_row(message) for message in client.peek(name, limit)]
    Output().table(
        rows,
        {
            "msg_id": "id",
            "read_count": "reads",
            "enqueued_at": "sent",
            "visible_at": "readable from",
            "message": "message",
        },
        title=name,
        empty=f"{name} is empty.",
    )


@contextmanager
def _queues() -> Iterator[PgmqClient]:
    from tasker.client.tasker import Tasker
    from tasker.config.manager import ConfigManager
    from tasker.messaging.client import PgmqClient

    settings = ConfigManager.load()
    with Tasker(settings=settings) as client:
        yield PgmqClient(client.database, settings.pgmq)


def _as_row(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
