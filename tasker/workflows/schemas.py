"""JSON Schema: checking the schemas that templates carry, and checking values against them.

Compiled once, used for every context and every result of a version. ``format`` is enforced. References to other
documents are refused: a worker must not fetch from the network to know whether a context is right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from tasker.encoding import decode, encode

MAX_ERRORS_SHOWN = 5
MAX_ERROR_LENGTH = 300
COMPILED_KEPT = 4_096

DIALECTS = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
}

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


@dataclass(frozen=True)
class Mismatch:
    """One place where a value does not fit its schema.

    Attributes:
        path: keys and indexes to the place; empty for the whole value.
        message: how it differs, bounded in length.
    """

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        return f"{pointer(self.path)}: {self.message}" if self.path else self.message


class SchemaInvalid(ValueError):
    """A JSON Schema is itself wrong.

    Attributes:
        path: keys and indexes to the wrong part of the schema.
        message: what is wrong with it.
    """

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


class Schema:
    """A compiled JSON Schema (2020-12, or draft-07 where ``$schema`` says so)."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Compile ``document``.

        Raises:
            SchemaInvalid: it is no JSON Schema of a known draft, or refers to another document.
        """
        dialect = document.get("$schema", next(iter(DIALECTS)))
        validator = DIALECTS.get(dialect.rstrip("#")) if isinstance(dialect, str) else None
        if validator is None:
            raise SchemaInvalid(("$schema",), f"must be one of {', '.join(DIALECTS)}, not {dialect!r}")
        try:
            jsonschema_rs.meta.validate(document)
        except jsonschema_rs.ValidationError as error:
            raise SchemaInvalid(tuple(error.instance_path), _short(_about_schema(error))) from error
        try:
            self._validator = validator(document, validate_formats=True, retriever=_refuse)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise _uncompiled(document, error) from error

    def fits(self, value: Any) -> bool:
        """Whether ``value``, a JSON value, fits.

        Raises:
            ValueError: it holds something JSON does not have.
        """
        return bool(self._validator.is_valid(value))

    def mismatches(self, value: Any, limit: int = MAX_ERRORS_SHOWN) -> tuple[list[Mismatch], bool]:
        """Where ``value`` does not fit, at most ``limit`` places, and whether there are more."""
        found: list[Mismatch] = []
        for error in self._validator.iter_errors(value):
            for mismatch in _mismatches(error):
                if len(found) == limit:
                    return found, True
                found.append(mismatch)
        return found, False

    def explain(self, value: Any) -> tuple[str, tuple[str | int, ...]] | None:
        """One bounded sentence on how ``value`` differs, with the first place; ``None`` if it fits."""
        if self.fits(value):
            return None
        found, more = self.mismatches(value)
        text = "; ".join(str(mismatch) for mismatch in found)
        return (f"{text}; and more" if more else text), found[0].path


def compile_schema(document: Mapping[str, Any]) -> Schema:
    """The compiled form of ``document``, the same object for equal documents while it is in use.

    Raises:
        SchemaInvalid: it is no JSON Schema.
    """
    return _compile(encode(document, what="a JSON Schema"))


@functools.lru_cache(maxsize=COMPILED_KEPT)
def _compile(encoded: bytes) -> Schema:
    return Schema(decode(encoded))


def pointer(path: tuple[str | int, ...]) -> str:
    """``path`` as people write it: ``items[0].sku``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _mismatches(error: jsonschema_rs.ValidationError) -> Iterator[Mismatch]:
    """One error of the validator as people look for it: at the key that is missing or too much, not at its parent."""
    path = tuple(error.instance_path)
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required() as kind:
            yield Mismatch((*path, _short(str(kind.property))), "is required")
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties() as kind:
            for name in kind.unexpected:
                yield Mismatch((*path, _short(str(name))), "is not allowed here")
        case _:
            yield Mismatch(path, _short(error.message))


def _about_schema(error: jsonschema_rs.ValidationError) -> str:
    if error.instance_path and error.instance_path[-1] == "type":
        return f"must be {', '.join(_TYPES)}, or a list of these, not {error.instance!r}"
    return error.message


def _short(message: str) -> str:
    return message if len(message) <= MAX_ERROR_LENGTH else message[: MAX_ERROR_LENGTH - 1] + "…"


def _refuse(uri: str) -> Any:
    raise ValueError(uri)


def _uncompiled(document: Any, error: Exception) -> SchemaInvalid:
    """The error of a schema that is well formed and cannot be compiled: mostly a reference that leads nowhere."""
    for path, reference in _references(document, ()):
        if not reference.startswith("#"):
            return SchemaInvalid(path, f"refers to {_short(reference)}; a schema may refer to its own parts only")
        if not _exists(document, reference[1:]):
            return SchemaInvalid(path, f"refers to {_short(reference)}, which is not there")
    message = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
    return SchemaInvalid((), _short(message.splitlines()[0]))


def _references(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "$ref" and isinstance(item, str):
                yield (*path, key), item
            yield from _references(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, (*path, index))


def _exists(document: Any, fragment: str) -> bool:
    value = document
    for part in fragment.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False
    return True
