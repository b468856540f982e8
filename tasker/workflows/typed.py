"""Types of Python as JSON Schema, and JSON values as instances of those types."""

from __future__ import annotations

import sys
import typing
from typing import Any

import typing_extensions
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from tasker.encoding import encode

_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_OF_VALUES = frozenset({"default", "const", "enum", "examples", "required", "dependentRequired"})


class TypeUnusable(ValueError):
    """An annotation has no JSON form; the message begins with the annotation."""


class TypedValue:
    """A type that JSON values are turned into, or come from.

    Args:
        annotation: a pydantic model, dataclass, TypedDict, or anything pydantic knows.

    Raises:
        TypeUnusable: pydantic does not know it.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(_understood(annotation))
        except PydanticSchemaGenerationError as error:
            raise TypeUnusable(f"{show(annotation)}, which has no JSON form") from error
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
            raise TypeUnusable(f"{show(annotation)}, which has no JSON form: {_first_line(error)}") from error

    @property
    def name(self) -> str:
        """The type as people write it."""
        return show(self.annotation)

    def to_json(self, value: Any) -> Any:
        """The JSON value of an instance; values of another type are taken as what they are.

        Raises:
            pydantic_core.PydanticSerializationError: it has none.
        """
        return self._adapter.dump_python(value, mode="json", by_alias=True, warnings=False)

    def from_json(self, value: Any) -> Any:
        """The instance that the JSON value ``value`` stands for.

        Raises:
            pydantic.ValidationError: it stands for none.
        """
        try:
            return self._adapter.validate_python(value)
        except ValidationError:
            # Strict models take a date from JSON text only, not from the string of a decoded value.
            return self._adapter.validate_json(encode(value))

    def schema(self, mode: JsonSchemaMode) -> dict[str, Any] | None:
        """The type's JSON Schema, without titles and descriptions; ``None`` if it allows everything.

        Args:
            mode: ``validation`` for what comes in, ``serialization`` for what goes out.

        Raises:
            TypeUnusable: it has none.
        """
        try:
            found = self._adapter.json_schema(mode=mode, schema_generator=_Generator)
        except PydanticInvalidForJsonSchema as error:
            raise TypeUnusable(f"{show(self.annotation)}, which has no JSON Schema: {_first_line(error)}") from error
        # Editing a docstring must not make another definition of a version in use.
        return _bare(found) or None


def describe(error: ValidationError, limit: int = 5) -> str:
    """What a validation found, bounded: ``items[0].quantity: Input should be a valid integer; …``."""
    parts = []
    for details in error.errors(include_url=False, include_input=False, include_context=False)[:limit]:
        path = ""
        for part in details["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        parts.append(f"{path}: {details['msg']}" if path else details["msg"])
    if error.error_count() > limit:
        parts.append("and more")
    return "; ".join(parts)


def show(annotation: Any) -> str:
    """An annotation as people write it."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


class _Generator(GenerateJsonSchema):
    """Leaves out formats that are narrower than the type: a datetime without a zone is no RFC 3339 date-time."""

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return {"type": "string"}

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return {"type": "string"}

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return {"type": "string"} if self._config.ser_json_timedelta == "iso8601" else {"type": "number"}

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        return {"type": "string"}


def _bare(schema: Any, names: bool = False) -> Any:
    """``schema`` without titles and descriptions; in a mapping of ``names`` those are names of properties."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in _OF_VALUES and not names else _bare(value, key in _OF_NAMES and not names)
        for key, value in schema.items()
        if names or key not in ("title", "description")
    }


def _understood(annotation: Any) -> Any:
    """``annotation`` in the form pydantic takes: before Python 3.12 it refuses ``typing.TypedDict``."""
    if sys.version_info >= (3, 12) or not typing.is_typeddict(annotation):
        return annotation
    fields = {}
    for name, hint in typing_extensions.get_type_hints(annotation, include_extras=True).items():
        required = name in annotation.__required_keys__
        origin: Any = typing_extensions.get_origin(hint)
        if origin in (typing_extensions.Required, typing_extensions.NotRequired):
            # Annotations that are strings say this too late for __required_keys__.
            required = origin is typing_extensions.Required
            (hint,) = typing_extensions.get_args(hint)
        marker = typing_extensions.Required if required else typing_extensions.NotRequired
        fields[name] = marker[_understood(hint)]
    return typing_extensions.TypedDict(annotation.__name__, fields)  # type: ignore[operator]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
