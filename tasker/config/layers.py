"""Layering by dynaconf: shipped files, the user's files, environment variables; later ones win, key by key.

Importing dynaconf costs about a tenth of a second, so only loading does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasker.config.files import Layer
from tasker.config.keys import all_keys, all_sections, nearest, render_masked
from tasker.config.problems import Problem

PREFIX = "TASKER_"


def environment_layers(environ: Mapping[str, str], problems: list[Problem]) -> list[Layer]:
    """What the environment variables say: ``DATABASE_URL``, and above it ``TASKER_<SECTION>__<KEY>``.

    Variables with the prefix and without ``__`` are not settings (``TASKER_ENV``), unless one is plainly a setting that
    lost an underscore.
    """
    from dynaconf.utils.parse_conf import boolean_fix, parse_conf_data

    common, own = Layer(), Layer()
    if environ.get("DATABASE_URL"):
        common.add("database.url", environ["DATABASE_URL"], "environment variable DATABASE_URL")
    known_variables = {key.variable.replace("__", "_"): key.variable for key in all_keys().values()}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        if "__" in name:
            key = name.replace("__", ".").lower()
            secret = key in all_keys() and all_keys()[key].secret
            value = text if secret else parse_conf_data(boolean_fix(text), tomlfy=True)
            own.add(key, value, f"environment variable {variable}")
        elif meant := known_variables.get(variable.upper()):
            problems.append(
                Problem("", f"environment variable {variable}", None, f"is not read; did you mean {meant}?")
            )
    return [common, own]


def check_names(layer: Layer, problems: list[Problem]) -> None:
    """Take unknown keys out of ``layer`` and say what each should have been."""
    keys, sections = all_keys(), all_sections()
    for key in list(layer.values):
        if key in keys or (key.endswith(".") and key.removesuffix(".") in sections):
            continue
        value, origin = layer.values[key], layer.origins[key]
        shown = None if key.endswith(".") else render_masked(key, value)
        problems.append(Problem(key.removesuffix("."), str(origin), shown, _what_is_wrong(key.removesuffix("."))))
        del layer.values[key]


def merge(layers: Iterable[Layer]) -> dict[str, Any]:
    """The nested tables that result when later layers win; lists are replaced, not joined."""
    from dynaconf import Dynaconf
    from dynaconf.loaders.base import SourceMetadata

    merged = Dynaconf(
        envvar_prefix=None, settings_files=[], environments=False, load_dotenv=False, loaders=[], core_loaders=[]
    )
    for layer in layers:
        for key, value in layer.values.items():
            if not key.endswith("."):
                source = SourceMetadata("tasker", str(layer.origins[key]), "global")
                merged.set(key, value, dotted_lookup=True, loader_identifier=source)
    sections = {key.partition(".")[0] for key in all_keys()}
    return {name.lower(): value for name, value in merged.as_dict().items() if name.lower() in sections}


def _what_is_wrong(key: str) -> str:
    keys, sections = all_keys(), all_sections()
    if key in sections:
        return "is a table of settings, not a value"
    parent = key
    while parent := parent.rpartition(".")[0]:
        if parent in keys:
            return f"unknown key: {parent} is a single value ({keys[parent].allowed})"
    if key.startswith("executor_pools.step_executor.processing_timeout_ms"):
        return "unknown key: steps have their own deadline, system.step_execution_timeout_seconds or timeout_seconds"
    meant = nearest(key, keys)
    if meant is None and (section := nearest(key.partition(".")[0], {name.partition(".")[0] for name in keys})):
        tail = key.partition(".")[2]
        meant = nearest(f"{section}.{tail}", keys) if tail else section
    if meant is not None:
        return f"unknown key; did you mean {meant}?"
    section = key.partition(".")[0]
    inside = [name for name in keys if name.startswith(f"{section}.")]
    if inside:
        return f"unknown key; {section} has {', '.join(name.removeprefix(f'{section}.') for name in inside)}"
    return f"unknown section; there are {', '.join(sorted({name.partition('.')[0] for name in keys}))}"
