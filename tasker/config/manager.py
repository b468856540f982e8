"""``ConfigManager``: loads, layers and validates the settings, and explains them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasker.config.files import Layer, environments, read_dir, settings_dirs
from tasker.config.keys import Key, find_key, nearest, nearest_key, render_masked
from tasker.config.layers import check_names, environment_layers, merge
from tasker.config.problems import InvalidSettings, Problem
from tasker.config.settings import Origin, Settings
from tasker.errors import ConfigurationError

ENVIRONMENT_VARIABLE = "TASKER_ENV"
DEFAULT_ENVIRONMENT = "development"

_WRONG_TYPE = ("_type", "_parsing")


@dataclass(frozen=True, slots=True)
class Explanation:
    """All about one setting.

    Attributes:
        key: its name, meaning and allowed values.
        value: what it resolves to, secrets masked, as TOML.
        history: every place that gives it a value (masked), the one that counts last.
    """

    key: Key
    value: str
    history: tuple[tuple[Origin, str], ...]


class ConfigManager:
    """Loads the settings of an environment.

    Order, later ones winning key by key: shipped ``base/``, shipped ``environments/<environment>/``, the same two of
    the user's settings folder, ``DATABASE_URL``, ``TASKER_<SECTION>__<KEY>``.
    """

    @staticmethod
    def load(
        environment: str | None = None,
        *,
        settings_dir: Path | str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read, layer and validate.

        Args:
            environment: ``development``, ``test``, ``production`` or one of the user's; ``TASKER_ENV`` when ``None``,
                else ``development``.
            settings_dir: the user's settings folder; ``TASKER_SETTINGS_DIR`` when ``None``, else ``./settings``.
            environ: environment variables; the process's own when ``None``.

        Raises:
            InvalidSettings: some settings are wrong; all of them are listed.
            ConfigurationError: no such environment or settings folder.
        """
        variables = os.environ if environ is None else environ
        folders = settings_dirs(None if settings_dir is None else Path(settings_dir), variables)
        name = environment or variables.get(ENVIRONMENT_VARIABLE) or DEFAULT_ENVIRONMENT
        _check_environment(name, environments(folders), given=environment is not None)

        problems: list[Problem] = []
        layers = [layer for folder in folders for layer in read_dir(folder, name, problems)]
        layers += environment_layers(variables, problems)
        for layer in layers:
            check_names(layer, problems)
        settings = _validate(merge(layers, problems), name, layers, problems)
        if settings is None or problems:
            raise InvalidSettings(problems, environment=name)
        settings.remember(_history(layers))
        return settings

    @staticmethod
    def environments(*, settings_dir: Path | str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
        """The environments that can be loaded."""
        variables = os.environ if environ is None else environ
        return environments(settings_dirs(None if settings_dir is None else Path(settings_dir), variables))

    @staticmethod
    def explain(settings: Settings, key: str) -> Explanation:
        """What ``key`` means, what it is, and who says so.

        Raises:
            ConfigurationError: there is no such setting; the nearest one is suggested.
        """
        known = find_key(key)
        if known is None:
            meant = nearest_key(key)
            raise ConfigurationError(
                f"there is no setting {key}",
                hint=f"did you mean {meant}?" if meant else "`tasker config show` lists all",
                field=key,
            )
        history = tuple((origin, render_masked(key, origin.value)) for origin in settings.history(key))
        return Explanation(known, render_masked(key, settings.get(key)), history)


def _check_environment(name: str, known: list[str], *, given: bool) -> None:
    if name not in known:
        meant = nearest(name, known)
        raise ConfigurationError(
            f'there is no environment "{name}"{"" if given else f" ({ENVIRONMENT_VARIABLE})"}',
            hint=f"did you mean {meant}?" if meant else f"there are: {', '.join(known)}",
        )


def _history(layers: list[Layer]) -> dict[str, tuple[Origin, ...]]:
    history: dict[str, list[Origin]] = {}
    for layer in layers:
        for key in layer.values:
            history.setdefault(key, []).append(layer.origins[key])
    return {key: tuple(origins) for key, origins in history.items()}


def _validate(
    values: dict[str, Any], environment: str, layers: list[Layer], problems: list[Problem]
) -> Settings | None:
    """The settings, or ``None`` and why not in ``problems``.

    Bad values are replaced by their defaults for a second look, so that contradictions among the good ones show too.
    """
    history = _history(layers)
    bad: set[str] = set()
    try:
        return Settings.model_validate({**values, "environment": environment})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "tasker_relations":
                _add_violations(detail["ctx"]["violations"], values, history, bad, problems)
                return None
            key = _key_of(detail["loc"])
            if key in bad:
                continue  # several entries of one list
            bad.add(key)
            problems.append(_value_problem(key, detail, history))
    for key in bad:
        _remove(values, key)
    try:
        Settings.model_validate({**values, "environment": environment})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _add_violations(detail["ctx"]["violations"], values, history, bad, problems)
    return None


def _key_of(location: tuple[int | str, ...]) -> str:
    """The setting that an error is about: the location without list indexes."""
    return ".".join(part for part in location if isinstance(part, str))


def _value_problem(key: str, detail: Any, history: Mapping[str, tuple[Origin, ...]]) -> Problem:
    known = find_key(key)
    assert known is not None, key  # check_names took out what is unknown
    origin = history[key][-1]
    message = f"must be {known.allowed}"
    if detail["type"] == "tasker_value":
        message += f"; {detail['ctx']['allowed']}" if detail["ctx"]["allowed"] not in known.allowed else ""
    elif detail["type"] == "literal_error" and isinstance(origin.value, str):
        choices = [choice.strip().strip('"') for choice in known.allowed.removeprefix("one of ").split(",")]
        meant = nearest(origin.value, choices)
        message += f'; did you mean "{meant}"?' if meant else ""
    elif detail["type"].endswith(_WRONG_TYPE) and isinstance(origin.value, str) and "number" in known.allowed:
        message += ", without quotes"
    return Problem(key, str(origin), render_masked(key, origin.value), message)


def _add_violations(
    found: Any,
    values: Mapping[str, Any],
    history: Mapping[str, tuple[Origin, ...]],
    bad: set[str],
    problems: list[Problem],
) -> None:
    for violation in found:
        if bad.isdisjoint(violation.keys):
            key = violation.keys[0]
            # The blame goes to the key that somebody set last; a default is seldom what has to change.
            origin = history[key][-1] if key in history else Origin("default")
            value = history[key][-1].value if key in history else None
            others = ", ".join(
                f"{other} is from {history[other][-1]}" for other in violation.keys[1:] if other in history
            )
            message = violation.message + (f" ({others})" if others else "")
            problems.append(Problem(key, str(origin), None if value is None else render_masked(key, value), message))


def _remove(values: dict[str, Any], key: str) -> None:
    *tables, name = key.split(".")
    for table in tables:
        values = values[table]
    del values[name]
