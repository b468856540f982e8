"""The canonical document of a template, and its digest: what decides whether two definitions are the same.

The document holds what the author said, in the one spelling of the format and without what is left to defaults, plus
the overrides that apply. So writing ``limit`` for ``max_attempts`` or reordering fields changes nothing, and neither
does another default in the settings; a changed override does.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from pydantic import BaseModel

from tasker.workflows.model import Part, WorkflowTemplate


def canonical_document(template: WorkflowTemplate) -> dict[str, Any]:
    """The template as a JSON object, from which ``from_document`` makes an equal one."""
    return _fields(template)


def digest_of(template: WorkflowTemplate) -> str:
    """SHA-256, in hexadecimal, over the canonical document with sorted keys."""
    encoded = orjson.dumps(canonical_document(template), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(encoded).hexdigest()


def _fields(part: Part) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        said_null = value is None and name in part.null_says_something and name in part.model_fields_set
        if not said_null and value == field.get_default(call_default_factory=True):
            continue
        result[field.alias or name] = _value(value)
    return result


def _value(value: Any) -> Any:
    if isinstance(value, Part):
        return _fields(value)
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
        return {key: _value(item) for key, item in value.items()}
    return value
