"""Tasker in one Celery app: its tasks, its boot steps, and what they share in each process."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from celery import Celery, signals
from celery.utils.text import str_to_list

from tasker.config.settings import Settings
from tasker.coordinator.coordinator import Coordinator
from tasker.database import coordination
from tasker.database.calls import run
from tasker.database.connection import Database
from tasker.errors import TaskerError
from tasker.hosting import remote  # registers its commands
from tasker.hosting.callbacks import CallbackReceiver
from tasker.hosting.delegation import CelerySteps, StepApp
from tasker.hosting.event_publisher import EventPublisher
from tasker.hosting.host import WorkerHost, add_host, find_host
from tasker.hosting.messages import WITHOUT_TIME_LIMITS
from tasker.hosting.pools import FIT, PREFORK, SOLO, add_slots, pool_of, refuse_unfit, slots_of
from tasker.hosting.process import ProcessCore
from tasker.hosting.quiet import quieten_solo
from tasker.hosting.registration import Registration
from tasker.hosting.resident import RUN_EXECUTORS, ResidentExecutors
from tasker.hosting.roles import ORCHESTRATION_QUEUE, Role, roles_of
from tasker.hosting.side_connection import SideConnection
from tasker.hosting.sizing import WorkerSize
from tasker.hosting.steps import HostExecutors, StopExecutors, hosting_step
from tasker.hosting.tasks import Tasks
from tasker.messaging.client import PgmqClient
from tasker.messaging.queues import STEP_RESULTS
from tasker.resilience.answer_timeout import hurry_no_more, hurry_when
from tasker.resilience.circuits import CircuitBreakers

if TYPE_CHECKING:
    from tasker.client.tasker import Tasker
    from tasker.core import OrchestrationCore

logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS = 30.0

GOOD_BYE_SECONDS = 1.0
"""How long a database may be silent for a worker whose pool has ended: what it does not say, the server finds out."""

_installed: weakref.WeakKeyDictionary[Celery, Hosting] = weakref.WeakKeyDictionary()


class Hosting:
    """What makes the workers of one Celery app hosts of executors; made by ``install``.

    Args:
        app: the app.
        make_core: builds the core of a process.
        steps: sends steps that are Celery tasks.
    """

    def __init__(self, app: Celery, make_core: Callable[[], OrchestrationCore], steps: CelerySteps) -> None:
        self.app = app
        self.process = ProcessCore(make_core)
        self.steps = steps
        self._registrations: dict[str, Registration] = {}
        self._receivers: dict[str, CallbackReceiver] = {}
        self._publishers: dict[str, EventPublisher] = {}
        # Of the main process of a worker that forks.
        self._side: SideConnection | None = None
        self._settings: Settings | None = None
        self._database_url = ""
        # As the program's command line says; a worker that is embedded in another program has none.
        self._options: weakref.WeakKeyDictionary[Any, Mapping[str, Any]] = weakref.WeakKeyDictionary()

    # -- what tasks use -------------------------------------------------------------------------------------------

    def client(self) -> Tasker:
        """A client on the database of this process's core."""
        from tasker.client.tasker import Tasker

        return Tasker(self.process.get().database)

    def coordinator(self) -> Coordinator:
        """A coordinator that asks workers of this app for executors."""
        return Coordinator(
            self.process.get(), request_executors=self.request_executors, resize_worker=self.resize_worker
        )

    def request_executors(self, kind: str, namespaces: Sequence[str], *, queue: str, expires_seconds: float) -> None:
        """Ask the workers that consume ``queue`` for one more executor."""
        self.app.send_task(
            RUN_EXECUTORS, (kind, list(namespaces)), queue=queue, expires=expires_seconds, **WITHOUT_TIME_LIMITS
        )

    def resize_worker(self, hostname: str, executors: int) -> None:
        """Tell a worker how many executors it shall host by itself; it keeps to its bounds, and answers nobody."""
        self.app.control.broadcast(remote.SCALE, arguments={"executors": executors}, destination=[hostname])

    def post(self, outcome: Mapping[str, Any]) -> None:
        """Send the outcome of a delegated step to those who process it.

        Raises:
            psycopg.OperationalError, CircuitOpen: the database cannot be reached.
        """
        if self._side is not None and self._side.is_ours and self._settings is not None:
            # A child was killed, and its parent says so: no core of its own, whose threads a fork would leave behind.
            PgmqClient(self._side, self._settings.pgmq).send(STEP_RESULTS, dict(outcome))
        else:
            core = self.process.get()
            circuit = core.circuits.get("pgmq")
            PgmqClient(core.database, core.settings.pgmq, circuit).send(STEP_RESULTS, dict(outcome))

    # -- a worker's life ------------------------------------------------------------------------------------------

    def on_options(self, worker: Any, options: Mapping[str, Any]) -> None:
        """The worker's command line, before Celery has looked at it."""
        self._options[worker] = {name: options.get(name) for name in ("queues", "exclude_queues")}

    def on_init(self, worker: Any) -> None:
        """Before the worker makes its pool: see what it is to host, and make room.

        Raises:
            TaskerError: settings, schema or pool do not allow it.
        """
        _put_working_directory_on_path()
        # An annotation of all tasks means ordinary ones: executors tell their slots by it that they ended.
        self.app.tasks[RUN_EXECUTORS].acks_late = True
        queues = worker.app.amqp.queues
        options = self._options.pop(worker, {"queues": queues._consume_from})
        settings, namespaces = self._look()
        pool = pool_of(worker)
        slots = slots_of(worker, pool)
        host = WorkerHost(worker.hostname, pool, executor_slots=slots)
        ends = settings.orchestration.operational_state
        host.graceful_seconds = ends.graceful_shutdown_timeout_seconds
        host.emergency_seconds = ends.emergency_shutdown_timeout_seconds
        host.max_memory_kb = int(getattr(worker, "max_memory_per_child", None) or 0)
        if not options.get("queues"):
            host.every_queue_but = frozenset(str_to_list(options.get("exclude_queues")) or ())
            for name in host.also_consumed((ORCHESTRATION_QUEUE, *namespaces)):
                queues.select_add(name)
        host.roles = _roles(host, settings, list(queues.consume_from), namespaces)
        if host.roles or host.every_queue_but is not None:
            refuse_unfit(worker, pool)
            host.spare_slots = add_slots(worker, pool, settings.orchestration.spare_slots)
        elif pool != SOLO:
            # Should one of its queues turn out to be a namespace's, its executors leave the spare slots free.
            host.resize(slots, settings.orchestration.spare_slots)
        if pool == SOLO:
            quieten_solo()
        add_host(host)
        # Inherited by the pool's processes: none of them shall wait long for a database once the worker is to end.
        hurry_when(host.stop.is_set)
        hurry_when(host.is_leaving, GOOD_BYE_SECONDS)

    def on_ready(self, consumer: Any) -> None:
        """The worker consumes: register it, and heed what namespaces there are from now on."""
        host = find_host(consumer.hostname)
        step = hosting_step(consumer)
        settings = self._settings
        if host is None or step is None or step.residents is None or step.publisher is None or settings is None:
            return
        residents = step.residents
        self._publishers[host.hostname] = step.publisher
        queues = self.app.amqp.queues

        def adapt() -> None:
            self._adapt(host, settings, consumer, residents, host.namespaces)

        orchestration = settings.orchestration
        sizing = step.sizing = WorkerSize(
            host, consumer, most=orchestration.max_worker_slots, spare=orchestration.spare_slots, adapt=adapt
        )
        cancel = consumer.cancel_task_queue

        def cancel_task_queue(queue: str) -> None:
            host.leave_out(queue)
            cancel(queue)

        consumer.cancel_task_queue = cancel_task_queue

        def on_namespaces(namespaces: Sequence[str]) -> None:
            sizing.follow()
            host.namespaces = tuple(namespaces)
            adapt()

        registration = self._registrations[host.hostname] = Registration(
            host,
            self._side_connection(settings),
            period_seconds=settings.orchestration.health_check_interval_seconds,
            queues=lambda: sorted(queues.consume_from),
            size=sizing,
            on_namespaces=on_namespaces,
        )
        registration.start()
        if host.pool == PREFORK:
            self._side = self._side_connection(settings)
        if settings.engine.celery_steps.is_other_app and ORCHESTRATION_QUEUE in queues.consume_from:
            self._receive(host, settings)

    def on_shutdown(self, worker: Any) -> None:
        """The worker's pool has stopped: say good-bye."""
        host = find_host(worker.hostname)
        if host is None:
            return
        host.stop.set()
        registration = self._registrations.pop(host.hostname, None)
        if registration is not None:
            registration.end()
        receiver = self._receivers.pop(host.hostname, None)
        if receiver is not None:
            receiver.end()
        publisher = self._publishers.pop(host.hostname, None)
        if publisher is not None:
            publisher.end()
        self.process.close()
        hurry_no_more(host.stop.is_set)
        hurry_no_more(host.is_leaving)

    def _receive(self, host: WorkerHost, settings: Settings) -> None:
        """Read the callbacks of tasks that were sent through another app."""
        source = self._side_connection(settings)
        circuit = CircuitBreakers.from_settings(settings.circuit_breakers).get("pgmq")

        def post(outcome: Mapping[str, Any]) -> None:
            PgmqClient(source, settings.pgmq, circuit).send(STEP_RESULTS, dict(outcome))

        self.steps.target  # noqa: B018  (made here, not by a thread that a fork might catch at it)
        receiver = self._receivers[host.hostname] = CallbackReceiver(
            self.steps, post, max_result_bytes=settings.system.max_result_bytes, stop=host.stop
        )
        receiver.start()

    def _side_connection(self, settings: Settings) -> SideConnection:
        """Not the core's: its pool has threads, and this process forks."""
        return SideConnection(
            Database.from_settings(settings.database, self._database_url, application_name="tasker worker")
        )

    def _look(self) -> tuple[Settings, Sequence[str]]:
        """The settings and the namespaces, through a core that is closed again: nothing of it may reach a fork.

        Waits for a database that does not answer, as Celery does for its broker.
        """
        wait = 1.0
        while True:
            try:
                core = self.process.get()
                self._settings, self._database_url = core.settings, core.database.url
                with core.database.connection() as connection:
                    return core.settings, run(connection, coordination.namespaces())
            except psycopg.OperationalError as error:
                logger.warning("The database does not answer; trying again in %.0f s: %s", wait, error)
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            finally:
                self.process.close()

    def _adapt(
        self,
        host: WorkerHost,
        settings: Settings,
        consumer: Any,
        residents: ResidentExecutors,
        namespaces: Sequence[str],
    ) -> None:
        """Host what is to be hosted by now: a namespace may be new, also one that ``-Q`` names, or the pool resized."""
        consumed = set(self.app.amqp.queues.consume_from)
        for name in sorted(host.also_consumed(namespaces) - consumed):
            residents.call_soon(functools.partial(consumer.add_task_queue, name))
            consumed.add(name)
        roles = _roles(host, settings, sorted(consumed), namespaces)
        if roles != host.roles and host.pool in FIT:
            logger.info("Worker %s hosts %s", host.hostname, ", ".join(map(str, roles)) or "no executors")
            host.roles = roles
            residents.assign(roles)


