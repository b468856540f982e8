"""``tasker template``: check workflow templates, register them, look at those that are registered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.cli.values import workflow_parts

if TYPE_CHECKING:
    from tasker.config.settings import Settings
    from tasker.handlers.registry import HandlerRegistry
    from tasker.workflows.model import WorkflowTemplate
    from tasker.workflows.problems import Problem
    from tasker.workflows.registry import RegisteredTemplate, TemplateRegistry

_structure = click.option(
    "--structure", is_flag=True, help="Check everything but whether the handlers can be imported here."
)
_paths = click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))


@group()
def template() -> None:
    """Workflow templates: validate, register, list, show and draw them."""


@template.command("validate")
@_paths
@_structure
def validate(paths: tuple[Path, ...], structure: bool) -> None:
    """Check the templates in PATHS (files or folders; engine.template_paths by default).

    Overrides of every environment are checked. Nothing is stored, and no database is needed.
    """
    from tasker.config.manager import ConfigManager
    from tasker.workflows.registry import duplicates, template_files

    settings = ConfigManager.load()
    handlers = None if structure else _handlers(settings)
    checked = {
        str(file): _checked(file, settings, handlers)
        for file in template_files(paths or settings.engine.template_paths)
    }
    for problem in duplicates(loaded for loaded, _ in checked.values() if loaded is not None):
        checked[str(problem.file)][1].append(problem)
    output = Output()
    rows = [_row(file, loaded, problems) for file, (loaded, problems) in checked.items()]
    if not output.as_json:
        for loaded, problems in checked.values():
            for text in [*map(str, problems), *(f"warning: {warning}" for warning in _warnings(loaded))]:
                click.echo(text, err=True)
    output.table(rows, ["file", "workflow", "steps", "valid"], empty="No templates found: name a file or a folder.")
    if any(not row["valid"] for row in rows):
        raise click.exceptions.Exit(1)


@template.command("register")
@_paths
@_structure
def register(paths: tuple[Path, ...], structure: bool) -> None:
    """Store the templates in PATHS in the database: all of them, or none if any is wrong.

    The overrides of the current environment apply. A version that is registered already stays as it is; another
    definition replaces it only while no task uses it.
    """
    from tasker.handlers.checks import check_handlers

    with _registry() as (registry, settings):
        handlers = None if structure else _handlers(settings)
        warnings: list[Problem] = []

        def check(loaded: WorkflowTemplate) -> Iterator[Problem]:
            warnings.extend(_warnings(loaded))
            if handlers is not None:
                yield from check_handlers(loaded, handlers)

        registered = registry.load(paths or None, check=check)
    output = Output()
    for warning in warnings:
        output.note(f"warning: {warning}")
    rows = [
        {
            "workflow": entry.workflow,
            "named_task_id": entry.named_task_id,
            "outcome": "new" if entry.is_new else "replaced" if entry.replaced else "unchanged",
        }
        for entry in registered
    ]
    output.table(rows, ["workflow", "outcome"], empty="No templates found: name a file or a folder.")


@template.command("list")
@click.option("--namespace", help="Only workflows of this namespace.")
@click.option("--name", help="Only versions of the workflow with this name.")
def list_templates(namespace: str | None, name: str | None) -> None:
    """Registered workflows and their versions."""
    with _registry() as (registry, _):
        records = registry.list(namespace, name)
    rows = [
        {
            "workflow": f"{record.namespace}/{record.name}",
            "version": record.version,
            "steps": record.step_count,
            "used": record.used,
            "registered": record.created_at,
            "description": record.description,
            "named_task_id": record.named_task_id,
            "digest": record.digest,
        }
        for record in records
    ]
    columns = ["workflow", "version", "steps", "used", "registered", "description"]
    Output().table(
        rows, columns, title="Workflows", empty="No workflow is registered: `tasker template register FILE`."
    )


@template.command("show")
@click.argument("workflow")
def show(workflow: str) -> None:
    """One version: WORKFLOW is namespace/name, or namespace/name:version (the highest by default)."""
    with _registry() as (registry, _):
        found = _get(registry, workflow)
    output, record, definition = Output(), found.record, found.definition
    if output.as_json:
        output.record(
            {
                "workflow": found.full_name,
                "named_task_id": record.named_task_id,
                "digest": record.digest,
                "used": record.used,
                "registered": record.created_at,
                "definition": definition,
            }
        )
        return
    output.record(
        {
            "workflow": found.full_name,
            "description": record.description,
            "registered": record.created_at,
            "used": record.used,
            "identity": record.identity_strategy or "by key where one is given",
            "completion hooks": record.has_after_work,
            "largest context": f"{record.max_context_bytes:,} bytes",
            "input schema": record.input_schema,
            "digest": record.digest,
        }
    )
    click.echo()
    rows = [
        {
            **step,
            "handler": step["handler"]["callable"],
            "after": step["depends_on"],
            "attempts": step["max_attempts"] if step["retryable"] else 1,
            "timeout": f"{step['timeout_seconds']:g} s",
        }
        for step in definition["steps"]
    ]
    output.table(rows, ["name", "after", "handler", "namespace", "attempts", "timeout"], title="Steps")


@template.command("graph")
@click.argument("workflow")
@click.option("--format", "form", type=click.Choice(["tree", "mermaid", "dot"]), default="tree", show_default=True)
def graph(workflow: str, form: str) -> None:
    """Draw a workflow: WORKFLOW is a template's file, or namespace/name[:version] of a registered one."""
    from tasker.workflows.checks import graph_of
    from tasker.workflows.graph import topological_order
    from tasker.workflows.loading import load_template
    from tasker.workflows.picture import picture

    if Path(workflow).is_file():
        from tasker.config.manager import ConfigManager

        loaded = load_template(Path(workflow), ConfigManager.load().environment)
        title, home, drawn = loaded.full_name, loaded.namespace_name, graph_of(loaded)
        namespaces = {step.name: step.namespace or home for step in loaded.steps}
    else:
        with _registry() as (registry, _):
            found = _get(registry, workflow)
        title, home, drawn = found.full_name, found.record.namespace, found.graph
        namespaces = {step["name"]: step["namespace"] for step in found.definition["steps"]}
    # A step in another namespace runs on other workers: worth seeing.
    notes = {name: namespace for name, namespace in namespaces.items() if namespace != home}
    steps = [
        {"name": name, "namespace": namespaces[name], "depends_on": list(drawn[name])}
        for name in topological_order(drawn)
    ]
    text = picture(drawn, form, title=title, notes=notes)
    Output().text(text, workflow=title, format=form, picture=text, steps=steps)


