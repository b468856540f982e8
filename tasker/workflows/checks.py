"""Checks that look at more than one field: the graph, the schemas, delegated steps; limits; and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.workflows import graph
from tasker.workflows.celery_calls import check_call
from tasker.workflows.model import EventDeclaration, Lifecycle, StepTemplate, WorkflowTemplate
from tasker.workflows.problems import Problem, did_you_mean
from tasker.workflows.schemas import SchemaInvalid, compile_schema
from tasker.workflows.yaml_source import Path_, Source


@dataclass(frozen=True)
class Limits:
    """How large a workflow may be: ``system.max_workflow_steps`` and ``engine.dependency_graph.max_depth``."""

    max_workflow_steps: int
    max_depth: int


def graph_of(template: WorkflowTemplate) -> dict[str, tuple[str, ...]]:
    """Each step's name with the names of those it depends on."""
    return {step.name: step.depends_on for step in template.steps}


def check_template(template: WorkflowTemplate) -> Iterator[Problem]:
    """Everything that is wrong with a template whose fields are right one by one."""
    yield from _duplicate_names(template)
    unknown = list(_dependencies(template))
    yield from unknown
    if not unknown:
        yield from _cycles(template)
    if template.input_schema is not None:
        yield from _schema(template.source, template.input_schema, ("input_schema",))
    yield from _events(template.source, template.domain_events, ("domain_events",))
    yield from _task_handler(template)
    for index, step in enumerate(template.steps):
        yield from check_single_step(template.source, step, ("steps", index))


def check_single_step(source: Source, step: StepTemplate, path: Path_) -> Iterator[Problem]:
    """What can be wrong with a step at ``path`` whatever its neighbours are."""
    if step.result_schema is not None:
        yield from _schema(source, step.result_schema, (*path, "result_schema"))
    yield from _handler(source, step, (*path, "handler"))
    yield from _events(source, step.publishes_events, (*path, "publishes_events"))


def check_limits(template: WorkflowTemplate, limits: Limits) -> Iterator[Problem]:
    """Where a template, right in itself, is larger than this installation allows."""
    source = template.source
    count = len(template.steps)
    if count > limits.max_workflow_steps:
        yield source.problem(
            f"has {count:,} steps; system.max_workflow_steps allows {limits.max_workflow_steps:,}", ("steps",)
        )
    path = graph.deepest_path(graph_of(template))
    if len(path) > limits.max_depth:
        shown = " -> ".join([*path[:3], "...", path[-1]] if len(path) > 5 else path)
        yield source.problem(
            f"the chain {shown} is {len(path):,} steps long; engine.dependency_graph.max_depth allows "
            f"{limits.max_depth:,}",
            ("steps", [step.name for step in template.steps].index(path[-1])),
        )


def warnings_of(template: WorkflowTemplate) -> list[Problem]:
    """Values that cannot mean what they say."""
    source = template.source
    found: list[Problem] = []
    if template.task_handler is not None and not template.task_handler.is_ours:
        found.append(source.problem("is of another language, so nothing calls it here", ("task_handler", "callable")))
    for index, event in enumerate(template.domain_events):
        if event.condition == "retryable_failure":
            found.append(
                source.problem(
                    "never happens to a task as a whole: only its steps are tried again",
                    ("domain_events", index, "condition"),
                )
            )
    if template.system_dependencies.secondary:
        found.append(
            source.problem("is stored for readers; only primary guards steps", ("system_dependencies", "secondary"))
        )
    found += _lifecycle_warnings(source, template.lifecycle, ("lifecycle",))
    for index, step in enumerate(template.steps):
        path: Path_ = ("steps", index)
        found += _lifecycle_warnings(source, step.lifecycle, (*path, "lifecycle"))
        retry = step.retry
        base, longest = retry.backoff_base_ms, retry.max_backoff_ms
        if base is not None and longest is not None and base > longest:
            found.append(
                source.problem(
                    f"is longer than max_backoff_ms, {longest:,}, which therefore is every delay",
                    (*path, "retry", "backoff_base_ms"),
                )
            )
        if ".<locals>." in step.handler.callable:
            found.append(
                source.problem(
                    "is declared inside a function: only this process can run it; move it to the module's top level",
                    (*path, "handler", "callable"),
                )
            )
    return found


