"""The reference of what handlers, workflows and tests use, from the objects themselves."""

from __future__ import annotations

import inspect

import tasker
from docs.pages.markdown import code, from_docstring, page, table
from docs.pages.signatures import attributes, described, lead, signature
from tasker import errors, testing
from tasker.core import CoreHealth, OrchestrationCore
from tasker.handlers.api import ApiStepHandler
from tasker.handlers.context import StepContext
from tasker.handlers.events import DomainEvent, EventDraft, subscribe
from tasker.handlers.hooks import TaskOutcome
from tasker.handlers.registry import handler
from tasker.handlers.step_handler import StepHandler
from tasker.testing import Clock, fixtures
from tasker.testing.idle import run_until_idle
from tasker.testing.legality import broken_rules
from tasker.workflows.canvas import from_canvas
from tasker.workflows.celery_calls import CeleryOptions
from tasker.workflows.concurrency import Concurrency
from tasker.workflows.declaration import Workflow, workflow
from tasker.workflows.events import Event
from tasker.workflows.registry import TemplateRegistry
from tasker.workflows.retry import Retry

INTRO = """
Everything here is imported from `tasker`, but what tests use, which is in `tasker.testing`. `import tasker` costs
neither Celery nor a database driver: each name is loaded when it is first used. `Tasker` has [a page of its
own](client.md).
"""

WORKFLOWS = """
What may be declared, and what is refused, is in [workflow templates](templates.md#in-python).
"""

STEP = """
`orders` stands for what `workflow(…)` returned. Used as `@orders.step`, or with arguments as `@orders.step(…)`.
"""

HANDLERS = """
A handler is a function, sync or async, or a class derived from `StepHandler`. It takes the context, then one
parameter for each result it needs, named after the step. What it raises decides what follows: `PermanentError` ends
the step, any other exception is tried again. See [what is promised](../explanation/guarantees.md) about running
twice.
"""

ERRORS = """
All errors derive from `TaskerError` and have `message`, `hint` (what to do) and `field` (the part that is wrong), each
where there is one. The SQL core raises SQLSTATEs of a class of its own; from Python they are always these exceptions,
raised from the driver's own. `from tasker import …` has the common ones, `tasker.errors` all.
"""

TESTING = """
Importing nothing, `pytest` finds these fixtures wherever Tasker is installed. See
[test workflows](../how-to/test_workflows.md).
"""


def make() -> str:
    """The page."""
    parts = [INTRO, "## Workflows", WORKFLOWS]
    parts += ["### workflow", signature("workflow", workflow), described(workflow)]
    parts += ["### @orders.step", STEP, signature("step", Workflow.step), described(Workflow.step)]
    parts += ["### orders.celery_step", signature("celery_step", Workflow.celery_step, options=CeleryOptions)]
    parts += [described(Workflow.celery_step), "The options:", attributes(CeleryOptions)]
    parts += ["### @orders.on_complete", described(Workflow.on_complete)]
    parts += ["### @orders.on_error", described(Workflow.on_error)]
    parts += ["### from_canvas", signature("from_canvas", from_canvas), described(from_canvas)]
    parts += ["### Retry", lead(Retry), attributes(Retry)]
    parts += ["### Concurrency", lead(Concurrency), attributes(Concurrency)]
    parts += ["### Event", lead(Event), attributes(Event)]
    parts += ["### EventDraft", lead(EventDraft), attributes(EventDraft)]
    parts += ["### TaskOutcome", lead(TaskOutcome), attributes(TaskOutcome)]
    parts += ["## Handlers", HANDLERS, "### StepContext", lead(StepContext), attributes(StepContext)]
    parts.append(_members(StepContext, "logger", "remaining_seconds", "check_cancelled"))
    parts += ["### StepHandler", lead(StepHandler), described(StepHandler.call)]
    parts += ["### ApiStepHandler", lead(ApiStepHandler)]
    parts.append(_members(ApiStepHandler, "request", "arequest", "headers", "client_options"))
    parts += ["### handler", signature("@handler", handler), described(handler)]
    parts += ["### subscribe", signature("@subscribe", subscribe), described(subscribe)]
    parts += ["### DomainEvent", lead(DomainEvent), attributes(DomainEvent)]
    parts += ["## Errors", ERRORS, _errors()]
    parts += ["## OrchestrationCore", signature("OrchestrationCore.from_settings", OrchestrationCore.from_settings)]
    parts += [lead(OrchestrationCore).split("\n\n")[0], described(OrchestrationCore.from_settings)]
    parts.append(_members(OrchestrationCore, "initialize_queues", "health", "build_loop", "close"))
    parts += ["`health()` answers with", attributes(CoreHealth), "Its `templates` registers and finds workflows:"]
    parts.append(_members(TemplateRegistry, "register", "load", "get", "list"))
    parts += ["## Testing", TESTING, _fixtures(), "### run_until_idle", signature("run_until_idle", run_until_idle)]
    parts += [described(run_until_idle), "### broken_rules", signature("broken_rules", broken_rules)]
    parts += [described(broken_rules), "### Clock", lead(Clock)]
    parts.append(_members(Clock, "now", "advance", "move_to", "reset", "attach"))
    return page("Python API", *parts)


