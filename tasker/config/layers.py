"""Layering by dynaconf: shipped files, the user's files, environment variables; later ones win, key by key.

Importing dynaconf costs about a tenth of a second, so only loading does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasker.config.circuits import CircuitSettings
from tasker.config.files import Layer, absolute_paths
from tasker.config.keys import all_keys, find_key, is_table, nearest, nearest_key, render_masked, siblings
from tasker.config.problems import Problem

PREFIX = "TASKER_"


def environment_layers(environ: Mapping[str, str], problems: list[Problem]) -> list[Layer]:
    """What the environment variables say: ``DATABASE_URL``, and above it ``TASKER_<SECTION>__<KEY>``.

    Variables with the prefix and without ``__`` are not settings (``TASKER_ENV``), unless one is plainly a setting that
    lost an underscore.
    """
    from dynaconf.utils.parse_conf import boolean_fix, parse_conf_data

    common, own = Layer(), Layer()
    if environ.get("DATABASE_URL"):  # empty is unset, for these as for the others: compose files write it so
        common.add("database.url", environ["DATABASE_URL"], "environment variable DATABASE_URL")
    known_variables = {key.variable.replace("__", "_"): key.variable for key in all_keys().values()}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX)
        if "__" in name:
            key = name.replace("__", ".").lower()
            place = f"environment variable {variable}"
            try:
                # A password may look like TOML, or like one of dynaconf's "@" directives; a URL is taken as it is.
                value = text if key == "database.url" else parse_conf_data(boolean_fix(text), tomlfy=True)
            except Exception as error:  # a directive ("@int x") fails with whatever its conversion raises
                # What the conversion said; dynaconf's words around it differ from release to release.
                said = error.__cause__ or error
                problems.append(Problem(key, place, render_masked(key, text), f"cannot be read: {said}"))
                continue
            own.add(key, absolute_paths(value, Path.cwd()) if key == "engine.template_paths" else value, place)
        elif meant := known_variables.get(variable.upper()):
            problems.append(
                Problem("", f"environment variable {variable}", None, f"is not read; did you mean {meant}?")
            )
    return [common, own]


def check_names(layer: Layer, problems: list[Problem]) -> None:
    """Take unknown keys out of ``layer`` and say what each should have been."""
    for key in list(layer.values):
        if find_key(key) is not None or (key.endswith(".") and is_table(key.removesuffix("."))):
            continue
        value, origin = layer.values[key], layer.origins[key]
        shown = None if key.endswith(".") else render_masked(key, value)
        problems.append(Problem(key.removesuffix("."), str(origin), shown, _what_is_wrong(key.removesuffix("."))))
        del layer.values[key]


def merge(layers: Iterable[Layer], problems: list[Problem]) -> dict[str, Any]:
    """The nested tables that result when later layers win; lists are replaced, not joined."""
    from dynaconf import Dynaconf
    from dynaconf.loaders.base import SourceMetadata

    def empty() -> Dynaconf:
        # Nothing is loaded on dynaconf's own initiative: no file it finds, no variable meant for another program.
        return Dynaconf(
            envvar_prefix=None, settings_files=[], environments=False, load_dotenv=False, loaders=[], core_loaders=[]
        )

    # Directives ("@format {env[PGHOST]}") are carried out one by one, so that a failing one can be named; where one
    # failed nothing else can be read, so they have an object of their own.
    merged, directives = empty(), empty()
    for layer in layers:
        for key, value in layer.values.items():
            if key.endswith("."):
                continue
            origin = layer.origins[key]
            try:
                directives.set("VALUE", value)
                resolved = directives.get("VALUE")
                resolved = [*resolved] if isinstance(resolved, list) else resolved
            except Exception as error:  # with whatever the directive raises
                problems.append(Problem(key, str(origin), render_masked(key, value), f"cannot be resolved: {error}"))
                continue
            merged.set(key, resolved, dotted_lookup=True, loader_identifier=SourceMetadata("tasker", str(origin), ""))
    sections = {key.partition(".")[0] for key in all_keys()}
    return {name.lower(): value for name, value in merged.as_dict().items() if name.lower() in sections}


def _what_is_wrong(key: str) -> str:
    keys = all_keys()
    if is_table(key):
        return "is a table of settings, not a value"
    part = key
    while part:
        if part in keys:
            return f"{part} is a single value ({keys[part].allowed})"
        part = part.rpartition(".")[0]
    if key.startswith("circuit_breakers.component_configs.") and key.rpartition(".")[2] in CircuitSettings.model_fields:
        return "is not read: the name of a system's table has lower-case letters, digits, _ and - only"
    if key == "executor_pools.step_executor.processing_timeout_ms":
        return "unknown key: steps have their own deadline, system.step_execution_timeout_seconds or timeout_seconds"
    meant = nearest_key(key)
    if meant is not None:
        return f"unknown key; did you mean {meant}?"
    table, inside = siblings(key)
    if table:
        return f"unknown key; {table} has {', '.join(inside)}"
    top = {name.partition(".")[0] for name in keys}
    section = nearest(key.partition(".")[0], top)
    return "unknown section; " + (f"did you mean {section}?" if section else f"there are {', '.join(sorted(top))}")
