"""Completion hooks: what a workflow wants done once a task of it has finished, under a finalization claim."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from tasker.database import reads
from tasker.database.calls import Call
from tasker.database.records import TaskRecord
from tasker.handlers.hooks import TaskOutcome, hooks_for
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.registry import TemplateRegistry

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AfterWork:
    """What was done for a finished task, and what is to be told of it.

    Attributes:
        hooks: how many hooks ran.
        events: the domain events that its workflow declares.
        outcome: the task, where anything of this needs it.
        payload: what its events carry, unless a publisher makes something else of it.
    """

    hooks: int
    events: Sequence[Mapping[str, Any]] = ()
    outcome: TaskOutcome | None = None
    payload: Any = None


class CompletionHooks:
    """Runs the hooks of finished tasks. Each runs at least once per finish: (task, hook, ``finish_no``) is its key.

    Args:
        templates: know which hooks a version has.
        handlers: find their code.
    """

    def __init__(self, templates: TemplateRegistry, handlers: HandlerRegistry) -> None:
        self._templates = templates
        self._handlers = handlers

    def run(self, claim: Mapping[str, Any], ask: Callable[[Call[Any]], Any]) -> AfterWork:
        """Call the hooks of one claimed task, in the order of their declaration.

        Args:
            claim: one of the ``claims`` of ``claim_tasks_for_finalization``.
            ask: makes a call to the database.

        Raises:
            HandlerNotFound: a hook is not to be found in this process.
            Exception: whatever a hook raises; those after it have not run.
        """
        template = self._templates.get_by_id(claim["named_task_id"])
        hooks = hooks_for(template, self._handlers, claim["state"])
        events = events_of(template.definition.get("domain_events"))
        if not hooks and not any(
            event.get("publisher") or event.get("schema") or event["delivery"] != "durable" for event in events
        ):
            return AfterWork(0, events)
        task, outcome = _outcome(claim, ask)
        for hook in hooks:
            logger.debug("task %s: hook %s", outcome.task_uuid, hook.name)
            awaitable = hook.invoke(outcome)
            if awaitable is not None:
                asyncio.run(_wait_for(awaitable))
        return AfterWork(len(hooks), events, outcome, counts_of(task))


async def _wait_for(awaitable: Any) -> None:
    await awaitable


def events_of(declared: Sequence[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """Events as they are registered, with the defaults that other languages may have left out."""
    return tuple(
        {**event, "condition": event.get("condition") or "success", "delivery": event.get("delivery") or "durable"}
        for event in declared or ()
    )


def counts_of(task: TaskRecord) -> dict[str, Any]:
    """What a task's event carries, unless a publisher makes something else of it; as the SQL core says it."""
    return {
        "state": task.state,
        "steps": task.total,
        "open": task.open,
        "failed": task.failed,
        "skipped": task.skipped,
    }


def _outcome(claim: Mapping[str, Any], ask: Callable[[Call[Any]], Any]) -> tuple[TaskRecord, TaskOutcome]:
    task_uuid = UUID(claim["task_uuid"])
    task = ask(reads.task(task_uuid))
    steps = ask(reads.steps(task_uuid))
    return task, TaskOutcome(
        task_uuid=claim["task_uuid"],
        namespace=claim["namespace"],
        name=claim["name"],
        version=claim["version"],
        state=claim["state"],
        finish_no=claim["finish_no"],
        context=task.context,
        results={step.name: step.results for step in steps if step.state in ("complete", "resolved_manually")},
        errors={step.name: step.error for step in steps if step.state == "error"},
        tags=task.tags,
        correlation_id=task.correlation_id,
        finished_at=task.finished_at,
    )
