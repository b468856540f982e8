"""What orchestration executors ask the tables beside the functions of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tasker.database.calls import Call, nothing
from tasker.encoding import decode


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a queue, invisible to others for a while.

    Attributes:
        msg_id: its number in the queue.
        read_ct: how often it has been read, this time included.
        body: the message itself, a JSON value, or why it cannot be read.
        size: its length in bytes, as compact JSON; 0 if it cannot be read.
    """

    msg_id: int
    read_ct: int
    body: Any
    size: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a message that is JSON to PostgreSQL, and more than this process can read or pass on.

    Attributes:
        reason: one word, for dead letters.
        message: what is wrong.
    """

    reason: str
    message: str


_TOO_MUCH = "it is nested deeper than 254 levels, or holds a whole number beyond 64 bits"


def read_messages(queue: str, limit: int, visibility_timeout_seconds: float, *, max_bytes: int) -> Call[list[Message]]:
    """The oldest visible messages of ``queue``; nobody else sees them for so many seconds.

    One message that cannot be read keeps nobody from the others: its body is ``Unreadable``, as is that of one with
    more than ``max_bytes`` of JSON.
    """
    return Call(
        "SELECT r.msg_id, r.read_ct, CAST(r.message AS text) FROM tasker.queue_read(%(queue)s,"
        " CAST(%(seconds)s AS double precision), CAST(%(limit)s AS integer)) AS r ORDER BY r.msg_id",
        {"queue": queue, "seconds": visibility_timeout_seconds, "limit": limit},
        decode=lambda rows: [_message(row, max_bytes) for row in rows],
    )


def template_ids(task_uuids: Sequence[str]) -> Call[dict[str, int]]:
    """The workflow version of each of these tasks, by task uuid; tasks that do not exist are left out."""
    return Call(
        "SELECT CAST(t.task_uuid AS text), t.named_task_id FROM tasker.tasks AS t WHERE t.task_uuid = ANY (ARRAY("
        "SELECT CAST(jsonb_array_elements_text(CAST(%(task_uuids)s AS jsonb)) AS uuid)))",
        {"task_uuids": orjson.dumps(list(task_uuids)).decode()},
        decode=lambda rows: {row[0]: row[1] for row in rows},
    )


def set_statement_timeout(milliseconds: int) -> Call[None]:
    """Let PostgreSQL cancel each further statement of this session after so many milliseconds."""
    return Call(
        "SELECT set_config('statement_timeout', CAST(%(milliseconds)s AS text), false)",
        {"milliseconds": str(milliseconds)},
        decode=nothing,
    )


def _message(row: Sequence[Any], max_bytes: int) -> Message:
    msg_id, read_ct, text = row
    try:
        body = decode(text)
        # What cannot be passed on in turn is of no use: numbers beyond 64 bits, deep nesting.
        size = len(orjson.dumps(body))
    except (ValueError, TypeError):
        return Message(msg_id, read_ct, Unreadable("not_readable", _TOO_MUCH))
    if size > max_bytes:
        too_large = f"it has {size:,} bytes of JSON; pgmq.max_message_bytes allows {max_bytes:,}"
        return Message(msg_id, read_ct, Unreadable("payload_too_large", too_large))
    return Message(msg_id, read_ct, body, size)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections the server has.

    Attributes:
        max_connections: for everybody; less where the role or the database has a limit of its own.
        reserved: of these, what is kept for superusers and the like.
    """

    max_connections: int
    reserved: int


def connection_limits() -> Call[ConnectionLimits]:
    """What the server, the database and the role allow."""
    return Call(
        "SELECT least(CAST(current_setting('max_connections') AS integer),"
        " CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit END,"
        " CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit END),"
        " CAST(current_setting('superuser_reserved_connections') AS integer)"
        " + coalesce(CAST(current_setting('reserved_connections', true) AS integer), 0)"
        " FROM pg_catalog.pg_database AS d CROSS JOIN pg_catalog.pg_roles AS r"
        " WHERE d.datname = current_database() AND r.rolname = current_user",
        decode=lambda rows: ConnectionLimits(rows[0][0], rows[0][1]),
    )


def ensure_namespaces(names: Sequence[str]) -> Call[None]:
    """Create these namespaces and their step queues, where they do not exist."""
    return Call(
        "SELECT tasker.ensure_namespace(n.name) FROM jsonb_array_elements_text(CAST(%(names)s AS jsonb)) AS n(name)",
        # In one order everywhere: two processes that start at once must not wait for each other.
        {"names": orjson.dumps(sorted(set(names))).decode()},
        decode=nothing,
    )


def ping() -> Call[None]:
    """Nothing but a round trip."""
    return Call("SELECT 1", decode=nothing)
