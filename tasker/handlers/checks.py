"""Whether the handlers of a template are there: what ``template validate`` checks beyond the structure."""

from __future__ import annotations

from collections.abc import Iterator

from tasker.errors import HandlerNotFound
from tasker.handlers.hooks import task_handler_methods
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.model import WorkflowTemplate
from tasker.workflows.problems import Problem


def check_handlers(template: WorkflowTemplate, handlers: HandlerRegistry) -> Iterator[Problem]:
    """Every handler, hook and publisher of ``template`` that this process cannot find, or that could not be called."""
    for index, step in enumerate(template.steps):
        try:
            handlers.for_step(
                {"callable": step.handler.callable, "method": step.handler.method},
                step_name=step.name,
                depends_on=step.depends_on,
                result_schema=step.result_schema,
                workflow=(template.namespace_name, template.name, template.version),
            )
        except HandlerNotFound as error:
            yield template.source.problem(_text(error), ("steps", index, "handler", "callable"))
    for kind in ("on_complete", "on_error"):
        for number, name in enumerate(getattr(template.hooks, kind)):
            try:
                handlers.find(name)
            except HandlerNotFound as error:
                yield template.source.problem(_text(error), ("hooks", kind, number))
    if template.task_handler is not None and template.task_handler.is_ours:
        try:
            task_handler_methods(template.task_handler.callable, handlers)
        except HandlerNotFound as error:
            yield template.source.problem(_text(error), ("task_handler", "callable"))
    for path, events in (
        (("domain_events",), template.domain_events),
        *((("steps", index, "publishes_events"), step.publishes_events) for index, step in enumerate(template.steps)),
    ):
        for number, event in enumerate(events):
            try:
                if event.publisher is not None:
                    handlers.find_object(event.publisher)
            except HandlerNotFound as error:
                yield template.source.problem(_text(error), (*path, number, "publisher"))


def _text(error: HandlerNotFound) -> str:
    return "; ".join(part for part in (error.message, error.hint) if part)
