"""The reference of the settings: every key, from the models that check them."""

from __future__ import annotations

import tomllib
from typing import Any

from docs.pages.markdown import code, from_docstring, page, prose, table
from tasker.config.keys import FREE, Key, all_keys, render
from tasker.config.resources import resource_dir
from tasker.config.settings import Settings

INTRO = """
Settings are TOML tables, one file per concern. These places are read in this order; what comes later wins, key by
key:

1. what Tasker ships, `base/*.toml`, then `environments/<environment>/*.toml`;
2. the same two of your own settings folder: `TASKER_SETTINGS_DIR`, else `./settings` where there is one;
3. `DATABASE_URL`, for `database.url`;
4. `TASKER_<SECTION>__<KEY>`, as each key below names it. Values are TOML (`true`, `15`, `["a", "b"]`); a list may
   also be written `a,b`.

`TASKER_ENV` picks the environment: `development` where it is not set, `test`, `production`, or one of your own (a
folder in `environments/`). Tables decide, not file names, and a key may stand in one file of a folder only.

All settings are checked when a program starts, and everything that is wrong is told at once, with its file, line and
what is allowed; see [bad input](bad_input.md#settings). `tasker config show` prints all values and where each is
from, `tasker config explain KEY` one of them, `tasker config validate --all` checks every environment.
"""


def make() -> str:
    """The page."""
    parts = []
    for sections in _alike():
        parts.append(f"## {_heading(sections)}")
        parts.append(prose(from_docstring((_model(sections[0]).__doc__ or "").strip().split("\n\n")[0])))
        keys = [key for key in all_keys().values() if key.name.rpartition(".")[0] == sections[0]]
        parts.append(table(["key", "default", "allowed", "meaning"], [_row(key, sections) for key in keys]))
    return page("Settings", INTRO, *parts, "## What environments change", _environments())


def _alike() -> list[list[str]]:
    """The sections in their order; those of one class and one table together."""
    found: list[list[str]] = []
    for name in all_keys():
        section = name.rpartition(".")[0]
        if not found or section not in found[-1]:
            parent = section.rpartition(".")[0]
            same = found and parent and found[-1][0].rpartition(".")[0] == parent
            if same and _model(found[-1][0]) is _model(section):
                found[-1].append(section)
            else:
                found.append([section])
    return found


def _model(section: str) -> Any:
    """The class of a section."""
    model: Any = Settings
    for name in section.split("."):
        model = model.free if name == FREE else model.model_fields[name].annotation
    return model


def _heading(sections: list[str]) -> str:
    parent = sections[0].rpartition(".")[0]
    return sections[0] if len(sections) == 1 else f"{parent}.<{'|'.join(each.rpartition('.')[2] for each in sections)}>"


def _row(key: Key, sections: list[str]) -> list[str]:
    name = key.name.rpartition(".")[2]
    variable = key.variable
    if len(sections) > 1:
        part = sections[0].rpartition(".")[2].upper()
        variable = variable.replace(f"__{part}__", "__<…>__")
    variables = code(variable) + (", `DATABASE_URL`" if key.name == "database.url" else "")
    return [
        f"{code(name)}<br>{variables}",
        _default(key, [all_keys()[f"{section}.{name}"] for section in sections]),
        key.allowed.replace('"', "`"),
        from_docstring(key.description),
    ]


def _default(key: Key, of_all: list[Key]) -> str:
    shown = code(render(list(key.default) if isinstance(key.default, tuple) else key.default))
    if key.derived is not None:
        plain = key.default is None or key.derived.startswith(render(key.default))
        return key.derived if plain else f"{shown}: {key.derived}"
    if key.default is None:
        return "unset"
    others = [
        f"{each.name.split('.')[-2]} {code(render(each.default))}" for each in of_all if each.default != key.default
    ]
    return f"{shown}; {', '.join(others)}" if others else shown


def _environments() -> str:
    """What the shipped environments say otherwise."""
    rows = []
    for folder in sorted((resource_dir("settings") / "environments").iterdir()):
        for path in sorted(folder.glob("*.toml")):
            for key, value in _flat(tomllib.loads(path.read_text(encoding="utf-8")), ""):
                rows.append([folder.name, code(key), code(render(value))])
    return table(["environment", "key", "value"], rows)


def _flat(tables: dict[str, object], prefix: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in tables.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
