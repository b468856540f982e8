"""``tasker demo``: the order example through real workers, with live progress, and checks of what must be true."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tasker.cli.commands import command
from tasker.cli.demo_screen import LINE_SECONDS, Screen
from tasker.cli.output import Output
from tasker.cli.up import FLOWER_PORT, STOP_SECONDS, programs_of, stopped_by_signals
from tasker.errors import TaskerError

if TYPE_CHECKING:
    import psycopg

    from tasker.database.embedded import EmbeddedServer
    from tasker.database.side_database import SideDatabase
    from tasker.hosting.supervisor import Supervisor

T = TypeVar("T")

READY_SECONDS = 120.0
"""How long workers may take to start, and a database to come back, on a machine that is busy."""

STUCK_SECONDS = 120.0
"""How long nothing may move before something is wrong."""

LOOK_SECONDS = 0.25
PROCESSES_PER_CORE = 2
"""The example's handlers spend half of their time waiting for commits."""

QUICK = {
    "TASKER_ORCHESTRATION__HEARTBEAT_INTERVAL_SECONDS": "1",
    "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "2",
}
"""So that others take up within seconds what a killed process held: somebody is watching."""


@command()
@click.option("--orders", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="How many orders.")
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
@click.option("--concurrency", "-c", type=click.IntRange(min=1), help="Processes that run steps; else two per core.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="Also start Flower, the monitor.")
@click.option("--flower-port", default=FLOWER_PORT, show_default=True, help="Its port, or another if it is taken.")
def demo(orders: int, keep: bool, concurrency: int | None, flower: bool, flower_port: int) -> None:
    """Run the order example through real workers, and check that everything is as it must be.

    In a database of its own beside the one that DATABASE_URL or the settings name, else in the embedded PostgreSQL.
    Kill its processes or the embedded PostgreSQL meanwhile: the orders still end right. Exit code 1 if a check fails.
    """
    from tasker.hosting.supervisor import Supervisor

    screen = Screen(Output())
    example = _Example(orders)
    concurrency = concurrency or PROCESSES_PER_CORE * (os.cpu_count() or 1)
    port = _free_port(flower_port) if flower else None
    stopped = threading.Event()
    supervisor: Supervisor | None = None
    report: dict[str, Any] | None = None

    def kill() -> None:
        if supervisor is not None:
            supervisor.kill()

    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals(stopped.set, kill))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasker-demo-")))
        server, database = _database(stack, screen)
        env = _environment(database.url, example)
        example.prepare(database.url, env)
        programs = programs_of(folder, concurrency=concurrency, loglevel="error", flower_port=port)
        supervisor = Supervisor(programs, said=screen.said, event=screen.event, env=env)
        link = stack.enter_context(closing(_Link(lambda: example.shop.connect(database.url), server)))
        run = _Run(example, link, supervisor, screen, stopped)
        try:
            supervisor.start()
            if port is not None:
                screen.note(f"Flower, the monitor: http://127.0.0.1:{port}")
            report = run.through(concurrency)
            if report is not None:
                screen.report(report)
                screen.where_to_look(database.url, port, keep=keep)
                if keep and report["right"]:
                    run.stay()
        except TaskerError:
            screen.show_logs()
            raise
        finally:
            link.close()
            screen.note("Stopping all processes.")
            in_order = supervisor.end(STOP_SECONDS)
        if report is not None and not report["right"]:
            screen.note(f"The database {database.name} is left as it is; the next demo makes it anew.")
        else:
            if server is not None:
                server.ensure_running()
            database.drop()
    if report is None:
        screen.note("Stopped before all orders had ended.")
    if not in_order:
        screen.note("Some processes did not end in time, and were killed.")
    if report is None or not report["right"] or not in_order:
        raise click.exceptions.Exit(1)


# -- what it runs on ----------------------------------------------------------------------------------------------


class _Example:
    """The modules of ``examples/order_fulfillment``, which is no part of this package, and its orders."""

    def __init__(self, orders: int) -> None:
        from tasker.config.resources import resource_dir

        self.folder = str(resource_dir("examples"))
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        self.shop = self._module("shop")
        self.progress = self._module("progress")
        self.checks = self._module("checks")
        self.template: Path = self._module("submissions").TEMPLATE
        self.submissions: Any = self._module("submissions").read_submissions(orders)

    @property
    def orders(self) -> int:
        """How many orders there are, each counted once."""
        return len(self.submissions.order_ids)

    def prepare(self, url: str, env: Mapping[str, str]) -> None:
        """Make all tables, fill the shop, register the workflow."""
        from tasker.config.manager import ConfigManager
        from tasker.database.connection import Database
        from tasker.database.migrations import migrate
        from tasker.workflows.registry import TemplateRegistry

        migrate(url)
        self.shop.set_up(url)
        database = Database(url, application_name="tasker demo")
        try:
            TemplateRegistry(database, ConfigManager.load(environ=env)).load([self.template])
        finally:
            database.close()

    @staticmethod
    def _module(name: str) -> ModuleType:
        return import_module(f"order_fulfillment.{name}")


def _database(stack: ExitStack, screen: Screen) -> tuple[EmbeddedServer | None, SideDatabase]:
    """The demo's own empty database; and the embedded server, if that is where it is, running until ``stack`` ends."""
    from tasker.config.manager import ConfigManager
    from tasker.database.embedded import EmbeddedServer
    from tasker.database.side_database import SideDatabase

    url, server = ConfigManager.load().database.url, None
    if url is None:
        server = stack.enter_context(EmbeddedServer.start())
        url = server.url
    database = SideDatabase(url, "demo")
    database.create(wait_seconds=READY_SECONDS / 4)
    where = "the server of database.url" if server is None else f"an embedded PostgreSQL in {server.data_directory}"
    screen.note(f"Database {database.name} on {where}")
    return server, database