def _lifecycle_warnings(source: Source, lifecycle: Lifecycle | None, path: Path_) -> list[Problem]:
    if lifecycle is None or lifecycle.auto_dlq_on_timeout is not False:
        return []
    return [
        source.problem(
            "has no effect: every step that ends in error has a dead letter; to end none, say "
            "staleness_action: manual_review",
            (*path, "auto_dlq_on_timeout"),
        )
    ]


def _events(source: Source, events: Sequence[EventDeclaration], path: Path_) -> Iterator[Problem]:
    names: set[str] = set()
    for index, event in enumerate(events):
        at: Path_ = (*path, index)
        if event.name in names:
            yield source.problem("another event of the list has this name", (*at, "name"))
        names.add(event.name)
        if event.schema_ is not None:
            yield from _schema(source, event.schema_, (*at, "schema"))
        if event.publisher is not None:
            if any(character.isspace() for character in event.publisher):
                yield source.problem("must not contain spaces", (*at, "publisher"))
            if event.publisher.startswith("celery:"):
                yield source.problem("must name a function, not a Celery task", (*at, "publisher"))


def _task_handler(template: WorkflowTemplate) -> Iterator[Problem]:
    handler = template.task_handler
    if handler is None:
        return
    if any(character.isspace() for character in handler.callable):
        yield template.source.problem("must not contain spaces", ("task_handler", "callable"))
    if handler.callable.startswith("celery:"):
        yield template.source.problem(
            "must name an object with on_complete or on_error, not a Celery task", ("task_handler", "callable")
        )


def _duplicate_names(template: WorkflowTemplate) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, step in enumerate(template.steps):
        if step.name in first:
            place = template.source.place(("steps", first[step.name], "name"))
            where = f" (the other is in line {place.line})" if place is not None else ""
            yield template.source.problem(f"another step has this name{where}", ("steps", index, "name"))
        first.setdefault(step.name, index)


def _dependencies(template: WorkflowTemplate) -> Iterator[Problem]:
    names = {step.name for step in template.steps}
    for index, step in enumerate(template.steps):
        path: Path_ = ("steps", index, "depends_on")
        for number, needed in enumerate(step.depends_on):
            if needed not in names:
                hint = did_you_mean(needed, names - {step.name})
                yield template.source.problem(f"there is no step {needed!r}{hint}", (*path, number))
        for needed, times in Counter(step.depends_on).items():
            if times > 1:
                yield template.source.problem(f"names {needed!r} {times} times", path)


def _cycles(template: WorkflowTemplate) -> Iterator[Problem]:
    cycle = graph.find_cycle(graph_of(template))
    if cycle is None:
        return
    index = [step.name for step in template.steps].index(cycle[0])
    if len(cycle) == 2:
        message = "depends on itself"
    else:
        message = f"the steps wait for one another in a cycle: {' -> '.join(cycle)}"
    yield template.source.problem(message, ("steps", index, "depends_on"))


def _schema(source: Source, schema: dict[str, Any], path: Path_) -> Iterator[Problem]:
    try:
        compile_schema(schema)
    except SchemaInvalid as error:
        yield source.problem(f"is no valid JSON Schema: {error.message}", (*path, *error.path))


def _handler(source: Source, step: StepTemplate, path: Path_) -> Iterator[Problem]:
    if any(character.isspace() for character in step.handler.callable):
        yield source.problem("must not contain spaces", (*path, "callable"))
    if step.celery_task is None:
        return
    if not step.celery_task:
        yield source.problem("names no Celery task: write celery:package.tasks.name", (*path, "callable"))
    if step.handler.method is not None:
        yield source.problem("means nothing for a Celery task", (*path, "method"))
    for at, message in check_call(step.handler.initialization, step.depends_on, step.timeout_seconds):
        yield source.problem(message, (*path, "initialization", *at))
