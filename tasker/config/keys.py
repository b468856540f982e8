"""The index of all keys: what each one means, what it allows, and which one a misspelt name may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasker.config.settings import Settings

MASK = "********"

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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` most likely was meant to be, or ``None`` if none is like it."""
    candidates = list(known)
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=0.75)
    if found:
        return found[0]
    # A key cut short ("pgmq.notify").
    longer = [candidate for candidate in candidates if candidate.startswith(name)]
    if len(longer) == 1:
        return longer[0]
    # The right key in the wrong section ("database.max_connections", "orchestration.batch_size").
    leaf = name.rpartition(".")[2]
    same_leaf = [candidate for candidate in candidates if candidate.rpartition(".")[2] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda candidate: difflib.SequenceMatcher(None, name, candidate).ratio())
    by_leaf = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
    found = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.8)
    return by_leaf[found[0]] if found else None


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
    known = all_keys().get(key)
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
