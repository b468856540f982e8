"""``OrchestrationCore``: the one bootstrap of everything that works with a Tasker database."""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.coordinator.connection_budget import ConnectionBudget
from tasker.database import migrations, work
from tasker.database.calls import run
from tasker.database.circuits import DatabaseLedger
from tasker.database.connection import Database
from tasker.database.embedded import EmbeddedServer
from tasker.errors import TaskerError
from tasker.executors.building import LoopBuilder
from tasker.executors.delegation import StepSender
from tasker.executors.executor import ExecutorKind
from tasker.executors.loop import ExecutorLoop
from tasker.executors.step_events import EventSink
from tasker.executors.step_result_processor import Revoke
from tasker.executors.wake import Raised
from tasker.handlers.registry import HandlerRegistry
from tasker.hooks.completion import CompletionHooks
from tasker.messaging.listener import Listener
from tasker.messaging.queues import CIRCUITS_CHANNEL, FIXED_QUEUES, queue_name
from tasker.resilience.circuits import CircuitBreakers
from tasker.workflows.registry import TemplateRegistry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CoreHealth:
    """What a core knows of itself; asking changes nothing.

    Attributes:
        status: ``healthy``, or ``unhealthy`` when the database cannot be reached or its schema does not fit.
        database: whether it answered, and how fast in milliseconds.
        schema: ``current``, ``newer`` and so on, or what is wrong.
        circuits: state of each circuit.
        problems: what is wrong, in words.
    """

    status: str
    database: dict[str, Any]
    schema: str | None
    circuits: dict[str, str]
    problems: list[str] = field(default_factory=list)


