"""The command ``tasker``. Each command group is one module of this package, imported only when it is used."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click

from tasker.cli.commands import Group, ShowsErrors, json_option

_SHARED = frozenset({"commands", "demo_screen", "moments", "output", "remote", "values"})
"""Modules of this package that are no commands."""


class LazyGroup(ShowsErrors, Group):
    """Finds the module of a command when the command is called: ``tasker/cli/queue.py`` has the command ``queue``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all command modules."""
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called ``cmd_name``, imported now."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return found


@click.group("tasker", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--environment", "-e", metavar="NAME", help="Environment of the settings; TASKER_ENV otherwise.")
@click.option(
    "--settings-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Your settings folder; TASKER_SETTINGS_DIR, then ./settings otherwise.",
)
@click.version_option(package_name="tasker-celery", prog_name="tasker")
@click.pass_context
def main(context: click.Context, /, environment: str | None, settings_dir: Path | None, **_preload: object) -> None:
    """Durable workflows on Celery and PostgreSQL."""
    # This is also the command `celery tasker` (entry point `celery.commands`), which every Celery program on the
    # machine loads: nothing is imported here that is not needed to name it. An app may add options to all of them.
    # As variables they reach everything that loads settings, in processes started from here too.
    for variable, value in (
        ("TASKER_ENV", environment),
        ("TASKER_SETTINGS_DIR", None if settings_dir is None else str(settings_dir.resolve())),
    ):
        if value is not None:
            context.call_on_close(_restorer(variable))
            os.environ[variable] = value


main.params.append(json_option())


def _restorer(variable: str) -> Callable[[], None]:
    """What puts ``variable`` back as it is now; for programs that call ``main`` and go on."""
    before = os.environ.get(variable)

    def restore() -> None:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before

    return restore
