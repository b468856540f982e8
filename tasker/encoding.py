"""Strict JSON: what is encoded here can be stored by PostgreSQL and read back as it was.

One encoder for contexts, results, messages and events. ``orjson`` alone accepts some values that ``jsonb`` refuses
(NUL characters) or changes silently (NaN becomes null); they are refused here, by path, before they travel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel

from tasker.errors import PayloadTooLarge, ValueNotStorable

JSONValue = Any
"""None, bool, int, float, str, a list of these or a dict of them with string keys."""

MAX_PATH_SHOWN = 100
_OPTIONS = orjson.OPT_UTC_Z


def encode(value: object, *, what: str = "value", max_bytes: int | None = None) -> bytes:
    """Encode ``value`` as UTF-8 JSON that a ``jsonb`` column stores unchanged.

    Args:
        value: JSON values, and also dataclasses, pydantic models, datetimes, UUIDs and enums.
        what: how errors name the value (``"results of step charge"``).
        max_bytes: the largest encoding allowed, in bytes.

    Raises:
        ValueNotStorable: something inside cannot be stored; ``field`` is its path.
        PayloadTooLarge: the encoding is longer than ``max_bytes``.
    """
    try:
        encoded = orjson.dumps(value, default=_default, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError) as error:
        path = _find_bad(value)
        raise ValueNotStorable(
            f"{what} cannot be stored as JSON{_at(path)}: {error}",
            hint="use plain JSON values: dict with string keys, list, str, int of 64 bits, finite float, bool, None",
            field=path,
        ) from error
    # NUL travels as a six-character escape and NaN as null: both are silent in orjson, so look for their traces only.
    if b"\\u0000" in encoded or b"null" in encoded:
        path = _find_bad(value)
        if path is not None:
            raise ValueNotStorable(
                f"{what} cannot be stored as JSON{_at(path)}: NaN, infinity and NUL characters have no place in jsonb",
                hint="replace them, for instance by null or an empty string",
                field=path,
            )
    if max_bytes is not None and len(encoded) > max_bytes:
        raise PayloadTooLarge(
            f"{what} is {len(encoded):,} bytes of JSON; {max_bytes:,} are allowed",
            hint="store the payload elsewhere and pass a reference",
        )
    return encoded


def decode(data: bytes | str | memoryview) -> JSONValue:
    """The value that ``data``, a JSON text, stands for.

    PostgreSQL's numbers reach further than a double, so what other languages stored may, too: such a number becomes an
    ``int``, which no answer with it in it can do without.

    Raises:
        ValueError: it is no JSON, or nested deeper than can be read.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            text = bytes(data) if isinstance(data, memoryview) else data
            return json.loads(text, parse_int=_number, parse_float=_number)
        except (ValueError, RecursionError):
            raise error from None


def _number(text: str) -> int | float:
    """As orjson reads numbers, and those beyond a double as whole ones."""
    if len(text) < 20 and text.removeprefix("-").isdigit():
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else int(Decimal(text))


def _default(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not a JSON value")


def _at(path: str | None) -> str:
    if not path:
        return ""
    return f" at {path}" if len(path) <= MAX_PATH_SHOWN else f" at {path[:MAX_PATH_SHOWN]}…"


def _find_bad(value: object, path: str = "$", depth: int = 0) -> str | None:
    """The path of the first value that cannot be stored, or ``None``."""
    if depth > 200:
        return path
    match value:
        case None | bool():
            return None
        case int():
            return None if -(2**63) <= value < 2**64 else path
        case float():
            return None if math.isfinite(value) else path
        case str():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                return path
            return path if "\0" in value else None
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    return f"{path}[{key!r}]"
                bad = _find_bad(key, f"{path}[{key!r}]", depth + 1) or _find_bad(item, f"{path}.{key}", depth + 1)
                if bad:
                    return bad
            return None
        case list() | tuple() | set() | frozenset():
            for index, item in enumerate(value):
                bad = _find_bad(item, f"{path}[{index}]", depth + 1)
                if bad:
                    return bad
            return None
        case BaseModel():
            return _find_bad(value.model_dump(mode="json"), path, depth + 1)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _find_bad(vars(value), path, depth + 1) if hasattr(value, "__dict__") else None
        case _:
            try:
                orjson.dumps(value)
            except (TypeError, ValueError):
                return path
            return None
