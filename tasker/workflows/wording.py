"""What pydantic found wrong with a template, in the words of the format."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from tasker.workflows.model import EnvironmentOverrides, Part, RetryPolicy, WorkflowTemplate
from tasker.workflows.problems import did_you_mean, one_of
from tasker.workflows.yaml_source import Path_

PYTHON_ONLY = frozenset({"hooks"})
"""Fields of the model that a YAML document may not have: only a declaration in Python knows its functions."""


def message_of(details: ErrorDetails, path: Path_) -> str:
    """What is wrong with the value at ``path`` of a template, and what would be right."""
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
            return f"must be at most {int(context['le']):,}, not {given}"
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
    match value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:80]}…"


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
