"""What the sync and the async face of a client share: what it was made of, and its operations."""

from __future__ import annotations

import datetime as dt
import getpass
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast
from uuid import UUID

import orjson
from sqlalchemy.engine import URL, Engine

from tasker.client import dead_letters, operations, schedules
from tasker.client.connections import Connections
from tasker.client.dead_letters import Batches, DeadLetterFilters
from tasker.client.finish_signal import FinishSignal
from tasker.client.handle import TaskHandle
from tasker.client.operations import Created, Operation, TaskChange
from tasker.client.requests import TaskRequest, as_uuid, check_text
from tasker.client.schedules import ScheduleChange
from tasker.client.template_cache import TemplateCache
from tasker.config.settings import Settings
from tasker.database import functions, reads
from tasker.database.connection import Database
from tasker.database.records import TASK_STATES, DeadLetterPage, DeadLetterRecord, TaskPage
from tasker.encoding import encode
from tasker.errors import InvalidRequest
from tasker.workflows.slots import Timing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tasker.client.tasker import Tasker
    from tasker.database.records import TaskRecord

    Task = TaskHandle | TaskRecord | UUID | str
    """A task: its handle, its record, its uuid, also as text."""
    Step = str | int | UUID
    """A step of a task: its name, position or uuid."""


class TaskOptions(TypedDict, total=False):
    """What ``create`` may be told about a task, beside workflow and context; see ``TaskRequest``."""

    version: str | None
    identity_key: str | None
    identity_strategy: str | None
    priority: int
    run_at: dt.datetime | None
    tags: Sequence[str]
    correlation_id: str | None
    requested_by: str | None
    source_system: str | None
    reason: str | None
    parent_task_uuid: UUID | str | None


class ScheduledTaskOptions(TypedDict, total=False):
    """What ``add_schedule`` may be told about each slot's task; see ``TaskRequest``."""

    version: str | None
    priority: int
    tags: Sequence[str]
    correlation_id: str | None
    reason: str | None


class TaskFilters(TypedDict, total=False):
    """Which tasks ``list`` shows: those to which all that is given applies.

    ``states`` are alternatives. ``created_after`` is inclusive, ``created_before`` is not. ``after`` is the
    ``next_after`` of the page before; ``limit`` is at most 1000.
    """

    namespace: str | None
    name: str | None
    version: str | None
    states: Sequence[str]
    tag: str | None
    correlation_id: str | None
    parent_task_uuid: UUID | None
    created_after: dt.datetime | None
    created_before: dt.datetime | None
    after: UUID | None
    limit: int


def checked_filters(filters: TaskFilters) -> TaskFilters:
    """``filters`` as the tables can be asked.

    Raises:
        InvalidRequest: one of them has a wrong form; ``field`` names it.
        ValueNotStorable: one of them holds a character that PostgreSQL cannot.
    """
    checked = filters.copy()
    for field in ("namespace", "name", "version", "tag", "correlation_id"):
        if (text := filters.get(field)) is not None:
            check_text(text, field, "list")
    if filters.get("after") is not None:
        checked["after"] = as_uuid(filters["after"], field="after")
    if filters.get("parent_task_uuid") is not None:
        checked["parent_task_uuid"] = as_uuid(filters["parent_task_uuid"], field="parent_task_uuid")
    for state in filters.get("states", ()):
        if state not in TASK_STATES:
            raise InvalidRequest(
                f"{state!r} is not a state of tasks", hint=f"they are {', '.join(TASK_STATES)}", field="states"
            )
    return checked


