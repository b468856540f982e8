"""``tasker config``: what the settings are, whether they are right, and who said so."""

from __future__ import annotations

import click

from tasker.cli.commands import group
from tasker.cli.output import Output
from tasker.config.manager import ConfigManager


@group()
def config() -> None:
    """Show, validate and explain the settings."""


@config.command("show")
@click.argument("prefix", required=False, default="")
def show(prefix: str) -> None:
    """All settings and where each comes from, passwords masked; or those whose key begins with PREFIX."""
    from tasker.config.keys import render

    settings = ConfigManager.load()
    wanted = prefix.rstrip(".")
    values = {
        key: value
        for key, value in settings.flat().items()
        if not wanted or key == wanted or key.startswith(f"{wanted}.")
    }
    if not values:
        ConfigManager.explain(settings, prefix)  # raises, with the nearest key
    output = Output()
    if output.as_json:
        rows = [{"key": key, "value": value, "origin": str(settings.origin(key))} for key, value in values.items()]
    else:
        rows = [
            {"key": key, "value": render(value), "origin": str(settings.origin(key))} for key, value in values.items()
        ]
    output.table(rows, ["key", "value", "origin"], title=f"Settings, environment {settings.environment}")


@config.command("validate")
@click.option("--all", "every", is_flag=True, help="Every environment, not only the current one.")
def validate(every: bool) -> None:
    """Check the settings; all that is wrong is listed at once."""
    from tasker.config.problems import InvalidSettings

    output = Output()
    rows = []
    for environment in ConfigManager.environments() if every else [None]:
        try:
            settings = ConfigManager.load(environment)
        except InvalidSettings as error:
            if not output.as_json:
                click.echo(error.message, err=True)
            rows.append({"environment": error.environment, "problems": [str(problem) for problem in error.problems]})
        else:
            rows.append({"environment": settings.environment, "problems": []})
    output.table([{**row, "valid": not row["problems"]} for row in rows], ["environment", "valid"])
    if any(row["problems"] for row in rows):
        raise click.exceptions.Exit(1)


@config.command("explain")
@click.argument("key")
def explain(key: str) -> None:
    """What KEY does, what it allows, what it is now, and which file or variable says so."""
    settings = ConfigManager.load()
    explanation = ConfigManager.explain(settings, key)
    known = explanation.key
    places = [f"{value} from {origin}" for origin, value in reversed(explanation.history)]
    Output().record(
        {
            "key": known.name,
            "value": explanation.value,
            "origin": str(settings.origin(key)),
            "overrides": places[1:],
            "meaning": known.description,
            "allowed": known.allowed,
            "variable": known.variable,
            "environment": settings.environment,
        }
    )
