"""Task messages that never travel: built in the worker and handed to its own consumer."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from celery import Celery
from kombu.message import Message
from kombu.serialization import dumps

LOCAL = "tasker.local"
"""Routing key of such messages."""

NO_TIME_LIMIT_SECONDS = 10 * 365 * 86400
"""Instead of the worker's time limits, which mean its ordinary tasks: a message can override them, not lift them."""

WITHOUT_TIME_LIMITS = {"time_limit": NO_TIME_LIMIT_SECONDS, "soft_time_limit": NO_TIME_LIMIT_SECONDS}
"""Celery's options of such a message."""


def local_message(app: Celery, task_name: str, args: tuple[Any, ...]) -> Message:
    """A message for ``task_name`` as a broker would deliver it, in the worker's own process.

    Its result is not stored: the state of executors is in their table.
    """
    task_id = str(uuid4())
    headers, properties, body, _ = app.amqp.as_task_v2(
        task_id,
        task_name,
        args,
        ignore_result=True,
        **WITHOUT_TIME_LIMITS,
    )
    content_type, content_encoding, encoded = dumps(body, "json")
    return Message(
        body=encoded,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties=properties,
        delivery_info={"exchange": "", "routing_key": LOCAL, "redelivered": False},
        accept={"application/json"},
    )
