"""From a document to a checked template: ``load_template`` for YAML, ``build_template`` for what Python declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tasker.encoding import encode
from tasker.errors import ValueNotStorable
from tasker.workflows.checks import check_single_step, check_template
from tasker.workflows.model import StepTemplate, WorkflowTemplate
from tasker.workflows.overrides import with_overrides
from tasker.workflows.problems import InvalidTemplate, Problem, did_you_mean
from tasker.workflows.spelling import one_spelling
from tasker.workflows.wording import PYTHON_ONLY, message_of
from tasker.workflows.yaml_source import Path_, Source, read_source


def load_template(source: Path | str, environment: str | None = None) -> WorkflowTemplate:
    """Read, check and merge one YAML template.

    Args:
        source: a file, or the text of a document; a text of one line that ends in ``.yaml`` or ``.yml`` is a file.
        environment: name of the environment whose overrides apply; ``None`` applies none. The overrides of all
            environments are checked in any case.

    Returns:
        the template; what is stored but not acted on yet is listed by ``checks.warnings_of``.

    Raises:
        InvalidTemplate: anything is wrong; all problems at once, each with file, line, step and field.
    """
    document = read_source(source)
    if isinstance(document.value, dict):
        known = WorkflowTemplate.model_fields.keys() - PYTHON_ONLY
        refused = [name for name in document.value if name in PYTHON_ONLY]
        if refused:
            raise InvalidTemplate(
                document.problem(f"unknown field{did_you_mean(name, known)}", (name,)) for name in refused
            )
    return build_template(document, environment)


def build_template(document: Source, environment: str | None = None) -> WorkflowTemplate:
    """A checked template from a document, however that was made.

    Args:
        document: the value, with what is known of where it stands.
        environment: as for ``load_template``.

    Raises:
        InvalidTemplate: anything is wrong.
    """
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "must be a mapping of fields"
        raise InvalidTemplate([document.problem(f"{what}: a template has name, namespace_name, version and steps")])
    spelled, problems = one_spelling(document)
    template, found = _validated(spelled)
    problems += found
    if template is None or problems:
        raise InvalidTemplate(_by_line(problems))
    chosen = template
    for name in template.environments:
        merged, found = _in_environment(spelled, name)
        problems += found
        if name == environment and merged is not None:
            chosen = merged
    if problems:
        raise InvalidTemplate(_by_line(problems))
    chosen._environment = environment
    return chosen


def for_environment(template: WorkflowTemplate, environment: str) -> WorkflowTemplate:
    """``template`` with the overrides of ``environment`` in its steps; one that is resolved already stays as it is."""
    if template.environment is not None:
        return template
    return build_template(template.source, environment)


def check_step(source: Source) -> None:
    """Check the fields of one step by itself.

    Args:
        source: a document whose only content is ``steps`` with that step.

    Raises:
        InvalidTemplate: any field is wrong.
    """
    spelled, problems = one_spelling(source)
    try:
        step = StepTemplate.model_validate_json(encode(spelled.value["steps"][0], what="the step"))
        problems += check_single_step(spelled, step, ("steps", 0))
    except ValueNotStorable as error:
        problems.append(spelled.problem(error.message, ("steps", 0)))
    except ValidationError as error:
        problems += _told(spelled, error, ("steps", 0))
    if problems:
        raise InvalidTemplate(problems)


def _in_environment(spelled: Source, environment: str) -> tuple[WorkflowTemplate | None, list[Problem]]:
    merged, problems = with_overrides(spelled, environment)
    template, found = _validated(merged)
    problems += [problem if problem.environment else _in(problem, environment) for problem in found]
    return template, problems


def _in(problem: Problem, environment: str) -> Problem:
    return dataclasses.replace(problem, environment=environment)


def _validated(source: Source) -> tuple[WorkflowTemplate | None, list[Problem]]:
    """The model of ``source``, and its problems: those of single fields, or else those of the whole."""
    try:
        encoded = encode(source.value, what="the template")
        template = WorkflowTemplate.model_validate_json(encoded)
    except ValueNotStorable as error:
        return None, [source.problem(error.message)]
    except ValidationError as error:
        return None, _told(source, error)
    template._source = source
    return template, list(check_template(template))


def _by_line(problems: list[Problem]) -> Iterator[Problem]:
    return iter(sorted(problems, key=lambda problem: problem.line or 0))


def _told(source: Source, error: ValidationError, below: Path_ = ()) -> list[Problem]:
    """The problems in ``error``, which is about the value at ``below``."""
    return [
        source.problem(message_of(details, (*below, *details["loc"])), (*below, *details["loc"]))
        for details in error.errors(include_url=False)
    ]
