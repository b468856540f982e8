"""Tasker: durable workflows on Celery and PostgreSQL.

Everything public is here, and nothing is imported before it is used: ``import tasker`` costs neither Celery nor a
database driver. ``celery -A tasker worker`` finds the application as ``tasker.celery``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasker.app import app as celery
    from tasker.client.handle import TaskHandle
    from tasker.client.requests import TaskRequest
    from tasker.client.tasker import Tasker
    from tasker.config.manager import ConfigManager
    from tasker.core import OrchestrationCore
    from tasker.errors import (
        Backpressure,
        CircuitOpen,
        ContextInvalid,
        InvalidRequest,
        InvalidTransition,
        NotFound,
        PayloadTooLarge,
        PermanentError,
        RetryableError,
        StepCancelled,
        TaskerError,
        TaskTimeout,
        UnknownTemplate,
        ValueNotStorable,
    )
    from tasker.handlers.api import ApiStepHandler
    from tasker.handlers.context import StepContext
    from tasker.handlers.events import DomainEvent, EventDraft, subscribe
    from tasker.handlers.hooks import TaskOutcome
    from tasker.handlers.registry import handler
    from tasker.handlers.step_handler import StepHandler
    from tasker.workflows.canvas import from_canvas
    from tasker.workflows.concurrency import Concurrency
    from tasker.workflows.declaration import Workflow, workflow
    from tasker.workflows.events import Event
    from tasker.workflows.retry import Retry

_HOMES = {
    "ApiStepHandler": "tasker.handlers.api",
    "Backpressure": "tasker.errors",
    "CircuitOpen": "tasker.errors",
    "Concurrency": "tasker.workflows.concurrency",
    "ConfigManager": "tasker.config.manager",
    "ContextInvalid": "tasker.errors",
    "InvalidRequest": "tasker.errors",
    "InvalidTransition": "tasker.errors",
    "NotFound": "tasker.errors",
    "DomainEvent": "tasker.handlers.events",
    "Event": "tasker.workflows.events",
    "EventDraft": "tasker.handlers.events",
    "OrchestrationCore": "tasker.core",
    "PayloadTooLarge": "tasker.errors",
    "PermanentError": "tasker.errors",
    "Retry": "tasker.workflows.retry",
    "RetryableError": "tasker.errors",
    "StepCancelled": "tasker.errors",
    "StepContext": "tasker.handlers.context",
    "StepHandler": "tasker.handlers.step_handler",
    "TaskHandle": "tasker.client.handle",
    "TaskOutcome": "tasker.handlers.hooks",
    "TaskRequest": "tasker.client.requests",
    "TaskTimeout": "tasker.errors",
    "Tasker": "tasker.client.tasker",
    "TaskerError": "tasker.errors",
    "UnknownTemplate": "tasker.errors",
    "ValueNotStorable": "tasker.errors",
    "Workflow": "tasker.workflows.declaration",
    "celery": "tasker.app",
    "from_canvas": "tasker.workflows.canvas",
    "handler": "tasker.handlers.registry",
    "subscribe": "tasker.handlers.events",
    "workflow": "tasker.workflows.declaration",
}
_OTHER_NAMES = {"celery": "app"}

# ``broker_url = "tasker-pgmq://…"`` works in any program that imported Tasker. This costs an import hook, not Celery.
importlib.import_module("tasker.messaging.transport.registration").register()

__all__ = [
    "ApiStepHandler",
    "Backpressure",
    "CircuitOpen",
    "Concurrency",
    "ConfigManager",
    "ContextInvalid",
    "DomainEvent",
    "Event",
    "EventDraft",
    "InvalidRequest",
    "InvalidTransition",
    "NotFound",
    "OrchestrationCore",
    "PayloadTooLarge",
    "PermanentError",
    "Retry",
    "RetryableError",
    "StepCancelled",
    "StepContext",
    "StepHandler",
    "TaskHandle",
    "TaskOutcome",
    "TaskRequest",
    "TaskTimeout",
    "Tasker",
    "TaskerError",
    "UnknownTemplate",
    "ValueNotStorable",
    "Workflow",
    "celery",
    "from_canvas",
    "handler",
    "subscribe",
    "workflow",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), _OTHER_NAMES.get(name, name))
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
