"""``tasker server``: the HTTP server; ``tasker-server``: with an orchestration worker and beat, as one program."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tasker.cli.commands import Command, ShowsErrors, command
from tasker.cli.up import Lines, beat_program, orchestration_program, server_program, stopped_by_signals

if TYPE_CHECKING:
    from tasker.config.sections import WebSettings
    from tasker.config.settings import Settings

STOP_SECONDS = 45.0
"""``tasker-server`` waits so long for its processes: longer than a worker's graceful shutdown."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_bind = click.option("--bind", metavar="ADDRESS:PORT", help="Where to listen, instead of web.bind_address.")
_loglevel = click.option(
    "--loglevel",
    "-l",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    default="warning",
    show_default=True,
    help="What is printed.",
)


@command()
@_bind
@_loglevel
def server(bind: str | None, loglevel: str) -> None:
    """Serve health and metrics over HTTP.

    On the database that DATABASE_URL or the settings name, else on the embedded PostgreSQL. SIGTERM ends it in order.
    """
    from tasker.config.manager import ConfigManager
    from tasker.core import OrchestrationCore
    from tasker.web.app import create_app
    from tasker.web.serving import serve

    logging.basicConfig(level=loglevel.upper(), format=LOG_FORMAT)
    settings = ConfigManager.load()
    web = settings.web if bind is None else _bound_to(bind)
    with OrchestrationCore.from_settings(settings, max_connections=settings.web.database_pool.max_connections) as core:
        serve(create_app(core), web.host, web.port, listening=lambda url: click.echo(f"Tasker's server: {url}"))


class _Program(ShowsErrors, Command):
    """A command that is a program of its own."""


@click.command("tasker-server", cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@_bind
@_loglevel
@click.option("--app", "-A", default="tasker", show_default=True, help="The Celery application.")
@click.version_option(package_name="tasker-celery", prog_name="tasker-server")
def supervised(bind: str | None, loglevel: str, app: str) -> None:
    """Serve HTTP, move tasks along and tick: `tasker server`, an orchestration worker and beat, as one program.

    What dies is started again. SIGTERM stops all in order. Steps are run by workers of yours.
    """
    from tasker.hosting.supervisor import Supervisor

    if bind is not None:
        _bound_to(bind)
    lines = Lines()
    with _database_that_fits(), tempfile.TemporaryDirectory(prefix="tasker-server-") as folder:
        programs = [
            server_program(bind, loglevel=loglevel),
            orchestration_program(loglevel),
            beat_program(Path(folder), loglevel),
        ]
        supervisor = Supervisor(programs, said=lines.said, event=lines.event, app=app)
        with stopped_by_signals(supervisor.stop, supervisor.kill):
            try:
                supervisor.start()
                lines.note(f"Started: {', '.join(program.name for program in programs)}.")
                supervisor.watch()
                lines.note("Stopping; what runs may finish.")
            finally:
                in_order = supervisor.end(STOP_SECONDS)
    lines.note("Stopped." if in_order else "Stopped; what did not end in time was killed, and is taken up next time.")


def _bound_to(address: str) -> WebSettings:
    from pydantic import ValidationError

    from tasker.config.sections import WebSettings

    try:
        return WebSettings(bind_address=address)
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"], param_hint="--bind") from None


@contextmanager
def _database_that_fits() -> Iterator[Settings]:
    """For the time of the block the database is up, and was seen to fit: else every process would say so, for ever."""
    from tasker.config.manager import ConfigManager
    from tasker.database import migrations
    from tasker.database.embedded import EmbeddedServer

    settings = ConfigManager.load()
    embedded = EmbeddedServer.start() if settings.database.url is None else None
    try:
        url = settings.database.url if embedded is None else embedded.url
        assert url is not None
        migrations.ensure(url, allowed=settings.database.migrate_on_start)
        yield settings
    finally:
        if embedded is not None:
            embedded.release()
