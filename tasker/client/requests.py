"""What a task is started with, checked at the door: contexts against the template's input schema, sizes, times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import UUID

import orjson

from tasker.database.records import TemplateRecord
from tasker.encoding import decode, encode
from tasker.errors import ContextInvalid, InvalidRequest, ValueNotStorable
from tasker.workflows.schemas import compile_schema, pointer


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """One task to create.

    Attributes:
        namespace: the workflow's namespace.
        name: the workflow's name.
        context: what it is started with: a dict of JSON values, a pydantic model or a dataclass; ``None`` is ``{}``.
        version: of the workflow; ``None``: the highest one registered.
        identity_key: a second task of the same workflow with this key is not created: the first is returned.
        identity_strategy: ``strict`` (same workflow, version and context), ``caller_provided`` (same key),
            ``always_unique``; ``None``: the template's.
        priority: above 0 goes before, below 0 after the others.
        run_at: not before this time; with a time zone.
        tags: for finding it again.
        correlation_id: of the caller's own, passed on to handlers and messages.
        requested_by: who asks for it.
        source_system: the program that asks for it.
        reason: why.
        parent_task_uuid: the task that it belongs to.
    """

    namespace: str
    name: str
    context: Any = None
    version: str | None = None
    identity_key: str | None = None
    identity_strategy: str | None = None
    priority: int = 0
    run_at: dt.datetime | None = None
    tags: Sequence[str] = ()
    correlation_id: str | None = None
    requested_by: str | None = None
    source_system: str | None = None
    reason: str | None = None
    parent_task_uuid: UUID | str | None = None

    @property
    def template_key(self) -> TemplateKey:
        """Which template it means."""
        return TemplateKey(self.namespace, self.name, self.version)


@dataclass(frozen=True)
class TemplateKey:
    """A workflow by name; ``version`` ``None`` is the highest one."""

    namespace: str
    name: str
    version: str | None


_KNOWN = tuple(entry.name for entry in fields(TaskRequest))


def as_request(given: TaskRequest | Mapping[str, Any], number: int) -> TaskRequest:
    """A request from what ``create_many`` was given at place ``number``.

    Raises:
        InvalidRequest: it has unknown keys, or lacks namespace or name, or these are no names.
    """
    if isinstance(given, TaskRequest):
        return _named(given, number)
    if not isinstance(given, Mapping):
        raise InvalidRequest(
            f"request {number} is a {type(given).__name__}", hint="give a TaskRequest or a dict of its fields"
        )
    unknown = [str(key) for key in given if key not in _KNOWN]
    if unknown:
        raise InvalidRequest(
            f"request {number} has unknown fields: {', '.join(unknown)}",
            hint=f"known are {', '.join(_KNOWN)}",
            field=unknown[0],
        )
    return _named(TaskRequest(**{"namespace": None, "name": None, **given}), number)


def with_defaults(request: TaskRequest, *, requested_by: str | None, source_system: str | None) -> TaskRequest:
    """The request, with the client's own name where it gives none."""
    return replace(
        request,
        requested_by=requested_by if request.requested_by is None else request.requested_by,
        source_system=source_system if request.source_system is None else request.source_system,
    )


def to_message(request: TaskRequest, template: TemplateRecord | None) -> dict[str, Any]:
    """The request as ``tasker.create_tasks`` takes it, its context checked against ``template``.

    Args:
        request: the request.
        template: the version it will run; ``None`` where none is known: the SQL core says so then.

    Raises:
        ContextInvalid: the context is no object, or does not fit the input schema; ``field`` is the place.
        ValueNotStorable: it holds something that JSON cannot carry.
        PayloadTooLarge: it is larger than the template allows.
        InvalidRequest: another field has a wrong form.
    """
    message: dict[str, Any] = {
        "namespace": request.namespace,
        "name": request.name,
        "version": template.version if template is not None else request.version,
        "context": _context(request, template),
        "context_checked": template is not None,
    }
    optional = {
        "identity_key": request.identity_key,
        "identity_strategy": request.identity_strategy,
        "priority": request.priority or None,
        "run_at": _moment(request.run_at),
        "tags": _tags(request.tags),
        "correlation_id": request.correlation_id,
        "requested_by": request.requested_by,
        "source_system": request.source_system,
        "reason": request.reason,
        "parent_task_uuid": None
        if request.parent_task_uuid is None
        else str(as_uuid(request.parent_task_uuid, field="parent_task_uuid")),
    }
    message.update({key: value for key, value in optional.items() if value is not None})
    return message


def as_uuid(task: object, *, field: str = "task_uuid") -> UUID:
    """The uuid of a task given as uuid, text, handle or record; ``field`` is what errors name.

    Raises:
        InvalidRequest: it is none.
    """
    if isinstance(task, UUID):
        return task
    found = getattr(task, "task_uuid", None)
    if isinstance(found, UUID):
        return found
    if isinstance(task, str):
        try:
            return UUID(task)
        except ValueError:
            pass
    raise InvalidRequest(f"{task!r} is not a task", hint="give its uuid, its handle or its record", field=field)


def check_text(text: object, field: str, where: str) -> None:
    """Make sure that ``text`` can be a parameter of a query; ``field`` and ``where`` are what errors name.

    Raises:
        InvalidRequest: it is no string.
        ValueNotStorable: PostgreSQL cannot hold it.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}: {field} must be a string, not {type(text).__name__}", field=field)
    if "\0" in text or not _is_unicode(text):
        raise ValueNotStorable(
            f"{where}: {field} {text!r} holds a character that PostgreSQL cannot",
            hint="leave out NUL characters and lone surrogates",
            field=field,
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(request: TaskRequest, number: int) -> TaskRequest:
    """``request``, whose names are such as a template can be looked up by."""
    where = f"request {number}"
    for field in ("namespace", "name"):
        value = getattr(request, field)
        if value is None or value == "":
            raise InvalidRequest(f"{where} has no {field}", field=field)
        check_text(value, field, where)
    if request.version is not None:
        check_text(request.version, "version", where)
    return request


def _context(request: TaskRequest, template: TemplateRecord | None) -> orjson.Fragment:
    where = f"the context of {request.namespace}/{request.name}"
    limit = None if template is None else template.max_context_bytes
    encoded = encode({} if request.context is None else request.context, what=where, max_bytes=limit)
    if not encoded.startswith(b"{"):
        raise ContextInvalid(
            f"{where} must be an object, not {type(request.context).__name__}",
            hint="give a dict with string keys, a pydantic model or a dataclass",
            field="context",
        )
    if template is not None and template.input_schema is not None:
        differs = compile_schema(template.input_schema).explain(decode(encoded))
        if differs is not None:
            text, path = differs
            raise ContextInvalid(
                f"{where} {template.version} does not fit its input_schema: {text}",
                hint="nothing was created; `tasker template show` prints the schema",
                field=pointer(("context", *path)),
            )
    return orjson.Fragment(encoded)


def _moment(moment: object) -> str | None:
    if moment is None:
        return None
    if not isinstance(moment, dt.datetime):
        raise InvalidRequest(f"run_at must be a datetime, not {type(moment).__name__}", field="run_at")
    if moment.tzinfo is None:
        raise InvalidRequest(
            f"run_at {moment.isoformat()} has no time zone", hint="say datetime(..., tzinfo=UTC)", field="run_at"
        )
    return moment.isoformat()


def _tags(tags: object) -> list[str] | None:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidRequest(f"tags must be a list of strings, not {tags!r}", field="tags")
    return list(tags) or None
