"""The domain events of steps and tasks, from what their executors know of them."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping
from typing import Any

from tasker.encoding import decode
from tasker.executors.outcomes import Outcome
from tasker.handlers.events import EventDraft
from tasker.handlers.hooks import TaskOutcome
from tasker.hooks.completion import AfterWork, events_of
from tasker.hooks.events import Publishing, condition_of, condition_of_task

_LONGEST_MESSAGE, _LONGEST_TYPE = 16_384, 256


class _DomainEvents:
    """What all of them have in common.

    Args:
        publishing: makes payloads, and hands over fast events.
    """

    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing

    def close(self) -> None:
        """End the delivery of fast events."""
        self._publishing.close()


class StepDomainEvents(_DomainEvents):
    """Of one step executor. Steps that publish nothing cost a look at an empty tuple."""

    def prepare(self, outcome: Outcome) -> None:
        """Add the payloads of its events to an outcome that is about to be reported; on the thread of its handler."""
        step = outcome.step
        template = step.template
        if not template.events or outcome.status not in ("complete", "error"):
            return
        if not any(event.get("publisher") or event.get("schema") for event in template.events):
            return
        # As the SQL core will decide; should it decide otherwise, it sends no event of another condition.
        error = outcome.body.get("error") or {}
        retried = template.retryable and step.attempt < template.max_attempts and error.get("retryable") is not False
        draft = EventDraft(
            name="",
            condition="success" if not error else "retryable_failure" if retried else "permanent_failure",
            namespace=template.namespace,
            task=template.task_name,
            task_version=template.version,
            step=template.name,
            task_uuid=step.task_uuid,
            step_uuid=step.step_uuid,
            payload=_payload(outcome),
            context=step.task["context"],
            correlation_id=step.task["correlation_id"],
        )
        outcome.body |= self._publishing.prepare(template.events, draft)

    def ended(self, outcome: Outcome, state: str | None) -> None:
        """An outcome was recorded, and its step came to ``state``."""
        events = outcome.step.template.events
        if events and state is not None and outcome.status in ("complete", "error"):
            condition = condition_of(state)
            common = functools.partial(_common, outcome, state, condition)
            namespace = outcome.step.template.namespace
            self._publishing.ended(events, outcome.body, condition, namespace, common)


class MessageDomainEvents(_DomainEvents):
    """Of outcomes that come by message: what is known of them is the outcome, and what their workflow says."""

    def prepare(self, definition: Mapping[str, Any], step: Mapping[str, Any], outcome: dict[str, Any]) -> None:
        """Add the payloads of its events to an outcome; those that it brings itself are checked.

        Args:
            definition: of the workflow, as registered.
            step: of the step in it.
            outcome: as it came.
        """
        events = events_of(step.get("publishes_events"))
        if not events:
            return
        given = outcome.get("events")
        outcome["events"] = given = given if isinstance(given, dict) else {}
        error = outcome.get("error")
        retried = step["retryable"] and error is not None and error.get("retryable") is not False
        # Which attempt it was is not known here, so what would be told in either case is made.
        conditions = (
            ["success"] if error is None else ["permanent_failure", *(["retryable_failure"] if retried else [])]
        )
        outcome["rejected_events"] = {}
        for condition in conditions:
            draft = EventDraft(
                name="",
                condition=condition,
                namespace=definition["namespace"],
                task=definition["name"],
                task_version=definition["version"],
                step=step["name"],
                task_uuid=outcome["task_uuid"],
                step_uuid=outcome["step_uuid"],
                payload=outcome.get("results") if error is None else _error(error, None),
            )
            made = self._publishing.prepare(events, draft, given)
            outcome["events"] |= made.get("events", {})
            outcome["rejected_events"] |= made.get("rejected_events", {})

    def ended(
        self, definition: Mapping[str, Any], step: Mapping[str, Any], outcome: Mapping[str, Any], state: str | None
    ) -> None:
        """An outcome was recorded, and its step came to ``state``."""
        events = events_of(step.get("publishes_events"))
        if not events or state is None:
            return
        condition = condition_of(state)

        def common() -> dict[str, Any]:
            error = outcome.get("error")
            return _common_of(
                payload=outcome.get("results") if error is None else _error(error, None),
                namespace=definition["namespace"],
                task=definition["name"],
                task_version=definition["version"],
                step=step["name"],
                task_uuid=outcome["task_uuid"],
                step_uuid=outcome["step_uuid"],
                fence=outcome["fence"],
                attempt=None,
                finish_no=None,
                state=state,
                condition=condition,
                correlation_id=None,
            )

        self._publishing.ended(events, outcome, condition, definition["namespace"], common)


class TaskDomainEvents(_DomainEvents):
    """Of one finalizer."""

    def prepare(self, work: AfterWork) -> dict[str, Any]:
        """What ``finalize_task`` is to be told of the task's events."""
        outcome = work.outcome
        if not work.events or outcome is None:
            return {}
        draft = EventDraft(
            name="",
            condition=condition_of_task(outcome.state),
            namespace=outcome.namespace,
            task=outcome.name,
            task_version=outcome.version,
            step=None,
            task_uuid=outcome.task_uuid,
            step_uuid=None,
            payload=work.payload,
            context=outcome.context,
            correlation_id=outcome.correlation_id,
            outcome=outcome,
        )
        return self._publishing.prepare(work.events, draft)

    def ended(self, work: AfterWork, claim: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """The task is final, and its events were sent."""
        if not work.events:
            return
        condition = condition_of_task(claim["state"])

        def common() -> dict[str, Any]:
            outcome = work.outcome
            assert outcome is not None, "it is read where there are fast events"
            return _of_task(outcome, work.payload, condition)

        self._publishing.ended(work.events, said, condition, claim["namespace"], common)


def _common(outcome: Outcome, state: str, condition: str) -> dict[str, Any]:
    step = outcome.step
    template = step.template
    return _common_of(
        payload=_payload(outcome),
        namespace=template.namespace,
        task=template.task_name,
        task_version=template.version,
        step=template.name,
        task_uuid=step.task_uuid,
        step_uuid=step.step_uuid,
        fence=step.fence,
        attempt=step.attempt,
        finish_no=None,
        state=state,
        condition=condition,
        correlation_id=step.task["correlation_id"],
    )


def _of_task(outcome: TaskOutcome, payload: Any, condition: str) -> dict[str, Any]:
    return _common_of(
        payload=payload,
        namespace=outcome.namespace,
        task=outcome.name,
        task_version=outcome.version,
        step=None,
        task_uuid=outcome.task_uuid,
        step_uuid=None,
        fence=None,
        attempt=None,
        finish_no=outcome.finish_no,
        state=outcome.state,
        condition=condition,
        correlation_id=outcome.correlation_id,
    )


def _common_of(**fields: Any) -> dict[str, Any]:
    return {**fields, "at": dt.datetime.now(dt.UTC)}


def _payload(outcome: Outcome) -> Any:
    """The result, or the error as the SQL core stores it."""
    if outcome.status == "complete":
        return None if outcome.encoded is None else decode(outcome.encoded)
    return _error(outcome.body["error"], outcome.step.attempt)


def _error(error: Mapping[str, Any], attempt: int | None) -> dict[str, Any]:
    return {
        "message": str(error.get("message") or "no message")[:_LONGEST_MESSAGE],
        "type": str(error.get("type") or "Error")[:_LONGEST_TYPE],
        "attempt": attempt,
        "retryable": error.get("retryable") is not False,
        "timeout": bool(error.get("timeout")),
    }