def _environment(url: str, example: _Example) -> dict[str, str]:
    """The environment of the demo's processes."""
    path = os.pathsep.join(filter(None, [example.folder, os.environ.get("PYTHONPATH")]))
    given = {name: value for name, value in os.environ.items() if name != "TASKER_DATABASE__URL"}
    ours = {"DATABASE_URL": url, "TASKER_ENGINE__HANDLER_MODULES": "order_fulfillment", "PYTHONPATH": path}
    return {**QUICK, **given, **ours}


def _free_port(wanted: int) -> int:
    """``wanted``, or a port that nobody listens on."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return wanted


class _Link:
    """A connection that is replaced when it is lost.

    Args:
        connect: makes one.
        server: brought back to life when it does not answer.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], server: EmbeddedServer | None) -> None:
        self._connect = connect
        self._server = server
        self._connection: psycopg.Connection[Any] | None = None

    def ask(self, question: Callable[[psycopg.Connection[Any]], T]) -> T | None:
        """The answer; ``None`` if there is no database just now."""
        from psycopg import OperationalError

        try:
            if self._connection is None:
                self._connection = self._connect()
            return question(self._connection)
        except OperationalError:
            self.close()
            if self._server is not None:
                self._server.ensure_running()
            return None

    def close(self) -> None:
        """Close the connection; the next question makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


# -- what happens -------------------------------------------------------------------------------------------------


class _Run:
    """The orders on their way through the workers."""

    def __init__(
        self, example: _Example, link: _Link, supervisor: Supervisor, screen: Screen, stopped: threading.Event
    ) -> None:
        self._example = example
        self._link = link
        self._supervisor = supervisor
        self._screen = screen
        self._stopped = stopped

    def through(self, concurrency: int) -> dict[str, Any] | None:
        """From the first worker to the last check; ``None`` if it was stopped before the end.

        Raises:
            TaskerError: workers do not start, or nothing moves any more.
        """
        begun = time.monotonic()
        ready = self._insist(lambda link: _has_executors(link, concurrency), "the workers do not start")
        if ready is None:
            return None
        self._screen.note(f"{concurrency} step executors ready after {time.monotonic() - begun:.1f} s")
        if self._insist(self._send_orders, "the orders cannot be sent") is None or not self._follow():
            return None
        return self._insist(self._judge, "the checks cannot be made")

    def stay(self) -> None:
        """Keep everything running, the embedded PostgreSQL too, until somebody stops it."""
        while not self._stopped.wait(LINE_SECONDS):
            self._supervisor.look()
            self._link.ask(self._example.progress.read_progress)

    def _insist(self, question: Callable[[psycopg.Connection[Any]], T | None], complaint: str) -> T | None:
        """Ask until there is an answer; ``None`` if it was stopped before."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._stopped.wait(LOOK_SECONDS):
            self._supervisor.look()
            answer = self._link.ask(question)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise TaskerError(f"{complaint} within {READY_SECONDS:.0f} s", hint="the ends of the logs are above")
        return None

    def _send_orders(self, connection: psycopg.Connection[Any]) -> bool:
        """Create all tasks, in one transaction; the identity keys make it safe to repeat after a lost answer."""
        from tasker.client.tasker import Tasker
        from tasker.config.settings import Settings

        sent = self._example.submissions
        with Tasker(connection.info.dsn, settings=Settings()) as client:
            client.create_many(sent.requests(), connection=connection)
        self._screen.note(f"{self._example.orders:,} orders sent, {sent.repeats:,} of them twice")
        return True

    def _follow(self) -> bool:
        """Show how far the orders are until all have ended; false if it was stopped before."""
        moved_at, last = time.monotonic(), None
        with self._screen.following(self._example.orders) as show:
            while not self._stopped.wait(LOOK_SECONDS):
                self._supervisor.look()
                progress = self._link.ask(self._example.progress.read_progress)
                show(progress)
                if progress is not None and progress.finished >= self._example.orders:
                    return True
                if progress is not None and progress.steps != last:
                    moved_at, last = time.monotonic(), progress.steps
                elif time.monotonic() - moved_at > STUCK_SECONDS:
                    raise TaskerError(f"nothing moved for {STUCK_SECONDS:.0f} s", hint="the ends of the logs are above")
        return False

    def _judge(self, connection: psycopg.Connection[Any]) -> dict[str, Any]:
        """What came of it, and whether it is right."""
        progress = self._example.progress.read_progress(connection)
        checks = [asdict(check) for check in self._example.checks.run_checks(connection, self._example.submissions)]
        return {
            "orders": self._example.orders,
            **asdict(self._example.progress.read_outcomes(connection)),
            "steps": progress.steps_ended,
            "seconds": progress.seconds,
            "steps_per_second": progress.steps_ended / max(progress.seconds, 0.001),
            "checks": checks,
            "right": all(check["ok"] for check in checks),
        }


def _has_executors(connection: psycopg.Connection[Any], concurrency: int) -> bool | None:
    """Whether all step executors and the orchestration are at work."""
    from tasker.database import reads
    from tasker.database.calls import run
    from tasker.executors.executor import ORCHESTRATION_KINDS, ExecutorKind

    kinds = Counter(executor.kind for executor in run(connection, reads.executors()))
    ready = kinds[ExecutorKind.STEP_EXECUTOR] >= concurrency and all(kinds[kind] for kind in ORCHESTRATION_KINDS)
    return ready or None
