"""Names of queues, and of the channels on which their consumers listen.

PGMQ allows 47 characters for a queue and folds case; a channel of PostgreSQL may have 63 bytes.
"""

from __future__ import annotations

import hashlib
import re

TASK_REQUESTS = "task_requests_queue"
"""Tasks to create, from any language; read by TaskRequestProcessor."""

STEP_RESULTS = "orchestration_step_results"
"""Outcomes of steps that ran elsewhere; read by StepResultProcessor."""

STEP_ENQUEUE = "step_enqueue"
"""Wide fan-outs whose step messages are still to be sent; read by StepEnqueuer."""

TASK_FINALIZATION = "task_finalization"
"""Finished tasks with after-work; read by TaskFinalizer."""

FIXED_QUEUES = (TASK_REQUESTS, STEP_RESULTS, STEP_ENQUEUE, TASK_FINALIZATION)

CIRCUITS_CHANNEL = "tasker_circuits"
"""Channel on which processes hear that the circuit of an external system has changed."""

MAX_NAMESPACE_LENGTH = 33
CELERY_PREFIX = "celery_"

_BANDS = ("", "_high", "_low")
_STEP_QUEUE = re.compile(rf"([a-z][a-z0-9_]{{0,{MAX_NAMESPACE_LENGTH - 1}}})_queue(?:_high|_low)?")
# Celery's queues of lower priorities append three characters (_p3, _p6, _p9) to PGMQ's 47.
_CELERY_LENGTH = 44
_PLAIN_CELERY_NAME = re.compile(r"[a-z0-9_]+(?<!_p[369])")


def queue_name(namespace: str) -> str:
    """The step queue of ``namespace``, for steps of normal priority."""
    return f"{namespace}_queue"


def step_queue_names(namespace: str) -> tuple[str, ...]:
    """All step queues of ``namespace``: normal, high and low priority. The latter two exist from their first use."""
    return tuple(queue_name(namespace) + band for band in _BANDS)


def namespace_of(queue: str) -> str | None:
    """The namespace whose steps ``queue`` carries, or ``None`` if it is no step queue."""
    match = _STEP_QUEUE.fullmatch(queue)
    return None if match is None or queue in FIXED_QUEUES else match[1]


def is_step_queue(queue: str) -> bool:
    """Whether ``queue`` holds what starts steps: without its messages, steps that are ``enqueued`` stay so for ever."""
    return queue == STEP_ENQUEUE or namespace_of(queue) is not None


def channel_name(queue: str) -> str:
    """The channel on which consumers of ``queue`` listen."""
    return f"tasker_{queue}"


def celery_queue_name(name: str) -> str:
    """The PGMQ queue that holds the messages of Celery's queue ``name``.

    ``celery_<name>`` where that is a name PGMQ can take; otherwise a readable part of it and a hash of all of it.
    """
    plain = CELERY_PREFIX + name
    if _PLAIN_CELERY_NAME.fullmatch(name) and len(plain) <= _CELERY_LENGTH:
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9_]", "_", plain.lower())[: _CELERY_LENGTH - len(digest) - 1]
    return f"{readable}_{digest}"


def mail_channel_name(mailbox: str) -> str:
    """The channel on which the reader of a mailbox (remote control, replies, events) listens."""
    return "tasker_mail_" + hashlib.md5(mailbox.encode(), usedforsecurity=False).hexdigest()