class ClientCore:
    """What a client consists of; the operations of both faces.

    Args:
        source: an address, a SQLAlchemy engine (sync or async) or a ``Database``; ``None``: what the settings say.
        settings: the settings; ``None``: those of the environment, or the defaults where ``source`` is given.
        requested_by: put down as the initiator of tasks that name none, and of operators' actions; actions are put down
            to the user and host of this process otherwise.
        source_system: put down as the origin of tasks that name none.
    """

    def __init__(
        self,
        source: str | URL | Engine | AsyncEngine | Database | None = None,
        *,
        settings: Settings | None = None,
        requested_by: str | None = None,
        source_system: str | None = None,
    ) -> None:
        self._connections = Connections(source, settings)
        self._signal = FinishSignal(self._connections)
        self._requested_by = requested_by
        self._source_system = source_system
        self._template_cache: TemplateCache | None = None

    @property
    def database(self) -> Database:
        """The database that the client works on."""
        return self._connections.database

    def close(self) -> None:
        """Stop listening and close what the client opened. It may be used again."""
        self._signal.close()
        self._connections.close()

    async def aclose(self) -> None:
        """As ``close``, with the connections that belong to the running event loop."""
        self._signal.close()
        await self._connections.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _handle(self, task: UUID | Created) -> TaskHandle:
        client = cast("Tasker", self)  # the one class that has both faces
        if isinstance(task, UUID):
            return TaskHandle(client, task)
        return TaskHandle(client, task.task_uuid, is_new=task.is_new, same_context=task.same_context)

    # -- operations -------------------------------------------------------------------------------------------

    def _creating(self, requests: Iterable[TaskRequest | Mapping[str, Any]]) -> Operation[tuple[Created, ...]]:
        if self._template_cache is None:
            cache = self._connections.settings.query_cache
            self._template_cache = TemplateCache(cache.task_metadata if cache.enabled else None)
        return operations.create_tasks(
            requests, self._template_cache, requested_by=self._requested_by, source_system=self._source_system
        )

    def _listing(self, filters: TaskFilters) -> Operation[TaskPage]:
        return operations.ask(reads.tasks(**checked_filters(filters)))

    def _changing(self, action: str, task: Task, reason: str | None, by: str | None) -> Operation[TaskChange]:
        task_uuid = as_uuid(task)
        builder = {
            "pause": functions.pause_tasks,
            "resume": functions.resume_tasks,
            "cancel": functions.cancel_tasks,
        }[action]
        return operations.change_tasks(
            builder({"task_uuids": [str(task_uuid)], "by": self._by(by), "reason": reason}), task_uuid
        )

    def _retrying(self, task: Task, reason: str | None, by: str | None) -> Operation[TaskChange]:
        task_uuid = as_uuid(task)
        request = {"task_uuid": str(task_uuid), "by": self._by(by), "reason": reason}
        return operations.act_on_task(functions.retry_task(request), task_uuid)

    def _resolving_task(self, task: Task, reason: str | None, by: str | None) -> Operation[TaskChange]:
        task_uuid = as_uuid(task)
        request = {"task_uuid": str(task_uuid), "by": self._by(by), "reason": reason}
        return operations.act_on_task(functions.resolve_task(request), task_uuid)

    def _resolving_step(
        self, task: Task, step: Step, results: Any, reason: str | None, by: str | None
    ) -> Operation[TaskChange]:
        # As if the step had returned them: they have the same limit.
        limit = self._connections.settings.system.max_result_bytes
        encoded = encode(results, what=f"the results for step {step}", max_bytes=limit)
        request = {**self._step_request(task, step, reason, by), "results": orjson.Fragment(encoded)}
        return operations.act_on_task(functions.resolve_step(request), as_uuid(task))

    def _resetting_step(self, task: Task, step: Step, reason: str | None, by: str | None) -> Operation[TaskChange]:
        return operations.act_on_task(functions.reset_step(self._step_request(task, step, reason, by)), as_uuid(task))

    def _adding_schedule(
        self,
        name: str,
        request: TaskRequest,
        *,
        cron: str | None,
        every: dt.timedelta | float | None,
        starts_at: dt.datetime | None,
        time_zone: str,
        catch_up: str,
        replace: bool,
        by: str | None,
    ) -> Operation[ScheduleChange]:
        timing = Timing.checked(cron=cron, every=every, starts_at=starts_at, time_zone=time_zone)
        return schedules.add(name, request, timing, catch_up=catch_up, replace=replace, by=self._by(by))

    def _changing_schedule(self, name: str, action: str, by: str | None) -> Operation[ScheduleChange]:
        return schedules.change(name, action, by=self._by(by))

    def _listing_letters(
        self, filters: DeadLetterFilters, *, include_closed: bool, after: int | None, limit: int
    ) -> Operation[DeadLetterPage]:
        last = None if after is None else dead_letters.as_id(after, field="after")
        asked = dead_letters.checked(filters)
        return operations.ask(reads.dead_letters(**asked, include_closed=include_closed, after=last, limit=limit))

    def _retrying_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None,
        filters: DeadLetterFilters,
        *,
        everything: bool,
        message: Any,
        reason: str | None,
        by: str | None,
        batch_size: int,
    ) -> Batches:
        request: dict[str, Any] = {"by": self._by(by), "reason": reason}
        if message is not None:
            request["message"] = message
        return Batches(functions.retry_dead_letters, request, ids, filters, everything=everything, size=batch_size)

    def _dismissing_letters(
        self,
        ids: Iterable[int | DeadLetterRecord] | None,
        filters: DeadLetterFilters,
        *,
        everything: bool,
        reason: str | None,
        by: str | None,
        batch_size: int,
    ) -> Batches:
        request = {"by": self._by(by), "reason": reason}
        return Batches(functions.dismiss_dead_letters, request, ids, filters, everything=everything, size=batch_size)

    def _resolving_letter(
        self, letter: int | DeadLetterRecord, results: Any, reason: str | None, by: str | None
    ) -> Operation[TaskChange]:
        number = dead_letters.as_id(letter, field="letter")
        # As if the step had returned them: they have the same limit.
        limit = self._connections.settings.system.max_result_bytes
        encoded = encode(results, what=f"the results for dead letter {number}", max_bytes=limit)
        request = {"id": number, "results": orjson.Fragment(encoded), "by": self._by(by), "reason": reason}
        return dead_letters.resolve(request)

    def _step_request(self, task: Task, step: Step, reason: str | None, by: str | None) -> dict[str, Any]:
        return {
            "task_uuid": str(as_uuid(task)),
            **operations.step_reference(step),
            "by": self._by(by),
            "reason": reason,
        }

    def _by(self, given: str | None) -> str:
        return given or self._requested_by or user_at_host()


@lru_cache(maxsize=1)
def user_at_host() -> str:
    """Who acts, where nobody says so: the login and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
