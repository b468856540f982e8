"""Completion hooks: what a workflow wants done once a task of it has finished, under a finalization claim."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from tasker.database import reads
from tasker.database.calls import Call
from tasker.handlers.hooks import TaskOutcome, hooks_for
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.registry import TemplateRegistry

T = TypeVar("T")

logger = logging.getLogger(__name__)


class CompletionHooks:
    """Runs the hooks of finished tasks. Each runs at least once per finish: (task, hook, ``finish_no``) is its key.

    Args:
        templates: know which hooks a version has.
        handlers: find their code.
    """

    def __init__(self, templates: TemplateRegistry, handlers: HandlerRegistry) -> None:
        self._templates = templates
        self._handlers = handlers

    def run(self, claim: Mapping[str, Any], ask: Callable[[Call[Any]], Any]) -> int:
        """Call the hooks of one claimed task, in the order of their declaration; how many there were.

        Args:
            claim: one of the ``claims`` of ``claim_tasks_for_finalization``.
            ask: makes a call to the database.

        Raises:
            HandlerNotFound: a hook is not to be found in this process.
            Exception: whatever a hook raises; those after it have not run.
        """
        template = self._templates.get_by_id(claim["named_task_id"])
        hooks = hooks_for(template, self._handlers, claim["state"])
        if not hooks:
            return 0
        outcome = _outcome(claim, ask)
        for hook in hooks:
            logger.debug("task %s: hook %s", outcome.task_uuid, hook.name)
            awaitable = hook.invoke(outcome)
            if awaitable is not None:
                asyncio.run(_wait_for(awaitable))
        return len(hooks)


async def _wait_for(awaitable: Any) -> None:
    await awaitable


def _outcome(claim: Mapping[str, Any], ask: Callable[[Call[Any]], Any]) -> TaskOutcome:
    task_uuid = UUID(claim["task_uuid"])
    task = ask(reads.task(task_uuid))
    steps = ask(reads.steps(task_uuid))
    return TaskOutcome(
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