class OrchestrationCore:
    """Everything one process needs, built in one fixed order.

    1. pools: the database (an embedded server where none is named), within the connection budget;
    2. schema check: migrated where the settings say so, else refused when it does not fit;
    3. queues of the active namespaces;
    4. registries of templates and handlers;
    5. circuits.

    Use it in the process that made it: a forked child makes its own.

    Args:
        settings: all settings.
        database: the database, reachable and with the right schema.
        server: the share in the embedded server, if that is where the database is.
        send: sends steps that are Celery tasks.
        revoke: revokes them.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        server: EmbeddedServer | None = None,
        send: StepSender | None = None,
        revoke: Revoke | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.queues: list[str] = list(FIXED_QUEUES)
        """Queues made sure of by this core."""

        if settings.orchestration.active_namespaces:
            self.initialize_queues(settings.orchestration.active_namespaces)
        self.templates = TemplateRegistry(database, settings)
        self.handlers = HandlerRegistry(settings)
        self._server = server
        self._send = send
        self._revoke = revoke
        self.listener = (
            Listener(database.url, answer_timeout_seconds=settings.database.answer_timeout_seconds)
            if settings.pgmq.notify_enabled
            else None
        )
        """Hears notifications, over a connection made with the first subscription; ``None`` where none are wanted."""

        self.circuits = CircuitBreakers.from_settings(
            settings.circuit_breakers,
            ledger=DatabaseLedger(database),
            subscribe=None if self.listener is None else functools.partial(self.listener.subscribe, CIRCUITS_CHANNEL),
        )
        """The database's and PGMQ's in memory, those of external systems shared by all processes."""

        self._lock = threading.Lock()  # owns the members below
        self._loops: weakref.WeakSet[ExecutorLoop] = weakref.WeakSet()
        self._closed = False

    @classmethod
    def from_settings(
        cls,
        settings: Settings | None = None,
        *,
        database_url: str | None = None,
        max_connections: int | None = None,
        send: StepSender | None = None,
        revoke: Revoke | None = None,
    ) -> Self:
        """The core that ``settings`` describe.

        Args:
            settings: ``ConfigManager.load()`` when ``None``.
            database_url: use this database, whatever the settings say.
            max_connections: size of this process's pool, instead of ``database.pool.max_connections``.
            send: sends steps that are Celery tasks; without it such steps fail here and are retried elsewhere.
            revoke: revokes Celery tasks whose step is over.

        Raises:
            ConfigurationError: the settings are wrong, or ask for more connections than there are.
            EmbeddedServerError: the embedded PostgreSQL does not start.
            SchemaVersionError: the database's schema does not fit this release.
            psycopg.OperationalError: the database cannot be reached.
        """
        settings = settings or ConfigManager.load()
        url = database_url or settings.database.url
        server = EmbeddedServer.start() if url is None else None
        database: Database | None = None
        try:
            if server is not None:
                url = server.url
            assert url is not None
            database = _open(settings, url, server, max_connections)
            migrations.ensure(url, allowed=settings.database.migrate_on_start)
            return cls(settings, database, server=server, send=send, revoke=revoke)
        except BaseException:
            if database is not None:
                database.close()
            if server is not None:
                server.release()
            raise

    def initialize_queues(self, namespaces: Iterable[str]) -> None:
        """Make sure that these namespaces and their step queues exist.

        Raises:
            InvalidRequest: one of them is not a namespace's name, or is reserved.
        """
        names = sorted(set(namespaces))
        with self.database.connection() as connection:
            run(connection, work.ensure_namespaces(names))
        self.queues += [queue for queue in map(queue_name, names) if queue not in self.queues]

    def health(self) -> CoreHealth:
        """Whether the database answers and fits, and how the circuits are."""
        problems: list[str] = []
        database: dict[str, Any] = {"reachable": False, "milliseconds": None}
        schema: str | None = None
        try:
            with self.database.connection() as connection:
                begun = time.perf_counter()
                run(connection, work.ping())
                database = {"reachable": True, "milliseconds": round((time.perf_counter() - begun) * 1000, 3)}
                schema = migrations.check_connection(connection).state.value
        except psycopg.Error as error:
            problems.append(f"the database cannot be reached: {error}")
        except TaskerError as error:
            problems.append(str(error))
        circuits = self.circuits.states()
        return CoreHealth("unhealthy" if problems else "healthy", database, schema, circuits, problems)

    def build_loop(
        self,
        kinds: Sequence[ExecutorKind],
        queues: Sequence[str] = (),
        *,
        stop: Raised,
        yield_signal: Raised | None = None,
        worker: str,
        grace_seconds: float | None = None,
        sink: EventSink | None = None,
    ) -> ExecutorLoop:
        """A loop over new executors of ``kinds``, one of each. Whoever asked closes it; ``close`` closes what is left.

        Args:
            kinds: which executors.
            queues: names of the step queues that a step executor serves.
            stop: ends the loop and its executors.
            yield_signal: ends one run of the loop.
            worker: name of the worker, or program, that hosts it.
            grace_seconds: how long executors may go on after ``stop``; a sensible default when ``None``.
            sink: takes the events of steps; ``None``: nobody wants them.
        """
        builder = LoopBuilder(
            self.settings,
            self.database,
            handlers=self.handlers,
            templates=self.templates,
            hooks=CompletionHooks(self.templates, self.handlers),
            circuits=self.circuits,
            listener=self.listener,
            send=self._send,
            revoke=self._revoke,
        )
        loop = builder.build(
            kinds, queues, stop=stop, yield_signal=yield_signal, worker=worker, grace_seconds=grace_seconds, sink=sink
        )
        with self._lock:
            self._loops.add(loop)
        return loop

    def close(self, timeout_seconds: float = 10) -> None:
        """End the loops that still exist within ``timeout_seconds``, then close all connections. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loops = list(self._loops)
        deadline = time.monotonic() + timeout_seconds
        for loop in loops:
            loop.close(max(0.0, deadline - time.monotonic()))
        self.circuits.close()
        if self.listener is not None:
            self.listener.close()
        self.database.close()
        if self._server is not None:
            self._server.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(settings: Settings, url: str, server: EmbeddedServer | None, max_connections: int | None) -> Database:
    """The database with pools that fit into what the server has."""
    own = settings.database
    if max_connections is not None:
        sizes = {"max_connections": max_connections, "min_connections": min(own.pool.min_connections, max_connections)}
        own = own.model_copy(update={"pool": own.pool.model_copy(update=sizes)})
    database = Database.from_settings(own, url, revive=None if server is None else server.ensure_running)
    with database.connect(application_name="tasker start") as connection:
        limits = run(connection, work.connection_limits())
    budget = ConnectionBudget.of(settings, max_connections=limits.max_connections, reserved_connections=limits.reserved)
    cap = budget.enforce()
    if cap is not None and cap < database.max_connections:
        smaller = own.model_copy(update={"pool": own.pool.model_copy(update={"max_connections": cap})})
        database.close()
        database = Database.from_settings(smaller, url, revive=None if server is None else server.ensure_running)
    return database
