"""Namespaces as the client pauses and limits them; operations, as in ``operations``."""

from __future__ import annotations

from typing import Any

from tasker.client.operations import Operation
from tasker.client.requests import check_text
from tasker.database import functions, reads
from tasker.database.records import NamespaceRecord
from tasker.errors import InvalidRequest, NotFound


class Unchanged:
    """The limit stays as it is."""

    def __repr__(self) -> str:
        return "unchanged"


UNCHANGED = Unchanged()


def get(name: str) -> Operation[NamespaceRecord]:
    """One namespace."""
    found: tuple[NamespaceRecord, ...] = yield reads.namespaces()
    for record in found:
        if record.name == name:
            return record
    raise NotFound(
        f"there is no namespace {name!r}", hint="registering a workflow makes its namespace", field="namespace"
    )


def pause(name: str, *, paused: bool, by: str, reason: str | None) -> Operation[NamespaceRecord]:
    """Pause a namespace, or resume it."""
    check_text(name, "namespace", "pause_namespace")
    yield functions.pause_namespaces({"namespaces": [name], "paused": paused, "by": by, "reason": reason})
    return (yield from get(name))


def limit(
    name: str, max_concurrency: int | Unchanged | None, rate: tuple[int, float] | Unchanged | None
) -> Operation[NamespaceRecord]:
    """Change a namespace's limits."""
    check_text(name, "namespace", "limit_namespace")
    request: dict[str, Any] = {"namespace": name}
    if not isinstance(max_concurrency, Unchanged):
        request["max_concurrency"] = max_concurrency
    if rate is None:
        request |= {"rate_count": None, "rate_seconds": None}
    elif not isinstance(rate, Unchanged):
        try:
            count, seconds = rate
        except (TypeError, ValueError):
            raise InvalidRequest(
                f"{rate!r} is no rate", hint="say (count, seconds), such as (100, 60)", field="rate"
            ) from None
        request |= {"rate_count": count, "rate_seconds": seconds}
    yield functions.set_namespace(request)
    return (yield from get(name))
