"""``tasker up``: workers, beat, the HTTP server and Flower on one machine, as one program."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tasker.cli.commands import command

if TYPE_CHECKING:
    from tasker.config.settings import Settings
    from tasker.hosting.supervisor import Program

ORCHESTRATION_THREADS = 2
FLOWER_PORT = 5555
SERVER_PORT = 8080
STOP_SECONDS = 60.0
"""How long a step that runs may go on after Ctrl-C, before it is left to the next start."""

_COLOURS = {"orchestration": "cyan", "steps": "green", "beat": "magenta", "server": "blue", "flower": "yellow"}


@command()
@click.option("--concurrency", "-c", type=click.IntRange(min=1), help="Processes that run steps; else one per core.")
@click.option("--loglevel", "-l", default="warning", show_default=True, help="What workers and beat print.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="Also start Flower, the monitor.")
@click.option("--flower-port", default=FLOWER_PORT, show_default=True, help="Its port on 127.0.0.1.")
@click.option("--server/--no-server", default=True, show_default=True, help="Also start the HTTP server.")
@click.option("--server-port", default=SERVER_PORT, show_default=True, help="Its port on 127.0.0.1.")
@click.option("--app", "-A", default="tasker", show_default=True, help="The Celery application.")
def up(
    concurrency: int | None,
    loglevel: str,
    flower: bool,
    flower_port: int,
    server: bool,
    server_port: int,
    app: str,
) -> None:
    """Run everything on this machine: workers, beat, the HTTP server and Flower.

    On the database that DATABASE_URL or the settings name, else on the embedded PostgreSQL; its schema is brought up to
    date first. Ctrl-C stops it in order, a second Ctrl-C at once.
    """
    from tasker.hosting.supervisor import Supervisor

    lines = Lines()
    with prepared_database(lines), tempfile.TemporaryDirectory(prefix="tasker-up-") as folder:
        programs = programs_of(
            Path(folder),
            concurrency=concurrency or os.cpu_count() or 1,
            loglevel=loglevel,
            flower_port=flower_port if flower else None,
            server_port=server_port if server else None,
        )
        supervisor = Supervisor(programs, said=lines.said, event=lines.event, app=app)
        with stopped_by_signals(supervisor.stop, supervisor.kill):
            try:
                supervisor.start()
                lines.note(f"Started: {', '.join(program.name for program in programs)}. Ctrl-C stops all.")
                if server:
                    lines.note(f"Health and metrics: http://127.0.0.1:{server_port}/health")
                if flower:
                    lines.note(f"Flower: http://127.0.0.1:{flower_port}")
                supervisor.watch()
                lines.note("Stopping; what runs may finish. Ctrl-C again stops at once.")
            finally:
                in_order = supervisor.end(STOP_SECONDS)
    lines.note("Stopped." if in_order else "Stopped; what did not end in time was killed, and is taken up next time.")


def programs_of(
    folder: Path, *, concurrency: int, loglevel: str, flower_port: int | None, server_port: int | None = None
) -> list[Program]:
    """What ``tasker up`` runs.

    Args:
        folder: for beat's schedule, which only says when it last ran.
        concurrency: processes that run steps.
        loglevel: of workers, beat and server.
        flower_port: where Flower listens; ``None``: no Flower.
        server_port: where the HTTP server listens; ``None``: no server.
    """
    from tasker.hosting.roles import ORCHESTRATION_QUEUE
    from tasker.hosting.supervisor import Program

    processes = ("-P", "prefork", "-c", str(concurrency))
    programs = [
        orchestration_program(loglevel),
        # All namespaces, those to come too, and Celery's default queue: everything but orchestration.
        Program("steps", (*_worker(loglevel), "-n", "steps@%h", "-X", ORCHESTRATION_QUEUE, *processes)),
        beat_program(folder, loglevel),
    ]
    if server_port is not None:
        programs.append(server_program(f"127.0.0.1:{server_port}", loglevel=loglevel, attempts=3))
    if flower_port is not None:
        address = ("--address=127.0.0.1", f"--port={flower_port}")
        programs.append(Program("flower", ("flower", *address, "--logging=warning"), attempts=3))
    return programs


def orchestration_program(loglevel: str) -> Program:
    """A worker that hosts orchestration executors."""
    from tasker.hosting.roles import ORCHESTRATION_QUEUE
    from tasker.hosting.supervisor import Program

    threads = ("-P", "threads", "-c", str(ORCHESTRATION_THREADS))
    arguments = (*_worker(loglevel), "-n", "orchestration@%h", "-Q", ORCHESTRATION_QUEUE, *threads)
    return Program("orchestration", arguments)


def beat_program(folder: Path, loglevel: str) -> Program:
    """Celery beat, which keeps in ``folder`` when it last ran."""
    from tasker.hosting.supervisor import Program

    return Program("beat", ("-q", "beat", "-l", loglevel, "-s", str(folder / "beat-schedule"), "--pidfile="))


def server_program(bind: str | None, *, loglevel: str, attempts: int | None = None) -> Program:
    """The HTTP server.

    Args:
        bind: address and port, if not those of the settings.
        loglevel: of what is printed.
        attempts: starts in a row after which it is given up; ``None``: never.
    """
    from tasker.hosting.supervisor import Program

    where = () if bind is None else ("--bind", bind)
    return Program("server", ("server", *where, "-l", loglevel), entry="tasker.cli:main", attempts=attempts)


def _worker(loglevel: str) -> tuple[str, ...]:
    return ("-q", "worker", "-E", "-l", loglevel, "--without-gossip", "--without-mingle")


@contextmanager
def prepared_database(lines: Lines | None = None) -> Iterator[Settings]:
    """The settings, with their database up and its schema up to date, for the time of the block.

    Args:
        lines: told what was done.
    """
    from tasker.config.manager import ConfigManager
    from tasker.database.embedded import EmbeddedServer
    from tasker.database.migrations import migrate

    settings = ConfigManager.load()
    url, server = settings.database.url, None
    if url is None:
        server = EmbeddedServer.start()
        url = server.url
        if lines is not None:
            lines.note(f"Embedded PostgreSQL in {server.data_directory}.")
    try:
        migrate(url)
        yield settings
    finally:
        if server is not None:
            server.release()


class Lines:
    """What is printed: each line with the name of who says it, coloured on a terminal. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._width = max(map(len, _COLOURS))

    def said(self, name: str, line: str) -> None:
        """A line of one of the programs; blank ones are left out."""
        if line.strip():
            self._print(f"{click.style(name.ljust(self._width), fg=_COLOURS.get(name))} | {line}")

    def event(self, name: str, what: str) -> None:
        """What became of one of the programs."""
        self._print(click.style(f"{name} {what}", fg="red", bold=True))

    def note(self, text: str) -> None:
        """What ``tasker up`` itself has to say."""
        self._print(click.style(text, bold=True))

    def _print(self, text: str) -> None:
        with self._lock:
            click.echo(text)
            sys.stdout.flush()


@contextmanager
def stopped_by_signals(stop: Callable[[], object], kill: Callable[[], object]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM call ``stop``, and SIGINT when it comes again ``kill``."""
    came = 0

    def on_signal(number: int, frame: Any) -> None:
        nonlocal came
        came += number == signal.SIGINT
        stop()
        if came > 1:
            kill()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
