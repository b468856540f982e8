"""Completion hooks: functions that a workflow wants called once a task of it is finished."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from tasker.errors import HandlerNotFound
from tasker.handlers.environment import substitute
from tasker.handlers.registry import HandlerRegistry

HOOK_OF_STATE: Mapping[str, str] = {"complete": "on_complete", "error": "on_error"}
"""Which hooks a task's final state calls for; the other final states are an operator's own doing and call none."""


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """A finished task, as its hooks see it.

    Attributes:
        task_uuid: the workflow run.
        namespace: namespace of the workflow.
        name: name of the workflow.
        version: its version.
        state: ``complete`` or ``error``.
        finish_no: how often the task has finished; with the task and the hook an idempotency key.
        context: the task's context, as a JSON value.
        results: results of its steps, by name, where they have one.
        errors: errors of its failed steps, by name: ``message``, ``type`` and more.
        tags: as given at creation.
        settings: for a template's ``task_handler``, its ``initialization``.
        correlation_id: as given at creation.
        finished_at: when the last step ended.
    """

    task_uuid: str
    namespace: str
    name: str
    version: str
    state: str
    finish_no: int
    context: Any = None
    results: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    correlation_id: str | None = None
    finished_at: datetime | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletionHook:
    """One hook of one workflow.

    Attributes:
        name: ``module:function``, by which the hook's runs are told apart.
        is_async: whether ``invoke`` returns an awaitable.
        function: the hook itself.
        settings: what it finds in ``outcome.settings``.
    """

    name: str
    is_async: bool
    function: Callable[[TaskOutcome], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def invoke(self, outcome: TaskOutcome) -> Awaitable[Any] | None:
        """Call the hook; what it returns is not used, what it raises is passed on."""
        if self.settings:
            outcome = replace(outcome, settings=substitute(self.settings))
        answer = self.function(outcome)
        return answer if self.is_async else None


class HasDocument(Protocol):
    """A registered template, or anything else that has its canonical document."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The canonical document."""
        ...


def hooks_for(
    template: HasDocument | Mapping[str, Any], handlers: HandlerRegistry, state: str
) -> tuple[CompletionHook, ...]:
    """The hooks to call for a task of ``template`` that ended in ``state``, in the order of their declaration.

    Args:
        template: what ``TemplateRegistry.get`` returns, or a canonical document.
        handlers: finds the functions.
        state: the task's final state.

    Raises:
        HandlerNotFound: a hook is not to be found in this process.
    """
    kind = HOOK_OF_STATE.get(state)
    if kind is None:
        return ()
    document = template if isinstance(template, Mapping) else template.document
    names = (document.get("hooks") or {}).get(kind) or ()
    hooks = [_hook(name, handlers.find(name)) for name in names]
    handler = document.get("task_handler")
    if handler is not None and "::" not in handler["callable"]:
        methods = task_handler_methods(handler["callable"], handlers)
        if kind in methods:
            hooks.append(_hook(f"{handler['callable']}.{kind}", methods[kind], handler.get("initialization") or {}))
    return tuple(hooks)


def task_handler_methods(name: str, handlers: HandlerRegistry) -> dict[str, Callable[[TaskOutcome], Any]]:
    """Those of ``on_complete`` and ``on_error`` that a template's ``task_handler`` has.

    Raises:
        HandlerNotFound: it is not to be found in this process, or has neither.
    """
    found = handlers.find_object(name)
    methods = {kind: method for kind in HOOK_OF_STATE.values() if callable(method := getattr(found, kind, None))}
    if not methods:
        raise HandlerNotFound(
            f"task_handler {name!r} has neither of the methods on_complete and on_error",
            hint="name a class or an object that has one of them, with one parameter, the TaskOutcome",
            field="task_handler.callable",
        )
    return methods


def _hook(
    name: str, function: Callable[[TaskOutcome], Any], settings: Mapping[str, Any] | None = None
) -> CompletionHook:
    return CompletionHook(name, inspect.iscoroutinefunction(function), function, settings or {})
