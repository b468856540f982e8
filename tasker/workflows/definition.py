"""A template as the SQL core registers it: in topological order, with every default resolved."""

from __future__ import annotations

from typing import Any

from tasker.config.settings import Settings
from tasker.workflows import graph
from tasker.workflows.canonical import canonical_document, digest_of
from tasker.workflows.checks import Limits, check_limits, graph_of
from tasker.workflows.events import definitions
from tasker.workflows.loading import for_environment
from tasker.workflows.model import ConcurrencySpec, Lifecycle, StepTemplate, WorkflowTemplate
from tasker.workflows.problems import InvalidTemplate

DEFAULT_MAX_ATTEMPTS = 3
"""Runs of a step whose retry policy names none."""

NO_CIRCUIT = "default"
"""``system_dependencies.primary`` of a workflow that needs no system in particular."""


def limits_of(settings: Settings) -> Limits:
    """How large a workflow these settings allow."""
    return Limits(
        max_workflow_steps=settings.system.max_workflow_steps,
        max_depth=settings.engine.dependency_graph.max_depth,
    )


def to_definition(template: WorkflowTemplate, settings: Settings) -> dict[str, Any]:
    """The argument of ``tasker.register_template``.

    Args:
        template: one not resolved for an environment yet gets the overrides of ``settings.environment``.
        settings: where the defaults and the limits come from.

    Raises:
        InvalidTemplate: it is larger than the settings allow.
    """
    template = for_environment(template, settings.environment)
    problems = list(check_limits(template, limits_of(settings)))
    if problems:
        raise InvalidTemplate(problems)
    order = graph.topological_order(graph_of(template))
    position = {name: index for index, name in enumerate(order)}
    steps = sorted(template.steps, key=lambda step: position[step.name])
    return {
        "namespace": template.namespace_name,
        "name": template.name,
        "version": template.version,
        "digest": digest_of(template),
        "description": template.description,
        "document": canonical_document(template),
        "identity_strategy": template.identity_strategy or settings.engine.identity_strategy,
        "input_schema": template.input_schema,
        "has_after_work": template.has_after_work,
        "domain_events": definitions(template.domain_events),
        "concurrency": _concurrency(template.concurrency),
        "max_context_bytes": settings.system.max_context_bytes,
        "lifecycle": _lifecycle(template.lifecycle),
        "steps": [_step(template, step, settings) for step in steps],
    }


def circuit_of(template: WorkflowTemplate, step: StepTemplate) -> str | None:
    """Name of the circuit that guards ``step``: its own, else the workflow's primary one; null says none."""
    if "system_dependency" in step.model_fields_set:
        return step.system_dependency
    primary = template.system_dependencies.primary
    return None if primary == NO_CIRCUIT else primary


def _concurrency(spec: ConcurrencySpec | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    rate = {} if spec.rate is None else {"rate_count": spec.rate.count, "rate_seconds": spec.rate.per_seconds}
    return {"path": spec.path, "max_steps": spec.max_steps, **rate}


def _step(template: WorkflowTemplate, step: StepTemplate, settings: Settings) -> dict[str, Any]:
    retry, backoff = step.retry, settings.system.backoff
    attempts = DEFAULT_MAX_ATTEMPTS if retry.max_attempts is None else max(1, retry.max_attempts)
    return {
        "name": step.name,
        "kind": step.type,
        "namespace": step.namespace or template.namespace_name,
        "handler": {
            "callable": step.handler.callable,
            "method": step.handler.method,
            "initialization": step.handler.initialization,
        },
        "depends_on": list(step.depends_on),
        "retryable": retry.retryable is not False,
        "max_attempts": attempts,
        "backoff": retry.backoff or "exponential",
        "backoff_base_ms": _first(retry.backoff_base_ms, backoff.base_seconds),
        "backoff_max_ms": _first(retry.max_backoff_ms, backoff.max_seconds),
        "backoff_multiplier": backoff.multiplier,
        "jitter_fraction": backoff.jitter_fraction,
        "timeout_seconds": step.timeout_seconds or settings.system.step_execution_timeout_seconds,
        "system_dependency": circuit_of(template, step),
        "result_schema": step.result_schema,
        "delegated": step.celery_task is not None,
        "lifecycle": _lifecycle(step.lifecycle),
        "publishes_events": definitions(step.publishes_events),
    }


def _lifecycle(lifecycle: Lifecycle | None) -> dict[str, Any] | None:
    return None if lifecycle is None else lifecycle.model_dump(exclude_none=True) or None


def _first(milliseconds: int | None, default_seconds: float) -> int:
    return round(default_seconds * 1000) if milliseconds is None else milliseconds
