"""Settings files: which ones are read, and what each says on which line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasker.config.problems import Problem
from tasker.config.resources import resource_dir
from tasker.config.settings import Origin
from tasker.errors import ConfigurationError

SETTINGS_DIR_VARIABLE = "TASKER_SETTINGS_DIR"

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")
_ASSIGNMENT = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


@dataclass(slots=True)
class Layer:
    """What one source says: dotted key to value, and where.

    Attributes:
        values: dotted key to the value given.
        origins: dotted key to its place.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def add(self, key: str, value: Any, place: str, line: int | None = None) -> None:
        """Give ``key`` a value."""
        self.values[key] = value
        self.origins[key] = Origin(place, line, value)


def settings_dirs(explicit: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """The settings folders to read, the shipped one first, so that later ones win.

    Args:
        explicit: the user's folder; else ``TASKER_SETTINGS_DIR``, else ``./settings`` if it is such a folder.
        environ: the process's environment.

    Raises:
        ConfigurationError: a folder was asked for and is none.
    """
    shipped = resource_dir("settings")
    named = explicit or (Path(variable) if (variable := environ.get(SETTINGS_DIR_VARIABLE)) else None)
    if named is not None and not _is_settings_dir(named):
        said = "settings_dir" if explicit else SETTINGS_DIR_VARIABLE
        raise ConfigurationError(
            f"{said} names {named}, which is not a settings folder",
            hint="it needs base/*.toml or environments/<environment>/*.toml",
        )
    if named is None and _is_settings_dir(Path("settings")):
        named = Path("settings")
    if named is None or named.resolve() == shipped:
        return [shipped]
    return [shipped, named]


def environments(folders: list[Path]) -> list[str]:
    """The environments that these settings folders know."""
    found = {path.name for folder in folders for path in folder.glob("environments/*") if path.is_dir()}
    return sorted(name for name in found if not name.startswith("."))


def read_dir(folder: Path, environment: str, problems: list[Problem]) -> Iterator[Layer]:
    """The layers of one settings folder: its base, then its environment."""
    problems += [
        Problem("", shown(misplaced), None, "is not read here: move it into base/ or environments/<environment>/")
        for misplaced in sorted([*folder.glob("*.toml"), *folder.glob("environments/*.toml")])
    ]
    for part in (folder / "base", folder / "environments" / environment):
        yield _read_part(part, folder, problems)


def absolute_paths(value: Any, start: Path) -> Any:
    """A list of paths (or paths with commas between) with relative ones counted from ``start``; else as it is."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return value
    return [str(start / Path(item).expanduser()) for item in items if item]


def shown(path: Path) -> str:
    """``path`` as it is shown to people: short where it lies below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _is_settings_dir(folder: Path) -> bool:
    return any(folder.glob("base/*.toml")) or any(folder.glob("environments/*/*.toml"))


def _read_part(part: Path, folder: Path, problems: list[Problem]) -> Layer:
    """All files of one part as one layer; tables decide, not file names, so a key may stand in one file only."""
    layer = Layer()
    for path in sorted(part.glob("*.toml")):
        for key, value, line in _read_file(path, problems):
            twin = layer.origins.get(key)
            if twin is not None:
                problems.append(Problem(key, f"{shown(path)}:{line}", None, f"is also set in {twin}; keep one of them"))
                continue
            if key == "engine.template_paths":
                value = absolute_paths(value, folder.resolve().parent)
            layer.add(key, value, shown(path), line)
    return layer


def _read_file(path: Path, problems: list[Problem]) -> Iterator[tuple[str, Any, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(Problem("", shown(path), None, f"cannot be read as TOML: {error}"))
        return
    lines = _lines(text)
    for key, value in _flatten(document, ""):
        prefix = key
        while prefix and prefix not in lines:
            prefix = prefix.rpartition(".")[0]  # a member of an inline table is on the table's line
        yield key, value, lines.get(prefix, 1)


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{key}.")
        elif isinstance(value, dict):
            yield f"{key}.", {}  # an empty table: nothing is set, but its name must be known
        else:
            yield key, value


def _lines(text: str) -> dict[str, int]:
    """Line numbers of tables and keys; ``tomllib`` has none. The document is valid TOML already."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _dotted(header[1])
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = _dotted(assignment[1])
            found.setdefault(f"{table}.{key}" if table else key, number)
    return found


def _dotted(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