def documented() -> set[str]:
    """The public names that this page, or the client's, describes."""
    here = {
        "ApiStepHandler",
        "Concurrency",
        "DomainEvent",
        "Event",
        "EventDraft",
        "OrchestrationCore",
        "Retry",
        "StepContext",
        "StepHandler",
        "TaskOutcome",
        "Workflow",
    }
    elsewhere = {"Tasker", "TaskHandle", "TaskRequest", "ConfigManager", "celery"}
    raised = {name for name in tasker.__all__ if hasattr(errors, name)}
    return here | elsewhere | raised | {"from_canvas", "handler", "subscribe", "workflow"}


def tested() -> set[str]:
    """The names of the testing kit that this page describes."""
    return set(testing.__all__)


def _members(owner: type, *names: str) -> str:
    """A short table: calls, and what they do."""
    rows = []
    for name in names:
        member = inspect.getattr_static(owner, name)
        if isinstance(member, property):
            rows.append([code(name), lead(member.fget)])
        else:
            function = getattr(owner, name)
            parameters = [
                _shown(parameter)
                for parameter in inspect.signature(function).parameters.values()
                if parameter.name != "self"
            ]
            prefix = "await " if inspect.iscoroutinefunction(function) else ""
            rows.append([code(f"{prefix}{name}({', '.join(parameters)})"), lead(function)])
    return table(["", ""], rows)


def _shown(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}=…"


def _errors() -> str:
    """The tree: each error after the one it derives from."""
    rows = []

    def add(error: type[errors.TaskerError], depth: int) -> None:
        name = f"{'&nbsp;&nbsp;' * depth}{code(error.__name__)}"
        meaning = from_docstring((error.__doc__ or "").split("\n\n")[0])
        rows.append([name, code(error.sqlstate) if error.sqlstate else "", meaning])
        for child in error.__subclasses__():
            if child.__module__ == errors.__name__:
                add(child, depth + 1)

    add(errors.TaskerError, 0)
    return table(["error", "SQLSTATE", "raised when"], rows)


def _fixtures() -> str:
    scopes = {
        "tasker_core": "test",
        "tasker_client": "test",
        "tasker_clock": "test",
        "tasker_settings": "test",
        "tasker_database_url": "test",
        "tasker_server": "session",
        "any_database_url": "test",
        "any_server": "test",
    }
    return table(["fixture", "scope", "is"], [[code(name), scope, _about(name)] for name, scope in scopes.items()])


def _about(name: str) -> str:
    fixture = getattr(fixtures, name)
    function = getattr(fixture, "_get_wrapped_function", lambda: fixture)()
    return lead(function)
