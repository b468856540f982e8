"""From a document to a checked template: ``load_template`` for YAML, ``build_template`` for what Python declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasker.encoding import encode
from tasker.errors import ValueNotStorable
from tasker.workflows.checks import check_single_step, check_template
from tasker.workflows.model import (
    EnvironmentOverrides,
    Part,
    RetryPolicy,
    StepTemplate,
    WorkflowTemplate,
)
from tasker.workflows.overrides import with_overrides
from tasker.workflows.problems import InvalidTemplate, Problem, did_you_mean, one_of
from tasker.workflows.spelling import one_spelling
from tasker.workflows.yaml_source import Path_, Source, read_source

PYTHON_ONLY = frozenset({"hooks"})
"""Fields of the model that a YAML document may not have: only a declaration in Python knows its functions."""


def load_template(source: Path | str, environment: str | None = None) -> WorkflowTemplate:
    """Read, check and merge one YAML template.

    Args:
        source: a file, or the text of a document.
        environment: name of the environment whose overrides apply; ``None`` applies none. The overrides of all
            environments are checked in any case.

    Returns:
        the template; what is stored but not acted on yet is listed by ``checks.warnings_of``.

    Raises:
        InvalidTemplate: anything is wrong; all problems at once, each with file, line, step and field.
    """
    document = read_source(source)
    if isinstance(document.value, dict):
        known = [name for name in WorkflowTemplate.model_fields if name not in PYTHON_ONLY]
        problems = [
            document.problem(f"unknown field{did_you_mean(name, known)}", (name,))
            for name in document.value
            if name in PYTHON_ONLY
        ]
        if problems:
            raise InvalidTemplate(problems)
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
        found = error.errors(include_url=False)
        problems += [_problem(spelled, {**details, "loc": ("steps", 0, *details["loc"])}) for details in found]
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
        return None, [_problem(source, details) for details in error.errors(include_url=False)]
    template._source = source
    return template, list(check_template(template))


def _by_line(problems: list[Problem]) -> Iterator[Problem]:
    return iter(sorted(problems, key=lambda problem: problem.line or 0))


# -- pydantic's errors in the words of the format --------------------------------------------------------------


def _problem(source: Source, details: ErrorDetails) -> Problem:
    path = details["loc"]
    return source.problem(_message(source, details, path), path)


def _message(source: Source, details: ErrorDetails, path: Path_) -> str:
    context: dict[str, Any] = details.get("ctx", {})
    given = _shown(details["input"])
    kind = details["type"]
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"unknown field{did_you_mean(path[-1], _fields_at(path[:-1]))}"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            allowed = [str(value) for value in _literals(context["expected"])]
            return f"must be {one_of(allowed)}, not {given}{did_you_mean(details['input'], allowed)}"
        case "string_type":
            return f"must be a text, not {given}{_version_hint(path, details['input'])}"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"must be a whole number, not {given}"
        case "float_type":
            return f"must be a number, not {given}"
        case "bool_type":
            return f"must be true or false, not {given}"
        case "tuple_type":
            return f"must be a list, not {given}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a mapping, not {given}"
        case "greater_than":
            return f"must be more than {context['gt']:g}, not {given}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}, not {given}"
        case "less_than_equal":
            return f"must be at most {context['le']:,}, not {given}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have at most {context['max_length']:,} characters"
        case "string_pattern_mismatch":
            return f"must be the name of a method, not {given}"
        case "too_long":
            return f"must have at most {context['max_length']:,} entries"
        case _:
            return f"{details['msg']}, not {given}"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = {None: "null", True: "true", False: "false"}.get(value, repr(value)) if _plain(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _version_hint(path: Path_, value: Any) -> str:
    if path == ("version",) and isinstance(value, (int, float)):
        return ": write three numbers with points, such as 1.0.0"
    return ""


def _literals(expected: str) -> list[str]:
    """The names in pydantic's ``'a', 'b' or 'c'``."""
    return [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]


def _fields_at(path: Path_) -> list[str]:
    """The fields that the mapping at ``path`` may have, as people write them."""
    model: type[BaseModel] | None = WorkflowTemplate
    hidden = PYTHON_ONLY
    for part in path:
        if model is None:
            return []
        if isinstance(part, int):
            continue
        if model is WorkflowTemplate and part == "environments":
            model, hidden = EnvironmentOverrides, frozenset()
            continue
        field = model.model_fields.get(part)
        if field is None:
            # The name of an environment stands between `environments` and its fields.
            continue
        model, hidden = _model_in(field.annotation), frozenset()
    if model is None:
        return []
    names = [field.alias or name for name, field in model.model_fields.items() if name not in hidden]
    if issubclass(model, Part):
        names += model.renamed
    if model is RetryPolicy:
        names += ["initial_delay", "max_delay"]
    return names


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``tuple[StepTemplate, ...]`` or ``RetryPolicy | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        model = _model_in(argument)
        if model is not None:
            return model
    return None
