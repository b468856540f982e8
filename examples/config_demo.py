"""What the settings resolve to in each environment, and which file or variable says so.

    python examples/config_demo.py                          # the shipped settings, and ./settings over them
    DATABASE_URL=postgresql://db/shop python examples/config_demo.py
    TASKER_DATABASE__POOL__MAX_CONNECTIONS=20 python examples/config_demo.py
    python examples/config_demo.py --json

``tasker config show``, ``validate`` and ``explain KEY`` tell the same about one environment.
"""

from __future__ import annotations

import sys
from typing import Any

from tasker.cli.output import Output
from tasker.config.keys import render
from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.errors import ConfigurationError


def resolved(settings: dict[str, Settings]) -> list[dict[str, Any]]:
    """One row per key: its value in each environment, passwords masked."""
    values = {environment: each.flat() for environment, each in settings.items()}
    keys = next(iter(values.values()))
    return [{"key": key, **{environment: values[environment][key] for environment in values}} for key in keys]


def differences(settings: dict[str, Settings]) -> list[dict[str, Any]]:
    """One row per value that is not the same everywhere: who gives it, and what it replaces."""
    rows = []
    for row in resolved(settings):
        key = row["key"]
        if all(row[environment] == row[next(iter(settings))] for environment in settings):
            continue
        for environment, each in settings.items():
            *replaced, last = ConfigManager.explain(each, key).history
            rows.append(
                {
                    "key": key,
                    "environment": environment,
                    "value": row[environment],
                    "from": str(last[0]),
                    "instead of": [value for _, value in replaced],
                }
            )
    return rows


def main(arguments: list[str]) -> int:
    """Print both tables; 1 when the settings are wrong."""
    output = Output(as_json="--json" in arguments)
    try:
        settings = {environment: ConfigManager.load(environment) for environment in ConfigManager.environments()}
    except ConfigurationError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if output.as_json:
        output.text("", resolved=resolved(settings), differences=differences(settings))
        return 0
    environments = list(settings)
    rows = [{"key": row["key"], **{name: render(row[name]) for name in environments}} for row in resolved(settings)]
    output.table(rows, ["key", *environments], title="What the settings resolve to")
    print()
    rows = [{**row, "value": render(row["value"])} for row in differences(settings)]
    output.table(rows, ["key", "environment", "value", "from", "instead of"], title="Where environments differ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
