"""From a held step to the call of its handler, and from what that returned to an outcome."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

from tasker.encoding import encode
from tasker.executors import outcomes
from tasker.executors.held import HeldStep
from tasker.executors.outcomes import Outcome
from tasker.executors.step_circuits import StepCircuits
from tasker.handlers.context import StepContext
from tasker.handlers.registry import HandlerRegistry
from tasker.handlers.resolved import ResolvedHandler


class Preparer:
    """Makes calls of handlers and outcomes of their results. Has no state of its own but what templates keep.

    Args:
        handlers: finds the code.
        circuits: guard the systems that steps need.
        max_result_bytes: the largest result allowed, as JSON.
    """

    def __init__(self, handlers: HandlerRegistry, circuits: StepCircuits, max_result_bytes: int) -> None:
        self._handlers = handlers
        self._circuits = circuits
        self._max_result_bytes = max_result_bytes

    def handler(self, step: HeldStep) -> ResolvedHandler:
        """The step's handler, found at its first use in this process.

        Raises:
            HandlerNotFound: it is not to be found; the next attempt, perhaps in another process, looks again.
        """
        template = step.template
        if template.resolved is None:
            template.resolved = self._handlers.for_step(
                template.handler,
                step_name=template.name,
                depends_on=[name for _position, name in template.parents],
                result_schema=template.result_schema,
                workflow=(template.namespace, template.task_name, template.version),
            )
        return template.resolved

    def context(self, step: HeldStep) -> StepContext[Any]:
        """What the handler is given."""
        template, task, results = step.template, step.task, step.results
        seconds = template.timeout_seconds
        return StepContext(
            context=task["context"],
            # One resolved by hand without a result has none here, either.
            results={name: results.get(position) for position, name in template.parents},
            settings=template.settings,
            task_uuid=step.task_uuid,
            step_uuid=step.step_uuid,
            namespace=template.namespace,
            task_name=template.task_name,
            task_version=template.version,
            step_name=template.name,
            attempt=step.attempt,
            max_attempts=template.max_attempts,
            deadline=None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds),
            correlation_id=task["correlation_id"],
            system_dependency=template.system_dependency,
            circuits=self._circuits.attempt(step),
            cancellation=functools.partial(_reason_to_stop, step),
        )

    def outcome(self, step: HeldStep, result: Any) -> Outcome:
        """The outcome of a handler that returned ``result``, which is encoded here, once and strictly.

        What cannot be stored or is too large is the step's permanent error, before it travels.
        """
        try:
            encoded = encode(result, what=f"the result of step {step.template.name}", max_bytes=self._max_result_bytes)
        except Exception as error:
            return outcomes.raised(step, error)
        return outcomes.completed(step, encoded)


def _reason_to_stop(step: HeldStep) -> str | None:
    return step.cancelled