def install(app: Celery, make_core: Callable[[], OrchestrationCore], steps: CelerySteps | None = None) -> Hosting:
    """Make the workers of ``app`` hosts of executors, and register Tasker's tasks on it. Twice is once.

    Args:
        app: a Celery app.
        make_core: builds the core of a process; called on first use in each.
        steps: sends steps that are Celery tasks; through ``app`` itself when ``None``.
    """
    hosting = _installed.get(app)
    if hosting is None:
        steps = steps or CelerySteps(lambda: StepApp(app))
        hosting = _installed[app] = Hosting(app, make_core, steps)
        Tasks(hosting).register()
        app.steps["worker"].add(StopExecutors)
        app.steps["consumer"].add(HostExecutors)
    return hosting


def _put_working_directory_on_path() -> None:
    """Let handlers be found in the working directory, as Celery finds an app there, and ``tasker up`` its handlers.

    The script ``celery`` puts it on the path for as long as it imports the app; handlers are imported later.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _roles(
    host: WorkerHost, settings: Settings, consumed: Sequence[str], namespaces: Sequence[str]
) -> tuple[Role, ...]:
    periodic = settings.orchestration.hosting == "periodic"
    return roles_of(consumed, namespaces, host.executor_slots, periodic_orchestration=periodic)


# -- Celery's signals: there is one of each for all apps ------------------------------------------------------


def _on_celeryd_init(instance: Any, options: Mapping[str, Any], **_: Any) -> None:
    if (hosting := _installed.get(instance.app)) is not None:
        hosting.on_options(instance, options)


def _on_worker_init(sender: Any, **_: Any) -> None:
    hosting = _installed.get(sender.app)
    if hosting is None:
        return
    try:
        hosting.on_init(sender)
    except TaskerError as error:
        # Celery logs what a receiver raises, and goes on. This must not.
        raise SystemExit(f"Error: {error}") from error


def _on_worker_ready(sender: Any, **_: Any) -> None:
    if (hosting := _installed.get(sender.app)) is not None:
        hosting.on_ready(sender)


def _on_worker_shutting_down(sender: Any, **_: Any) -> None:
    # Called in a signal handler: nothing that could wait.
    if (host := find_host(str(sender))) is not None:
        host.stop.set()


def _on_worker_shutdown(sender: Any, **_: Any) -> None:
    if (hosting := _installed.get(sender.app)) is not None:
        hosting.on_shutdown(sender)


def _on_worker_process_shutdown(**_: Any) -> None:
    for hosting in tuple(_installed.values()):
        hosting.process.close(timeout_seconds=1)


signals.celeryd_init.connect(_on_celeryd_init, weak=False)
signals.worker_init.connect(_on_worker_init, weak=False)
signals.worker_ready.connect(_on_worker_ready, weak=False)
signals.worker_shutting_down.connect(_on_worker_shutting_down, weak=False)
signals.worker_shutdown.connect(_on_worker_shutdown, weak=False)
signals.worker_process_shutdown.connect(_on_worker_process_shutdown, weak=False)
