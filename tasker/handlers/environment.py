"""``${ENV_VAR}`` and ``${ENV_VAR:-default}`` in a handler's settings, replaced just before the handler runs.

Templates are stored with the references in them, so that no secret reaches the database and each worker uses its own
environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from tasker.errors import PermanentError

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def has_references(value: object) -> bool:
    """Whether ``value``, a JSON value, holds a reference anywhere; most settings do not, and are passed on as is."""
    match value:
        case str():
            return "${" in value and _REFERENCE.search(value) is not None
        case Mapping():
            return any(has_references(item) for item in value.values())
        case list():
            return any(has_references(item) for item in value)
        case _:
            return False


def substitute(settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """``settings`` with every reference replaced by the variable's text.

    Args:
        settings: the step's ``handler.initialization``.
        environ: the variables; the process's own when ``None``.

    Raises:
        PermanentError: a variable is unset and its reference has no default; the message names the setting.
    """
    variables = os.environ if environ is None else environ
    return {key: _replace(value, key, variables) for key, value in settings.items()}


def _replace(value: Any, path: str, variables: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _REFERENCE.sub(lambda found: _lookup(found, path, variables), value) if "${" in value else value
        case Mapping():
            return {key: _replace(item, f"{path}.{key}", variables) for key, item in value.items()}
        case list():
            return [_replace(item, f"{path}[{index}]", variables) for index, item in enumerate(value)]
        case _:
            return value


def _lookup(found: re.Match[str], path: str, variables: Mapping[str, str]) -> str:
    name, default = found.group(1), found.group(2)
    text = variables.get(name)
    # As in a shell: `:-` also replaces a variable that is set to nothing.
    if default is not None and not text:
        return default
    if text is None:
        raise PermanentError(
            f"handler.initialization.{path} needs the environment variable {name}, which is not set in this worker; "
            f"set it, or give a default: ${{{name}:-value}}",
            code="environment_variable_unset",
        )
    return text
