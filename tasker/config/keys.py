"""The index of all keys: what each one means, what it allows, and which one a misspelt name may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasker.config.sections import Section
from tasker.config.settings import Settings

MASK = "********"

FREE = "<system>"
"""Stands, in the names of keys, for the name of a table that users choose."""

FREE_NAME = re.compile(r"[a-z0-9_-]+")
"""Names of such tables: what dotted names and environment variables can carry."""

_UNITS = frozenset({"", "seconds", "ms", "bytes", "interval", "timeout", "max", "min", "count", "size"})
"""Words that many keys share."""

_SECRET_IN_TEXT = re.compile(r"((?:ssl)?password|passfile)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&#]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        name: dotted (``orchestration.spare_slots``).
        description: what it does.
        allowed: the values it takes, in words.
        derived: how its default follows from other settings, or ``None`` for a plain default.
        default: its plain default.
        secret: whether its value is masked when shown.
    """

    name: str
    description: str
    allowed: str
    derived: str | None
    default: Any
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "TASKER_" + self.name.upper().replace(".", "__")


@cache
def all_keys() -> dict[str, Key]:
    """Every setting by its dotted name, in the order of the sections."""
    return {key.name: key for key in _walk(Settings, "", None)}


@cache
def all_sections() -> frozenset[str]:
    """Every dotted prefix that is a table of settings."""
    return frozenset(
        name[:end] for name in all_keys() for end in (index for index, char in enumerate(name) if char == ".")
    )


def find_key(name: str) -> Key | None:
    """The setting with that dotted name, also in a table whose own name is free (a system's circuit)."""
    known = all_keys().get(name)
    if known is not None or FREE in name:
        return None if FREE in name else known
    table, _, leaf = name.rpartition(".")
    generic = _generic(table)
    known = None if generic is None else all_keys().get(f"{generic}.{leaf}")
    return None if known is None else replace(known, name=name)


def is_table(name: str) -> bool:
    """Whether that dotted name is a table of settings."""
    return name in all_sections() or _generic(name) is not None


def keys_of(settings: Settings) -> dict[str, Key]:
    """Every setting by its dotted name, those in tables with free names as far as ``settings`` has such tables."""
    found: dict[str, Key] = {}
    for name, key in all_keys().items():
        if FREE not in name:
            found[name] = key
            continue
        parent, _, leaf = name.partition(f".{FREE}.")
        for table in getattr(settings.get(parent), "systems", {}):
            found[f"{parent}.{table}.{leaf}"] = replace(key, name=f"{parent}.{table}.{leaf}")
    return found


def _generic(table: str) -> str | None:
    """The name under which all tables like ``table`` are described, if its own name is free."""
    parent, _, name = table.rpartition(".")
    generic = f"{parent}.{FREE}"
    return generic if generic in all_sections() and FREE_NAME.fullmatch(name) else None


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that ``name`` most likely was meant to be, or ``None`` if none is like it."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def nearest_key(name: str) -> str | None:
    """The setting that ``name`` most likely was meant to be, or ``None`` if none is like it.

    Long common parts ("orchestration.", "_interval_seconds") make unlike keys look alike, so the words that carry the
    meaning must each be found, spelt roughly the same.
    """
    keys = [key for key in all_keys() if FREE not in key]
    section, _, leaf = name.lower().rpartition(".")
    top = section.partition(".")[0]
    likely = [key for key in keys if _same_meaning(leaf, key.rpartition(".")[2])]
    at_home = [key for key in likely if _alike(key.rpartition(".")[0], section) or key.partition(".")[0] == top]
    if not at_home:
        # In a section it does not belong to; a word like "enabled" is at home everywhere and says nothing.
        at_home = [key for key in likely if len(leaf) >= 8 and key.endswith(f".{leaf}")]
    return max(at_home, key=lambda key: difflib.SequenceMatcher(None, name, key).ratio(), default=None)


def siblings(name: str) -> tuple[str, list[str]]:
    """The innermost table that ``name`` rightly names, and what it has: keys, and tables with a dot behind."""
    table = name
    while table and not is_table(table):
        table = table.rpartition(".")[0]
    described = table if table in all_sections() else _generic(table) or ""
    prefix = f"{described}." if described else ""
    inside = [key.removeprefix(prefix) for key in all_keys() if key.startswith(prefix)]
    return table, list(dict.fromkeys(key.partition(".")[0] + ("." if "." in key else "") for key in inside))


def _alike(first: str, second: str, cutoff: float = 0.6) -> bool:
    return difflib.SequenceMatcher(None, first, second).ratio() >= cutoff


def _same_meaning(given: str, known: str) -> bool:
    if _alike(given.replace("_", ""), known.replace("_", ""), 0.92):
        return True
    words = set(given.split("_")) - _UNITS
    return bool(words) and all(any(_same_word(word, other) for other in known.split("_")) for word in words)


def _same_word(given: str, known: str) -> bool:
    return _alike(given, known, 0.8) or (len(given) >= 3 and known.startswith(given))


def mask(value: str) -> str:
    """A database URL or connection string without its password."""
    masked = value
    if "://" in value:
        try:
            parts = urlsplit(value)
        except ValueError:
            return MASK
        user, at, host = parts.netloc.rpartition("@")
        if at and ":" in user:
            masked = urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{MASK}@{host}"))
        elif not at and "@" in value:
            return MASK  # A password with an unescaped "/" or "?": cannot tell where it ends.
    return _SECRET_IN_TEXT.sub(rf"\1\2{MASK}", masked)


def render(value: object) -> str:
    """A value as it is written in TOML."""
    match value:
        case None:
            return "unset"
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
        case list() | tuple():
            return "[" + ", ".join(render(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {render(item)}" for key, item in value.items()) + "}"
        case _:
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'


def render_masked(key: str, value: object) -> str:
    """``value`` of ``key`` as it may be shown: without the password, if the key holds one."""
    known = find_key(key)
    # A misspelt or misplaced secret is a secret too.
    secret = known.secret if known is not None else isinstance(value, str) and ("://" in value or "password" in value)
    return render(mask(value)) if secret and isinstance(value, str) else render(value)


def _walk(model: type[BaseModel], prefix: str, defaults: BaseModel | None) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        annotation = field.annotation
        default = getattr(defaults, name) if defaults is not None else field.default
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{dotted}.", default)
        elif prefix:  # `environment` and other facts about the load are no settings
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            derived = extra.get("derived")
            yield Key(
                name=dotted,
                description=field.description or "",
                allowed=str(extra.get("allowed") or _allowed(field)),
                derived=None if derived is None else str(derived),
                default=default,
                secret=bool(extra.get("secret")),
            )
    if issubclass(model, Section) and model.free is not None:
        yield from _walk(model.free, f"{prefix}{FREE}.", None)


def _allowed(field: FieldInfo) -> str:
    annotation = _plain(field.annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if get_origin(annotation) is tuple:
        return "a list of strings"
    kind = {int: "a whole number", float: "a number"}[annotation]
    return f"{kind} {_bounds(field.metadata)}"


def _plain(annotation: Any) -> Any:
    """The type behind ``Annotated[...]`` and ``... | None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    choices = [choice for choice in get_args(annotation) if choice is not type(None)]
    if len(choices) == 1 and type(None) in get_args(annotation):
        return _plain(choices[0])
    return annotation


def _bounds(metadata: Iterable[object]) -> str:
    bounds = {name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le") if hasattr(item, name)}
    upper = f"{bounds['le']:,}"
    return f"from {bounds['ge']:,} to {upper}" if "ge" in bounds else f"above {bounds['gt']:,}, to {upper}"
