"""``Coordinator``: what no single worker sees. One tick per period, however many beats ask for it."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psycopg

from tasker.config.settings import Settings
from tasker.coordinator.counting import count_history
from tasker.coordinator.health import HealthMonitor
from tasker.coordinator.lifecycle import StuckReport, act_on_stuck_tasks
from tasker.coordinator.operational_state import OperationalState
from tasker.coordinator.placing import ORCHESTRATION
from tasker.coordinator.pool_keeper import PoolKeeper, RequestExecutors, ResizeWorker
from tasker.coordinator.retention import RetentionShare
from tasker.database import coordination, functions
from tasker.database.calls import Call, run
from tasker.database.connection import Database
from tasker.database.partitions import ensure_partitions
from tasker.errors import TaskerError
from tasker.executors.schedules import fire_due_schedules
from tasker.messaging.queues import TASK_FINALIZATION, channel_name
from tasker.resilience.answer_timeout import AnswerTimeout

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_LOSSES = 5
"""A step that lost so many executors is poison and goes to the dead letters."""

SWEEP_LIMIT = 200
"""Receipts that one sweep handles; the next follows at once while there are more."""

SWEEPS_PER_TICK = 10
NET_PAGE = 1000
"""Open tasks that one tick checks for steps which nobody holds."""

RESEND_LIMIT = 500
UNPARKED_AT_ONCE = 5000
"""Parked steps of one circuit or limit that one call lets go on."""

UNPARKING_SECONDS = 2.0
"""How long a tick looks at limits and circuits whose parked steps may go on."""

FIRING_SECONDS = 10.0
"""How long a tick fires schedules: with all else that it does it stays below ``LONGEST_TURN_SECONDS``."""

KEEP_SECONDS = 3600.0
"""How long the row of a worker that is gone stays for those who want to look."""

STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 1000
"""A sweep that has to wait gives up: the next tick comes soon, and it must not stall what it looks after."""

LONGEST_TURN_SECONDS = 60
"""The right to tick ends with the session that holds it. Of a coordinator whose host is gone the server would not hear
for hours, and nobody else would tick meanwhile."""


class HasDatabase(Protocol):
    """What the coordinator needs of the core."""

    @property
    def settings(self) -> Settings:
        """The settings."""
        ...

    @property
    def database(self) -> Database:
        """The database."""
        ...


@dataclass
class TickReport:
    """What a tick did.

    Attributes:
        ticked: whether it was this caller's turn; if not, all else is empty.
        lost_executors: executors that were declared lost.
        requeued: steps that went back to their queues.
        poisoned: steps given up for having lost too many executors.
        unknown: steps ended because nobody knows whether they ran (``outcome_unknown``).
        skipped: steps that somebody had locked; the next tick sees them.
        finalizations: messages sent again for tasks whose after-work nobody does.
        stuck: what was done about tasks and steps that took longer than their workflow's lifecycle allows.
        schedules: how many schedules were fired that nobody had fired in time.
        unparked: queues on which steps go on that waited for a circuit or a limit.
        mail: messages of dead readers of the broker that returned to their queues.
        partitions: partitions of audit tables that were made.
        pruned: how many rows went of workers and waiters that are gone, and of what is over and too old, by kind.
        requested: executors asked for because fewer than the minimum live, by kind.
        health: how many executors changed their health, by what it became.
        operational_state: what the system is doing.
        scaled: changes of pools' targets, as they are remembered.
        problems: parts that failed, with the reason.
    """

    ticked: bool = False
    lost_executors: list[str] = field(default_factory=list)
    requeued: int = 0
    poisoned: int = 0
    unknown: int = 0
    skipped: int = 0
    finalizations: int = 0
    stuck: StuckReport = field(default_factory=StuckReport)
    schedules: int = 0
    unparked: int = 0
    mail: int = 0
    partitions: tuple[str, ...] = ()
    pruned: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    health: dict[str, int] = field(default_factory=dict)
    operational_state: str = ""
    scaled: list[Mapping[str, Any]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


class Coordinator:
    """Recovers what lost executors held, resends what fell through, keeps pools at their minimum and tables in order.

    It keeps no state between ticks, so that each may run in another process.

    Args:
        core: the settings and the database.
        request_executors: how to ask workers for executors; ``None`` leaves missing ones to the workers themselves.
        resize_worker: how to tell workers how many executors to host; ``None``: they keep their size.
        name: who ticks, for those who look at the table.
    """

    def __init__(
        self,
        core: HasDatabase,
        *,
        request_executors: RequestExecutors | None = None,
        resize_worker: ResizeWorker | None = None,
        name: str | None = None,
    ) -> None:
        self._settings = core.settings
        self._database = core.database
        self._request_executors = request_executors
        self._monitor = HealthMonitor(core.settings)
        self._keeper = PoolKeeper(core.settings, request_executors=request_executors, resize_worker=resize_worker)
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._period = float(core.settings.orchestration.health_check_interval_seconds)

    def tick(self) -> TickReport:
        """Do one round, unless another process is at it or has just done one.

        One part that fails does not keep the others from their work: it is logged and reported.

        Raises:
            psycopg.OperationalError: there is no database.
        """
        report = TickReport()
        with self._turn() as lock:
            if lock is None:
                return report
            report.ticked = True
            for part, work in self._parts():
                try:
                    with self._database.connection() as connection:
                        work(connection, report)
                except (psycopg.Error, TaskerError, OSError) as error:
                    report.problems[part] = f"{type(error).__name__}: {error}"
                    logger.warning("The coordinator's tick failed to %s: %s", part, error)
                    if isinstance(error, AnswerTimeout):
                        break  # the others would wait as long: the next tick is soon enough for them
            run(lock, coordination.record_tick(self._name, self._period))
        return report

    @contextmanager
    def _turn(self) -> Iterator[psycopg.Connection[Any] | None]:
        """A connection whose transaction holds the right to tick, or ``None``.

        It is apart from the pool's: work inside takes one of those, and two of one pool could wait for each other.
        """
        with self._database.connect() as connection, connection.transaction():
            run(connection, functions.set_local(idle_in_transaction_session_timeout=f"{LONGEST_TURN_SECONDS}s"))
            yield connection if run(connection, coordination.begin_tick(self._period)) else None

    def _parts(self) -> Sequence[tuple[str, Callable[[psycopg.Connection[Any], TickReport], None]]]:
        return (
            ("recover the steps of lost executors", self._recover),
            ("send finalizations again", self._resend),
            ("give up what is stuck", self._give_up),
            ("move the operational state", self._move),
            ("judge executors", self._judge),
            ("replace missing executors", self._replace),
            ("scale pools", self._scale),
            ("fire schedules", self._fire),
            ("let parked steps go on", self._unpark),
            ("tend the broker's queues", self._tend),
            ("remove who is gone", self._prune),
            ("keep partitions ahead", self._partitions),
            ("count the history for metrics", self._count),
            ("remove what is too old", RetentionShare(self._settings).take),
        )

    # -- the parts ------------------------------------------------------------------------------------------------

    def _recover(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        request = {
            "limit": SWEEP_LIMIT,
            "lease_seconds": self._settings.orchestration.executor_lease_seconds,
            "max_losses": MAX_LOSSES,
            "net_page": NET_PAGE,
        }
        for _ in range(SWEEPS_PER_TICK):
            found = _bounded(connection, functions.recover_lost_steps(request))
            report.lost_executors += found["lost_executors"]
            report.requeued += found["requeued"]
            report.poisoned += found["poisoned"]
            report.unknown += found["unknown"]
            report.skipped = found["skipped"]
            _notify(connection, found["queues"], found["notify"])
            if not found["requeued"] + found["poisoned"] + found["unknown"]:
                break
            request["net_page"] = 0
        if report.lost_executors:
            logger.warning(
                "Executors lost: %s; %s steps requeued, %s given up, %s of unknown outcome.",
                len(report.lost_executors),
                report.requeued,
                report.poisoned,
                report.unknown,
            )

    def _resend(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.finalizations = _bounded(connection, coordination.resend_finalizations(RESEND_LIMIT))
        if report.finalizations:
            _notify(connection, [TASK_FINALIZATION])

    def _give_up(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.stuck = act_on_stuck_tasks(
            functools.partial(_bounded, connection), functools.partial(_notify, connection)
        )

    def _move(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        with connection.transaction():
            report.operational_state = OperationalState(connection).judge(3 * self._period).state

    def _judge(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        for change in _bounded(connection, self._monitor.judge(report.operational_state)):
            report.health[change.to_health] = report.health.get(change.to_health, 0) + 1
            log = logger.warning if change.to_health in ("degraded", "unhealthy") else logger.info
            said = (change.kind, change.executor, change.worker, change.to_health, change.reason or "it gets on")
            log("%s %s of %s is %s: %s", *said)

    def _scale(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.scaled = self._keeper.keep(functools.partial(_bounded, connection))

    def _replace(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        """Ask for executors of each kind that has fewer than its minimum over all workers."""
        if self._request_executors is None:
            return
        orchestration = self._settings.orchestration
        alive = run(connection, coordination.count_executors(orchestration.executor_lease_seconds))
        # Workers that have just started fill their slots themselves.
        workers = [
            worker
            for worker in run(connection, coordination.living_workers(3 * self._period))
            if worker.age_seconds >= self._period
        ]
        namespaces = run(connection, coordination.namespaces())
        for kind, pool in self._settings.executor_pools.by_kind():
            missing = pool.min_executors - alive.get(kind, 0)
            if kind == "step_executor":
                served = [tuple(sorted(set(namespaces).intersection(worker.queues))) for worker in workers]
                asked = [(names[0], names) for names in served if names]
            elif orchestration.hosting == "periodic":
                continue
            else:
                asked = [(ORCHESTRATION, ()) for worker in workers if ORCHESTRATION in worker.queues]
            for queue, names in itertools.islice(itertools.cycle(asked), max(0, missing)):
                self._request_executors(kind, names, queue=queue, expires_seconds=self._period)
                report.requested[kind] = report.requested.get(kind, 0) + 1

    def _fire(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        """Most are fired in time by those who admit tasks."""
        report.schedules = fire_due_schedules(functools.partial(_bounded, connection), seconds=FIRING_SECONDS)

    def _unpark(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        """Most are woken by whoever frees a limit or closes a circuit.

        A call looks at a bounded number of limits and circuits. Where a tick's time does not suffice for all, the rest
        waits for the moment at which a parked step looks again for itself.
        """
        request: dict[str, Any] = {"limit": UNPARKED_AT_ONCE, "after": None}
        queues: set[str] = set()
        until = time.monotonic() + UNPARKING_SECONDS
        while True:
            answer = _bounded(connection, functions.tend_parked(request))
            queues.update(answer["queues"])
            request["after"] = answer["after"]
            if request["after"] is None or time.monotonic() >= until:
                break
        report.unparked = len(queues)

    def _tend(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.mail = _bounded(connection, coordination.tend_transport())

    def _prune(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.pruned = _bounded(connection, coordination.prune_registrations(KEEP_SECONDS))

    def _partitions(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        report.partitions = ensure_partitions(connection)

    def _count(self, connection: psycopg.Connection[Any], report: TickReport) -> None:
        """Those who read metrics count, too; without them totals must not fall behind what is kept."""
        count_history(connection)


def _bounded(connection: psycopg.Connection[Any], call: Call[T]) -> T:
    timeouts = {
        "statement_timeout": f"{STATEMENT_TIMEOUT_MS}ms",
        "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
        "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_MS}ms",
    }
    with connection.transaction():
        run(connection, functions.set_local(**timeouts))
        return run(connection, call)


def _notify(connection: psycopg.Connection[Any], queues: Sequence[str], channels: Sequence[str] = ()) -> None:
    if queues or channels:
        run(connection, functions.notify([*map(channel_name, queues), *channels]))
