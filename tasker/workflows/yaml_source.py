"""Reading YAML that other people wrote: safe, bounded, and with the line of every value.

The parser's events are turned into plain JSON values here, instead of by a constructor, for four things that a
constructor does not give: the line of each field, an error for a key that stands twice, limits on depth and size that
hold *after* aliases are expanded (a file of 1 kB can stand for gigabytes), and no types but those JSON has.
Plain words follow YAML 1.2: ``yes``, ``on`` and ``12:30`` are strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

from tasker.workflows.problems import InvalidTemplate, Problem

SUFFIXES = (".yaml", ".yml")
"""How the names of templates' files end."""

MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 200_000
"""The largest workflow that the settings allow by default, 10,000 steps, fits into all three."""

Path_ = tuple[str | int, ...]
"""Keys and indexes from the document's top to one value."""


@dataclass(frozen=True)
class Place:
    """Where a value stands: its line, from 1, and its path as it is written there."""

    line: int
    written: Path_


@dataclass(frozen=True)
class Source:
    """One document that was read.

    Attributes:
        value: its JSON value.
        file: where it came from, for messages.
        places: where each value stands, by its path.
        redirects: paths that were renamed or taken from elsewhere after reading, and where they stand in the file.
        line: where the whole stands, for definitions that are not read from a file.
    """

    value: Any
    file: str | None = None
    places: Mapping[Path_, Place] = field(default_factory=dict)
    redirects: Mapping[Path_, Path_] = field(default_factory=dict)
    line: int | None = None

    def place(self, path: Path_) -> Place | None:
        """Where ``path`` stands, or the nearest enclosing value that stands in the document."""
        path = self._written(path)
        for length in range(len(path), -1, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return Place(found.line, path)
        return None if self.line is None else Place(self.line, path)

    def problem(self, message: str, path: Path_ = (), *, environment: str | None = None) -> Problem:
        """A problem with the value at ``path``, placed where a person finds it."""
        place = self.place(path)
        written = self._written(path) if place is None else place.written
        step = None
        match written:
            case ("environments", str() as name, "steps", int() as index, *rest):
                environment, step, written = name, self._step_name(written[:4], index), tuple(rest)
            case ("environments", str() as name, *rest) if rest:
                environment, written = name, tuple(rest)
            case ("steps", int() as index, *rest):
                step, written = self._step_name(written[:2], index), tuple(rest)
            case _:
                pass
        line = None if place is None else place.line
        return Problem(message, dotted(written), step=step, environment=environment, file=self.file, line=line)

    def _written(self, path: Path_) -> Path_:
        for _ in range(4):
            for length in range(len(path), 0, -1):
                target = self.redirects.get(path[:length])
                if target is not None:
                    path = target + path[length:]
                    break
            else:
                break
        return path

    def _step_name(self, path: Path_, index: int) -> str:
        value = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return f"#{index + 1}"
        name = value.get("name") if isinstance(value, dict) else None
        return name if isinstance(name, str) else f"#{index + 1}"


def read_source(source: Path | str) -> Source:
    """Read one YAML document.

    Args:
        source: a file, or a text; a text that can only be the name of a file is taken as that.

    Raises:
        InvalidTemplate: it cannot be read, is not YAML, holds several documents, or is beyond a limit.
    """
    if isinstance(source, str) and "\n" not in source and source.endswith(SUFFIXES):
        source = Path(source)
    if isinstance(source, Path):
        return _parse(_read(source), str(source))
    return _parse(source, None)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidTemplate([Problem(f"cannot be read: {error.strerror or error}", file=str(path))]) from error
    try:
        # A cut in the middle of a character is no concern: the length is refused anyway.
        return data.decode("utf-8-sig", "ignore" if len(data) > MAX_BYTES else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidTemplate([Problem("is not UTF-8 text: save it as UTF-8", file=str(path), line=line)]) from error


def _parse(text: str, file: str | None) -> Source:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidTemplate([Problem(f"is longer than {MAX_BYTES:,} bytes, the most a template may have", file=file)])
    builder = _Builder(file)
    try:
        value = builder.document(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise InvalidTemplate([Problem(f"is not valid YAML: {what}", file=file, line=line)]) from error
    except YAMLError as error:
        raise InvalidTemplate([Problem(f"is not valid YAML: {error}".splitlines()[0], file=file)]) from error
    return Source(value, file, builder.places)


@dataclass
class _Anchored:
    """What an anchor stands for; ``value`` is missing while the anchored value itself is still being read."""

    complete: bool = False
    value: Any = None
    nodes: int = 0
    depth: int = 0


class _Builder:
    """One pass over the parser's events, building values and noting lines."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.places: dict[Path_, Place] = {}
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._yaml = YAML(typ="safe", pure=True)

    def document(self, text: str) -> Any:
        events: Iterator[Event] = iter(self._yaml.parse(text))
        documents, value = 0, None
        for event in events:
            if not isinstance(event, DocumentStartEvent):
                continue
            documents += 1
            if documents > 1:
                raise self._refused("a file may hold one document only: give each template its own", event)
            if event.version == (1, 1):
                raise self._refused("templates are YAML 1.2: remove the line %YAML 1.1", event)
            value = self._value(next(events), events, ())
        return value

    # -- values ---------------------------------------------------------------------------------------------

    def _value(self, event: Event, events: Iterator[Event], path: Path_) -> Any:
        self.places[path] = Place(event.start_mark.line + 1, path)
        self._count(1, len(path), event)
        if isinstance(event, AliasEvent):
            return self._alias(event, path)
        anchored = None
        if isinstance(event, NodeEvent) and event.anchor is not None:
            anchored = self._anchors[event.anchor] = _Anchored()
        before = self._nodes
        if isinstance(event, ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, SequenceStartEvent):
            self._check_tag(event)
            value = self._sequence(events, path)
        else:
            self._check_tag(event)
            value = self._mapping(events, path)
        if anchored is not None:
            anchored.complete, anchored.value = True, value
            anchored.nodes, anchored.depth = self._nodes - before, _levels(value)
        return value

    def _sequence(self, events: Iterator[Event], path: Path_) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(self._value(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[Event], path: Path_) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        lines: dict[str, int] = {}
        inherited: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            key = self._key(event)
            line = event.start_mark.line + 1
            if key in lines:
                raise self._refused(f"{key!r} stands twice in one mapping, first in line {lines[key]}", event, path)
            lines[key] = line
            value = self._value(next(events), events, (*path, key))
            # A field's line is where its name stands, also when the value begins further down.
            self.places[(*path, key)] = Place(line, (*path, key))
            if key == "<<" and self._is_merge(event):
                inherited = self._merged(value, event, path)
            else:
                fields[key] = value
        return {**inherited, **fields}

    def _key(self, event: Event) -> str:
        if isinstance(event, ScalarEvent):
            value = self._scalar(event)
            if isinstance(value, str):
                return value
            raise self._refused(f"the key {event.value!r} is not a string: put it in quotes", event)
        raise self._refused("a mapping's keys must be plain strings", event)

    def _is_merge(self, event: Event) -> bool:
        return isinstance(event, ScalarEvent) and event.style is None

    def _merged(self, value: Any, event: Event, path: Path_) -> dict[str, Any]:
        """What ``<<`` brings in: of several mappings, the earlier rules."""
        mappings = value if isinstance(value, list) else [value]
        result: dict[str, Any] = {}
        for mapping in mappings:
            if not isinstance(mapping, dict):
                raise self._refused("<< takes a mapping, or a list of mappings", event, path)
            result = {**mapping, **result}
        return result

    # -- aliases and limits -----------------------------------------------------------------------------------

    def _alias(self, event: AliasEvent, path: Path_) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise self._refused(f"the alias *{event.anchor} names no anchor before it", event, path)
        if not anchored.complete:
            raise self._refused(f"the alias *{event.anchor} stands inside what it repeats", event, path)
        self._count(anchored.nodes, len(path) + anchored.depth, event)
        return anchored.value

    def _count(self, nodes: int, depth: int, event: Event) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refused(f"holds more than {MAX_NODES:,} values, counting what aliases repeat", event)
        if depth > MAX_DEPTH:
            raise self._refused(f"is nested deeper than {MAX_DEPTH} levels", event)

    # -- scalars ----------------------------------------------------------------------------------------------

    def _scalar(self, event: ScalarEvent) -> Any:
        text: str = event.value
        tag = None if event.ctag is None else str(event.ctag)
        if tag is not None and tag not in ("!", "tag:yaml.org,2002:str"):
            self._check_tag(event)
        if tag is not None or not event.implicit[0]:
            return text
        kind = str(self._yaml.resolver.resolve(ScalarNode, text, (True, False))).rpartition(":")[2]
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._integer(text, event)
            case "float":
                return self._float(text, event)
            case _:
                # Dates stay the text they are: JSON has none.
                return text

    def _integer(self, text: str, event: Event) -> int:
        digits = text.replace("_", "").lower()
        try:
            # A leading zero is no octal in YAML 1.2; `0o17` is.
            value = int(digits, 0) if digits.lstrip("+-").startswith(("0x", "0o", "0b")) else int(digits, 10)
        except ValueError as error:
            raise self._refused(f"the number {text[:40]!r} cannot be read: put it in quotes", event) from error
        if not -(2**63) <= value < 2**63:
            raise self._refused(f"the number {text[:40]} has more than 64 bits: put it in quotes", event)
        return value

    def _float(self, text: str, event: Event) -> float:
        try:
            value = float(text.replace("_", ""))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._refused(f"{text[:40]!r} is no number that JSON can carry", event)
        return value

    def _check_tag(self, event: Event) -> None:
        tag = getattr(event, "ctag", None)
        if tag is not None:
            tag = str(tag)
        if tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self._refused(f"the tag {tag} is not allowed: templates hold plain values only", event)

    def _refused(self, message: str, event: Event, path: Path_ = ()) -> InvalidTemplate:
        return InvalidTemplate(
            [Problem(message, field=dotted(path), file=self.file, line=event.start_mark.line + 1)],
        )


def _levels(value: Any) -> int:
    """How many levels lie below ``value``; its size is bounded by then."""
    if isinstance(value, dict):
        return 1 + max(map(_levels, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_levels, value), default=0)
    return 0


def dotted(path: Path_) -> str:
    """``path`` as people write it: ``steps[2].retry.backoff``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