# -- what the commands share ------------------------------------------------------------------------------------


@contextmanager
def _registry() -> Iterator[tuple[TemplateRegistry, Settings]]:
    """The registry on the configured database, for as long as a command needs it."""
    from tasker.core import OrchestrationCore

    core = OrchestrationCore.from_settings()
    try:
        yield core.templates, core.settings
    finally:
        core.close()


def _handlers(settings: Settings) -> HandlerRegistry:
    from tasker.handlers.registry import HandlerRegistry

    return HandlerRegistry(settings)


def _checked(
    file: Path, settings: Settings, handlers: HandlerRegistry | None
) -> tuple[WorkflowTemplate | None, list[Problem]]:
    """The template in ``file`` as the current environment has it, and what is wrong."""
    from tasker.handlers.checks import check_handlers
    from tasker.workflows.checks import check_limits
    from tasker.workflows.definition import limits_of
    from tasker.workflows.loading import load_template
    from tasker.workflows.problems import InvalidTemplate

    try:
        loaded = load_template(file, settings.environment)
    except InvalidTemplate as error:
        return None, list(error.problems)
    problems = list(check_limits(loaded, limits_of(settings)))
    if handlers is not None:
        problems += check_handlers(loaded, handlers)
    return loaded, problems


def _warnings(loaded: WorkflowTemplate | None) -> list[Problem]:
    from tasker.workflows.checks import warnings_of

    return [] if loaded is None else warnings_of(loaded)


def _row(file: str, loaded: WorkflowTemplate | None, problems: list[Problem]) -> dict[str, Any]:
    return {
        "file": file,
        "workflow": None if loaded is None else loaded.full_name,
        "valid": not problems,
        "steps": None if loaded is None else len(loaded.steps),
        "problems": [problem.to_json() for problem in problems],
        "warnings": [warning.to_json() for warning in _warnings(loaded)],
    }


def _get(registry: TemplateRegistry, workflow: str) -> RegisteredTemplate:
    """The registered template that ``namespace/name[:version]`` names."""
    return registry.get(*workflow_parts(workflow))
