"""System health: what is found in the database, judged in one place, for HTTP, the command line and alerts.

``assess`` is a pure function from what was read to a judgement; ``read_health`` reads and never changes anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import psycopg

from tasker.config.settings import Settings
from tasker.coordinator.pools import rates_of
from tasker.database.calls import Call
from tasker.database.connection import Database
from tasker.database.health import HealthFacts, read_facts
from tasker.database.pools import HealthTransition, PoolMeasures, judge_executors
from tasker.errors import TaskerError
from tasker.executors.progress import stall_seconds

LATE_TICKS = 3
"""The coordinator runs while its last tick is younger than so many periods."""

LOST_SECONDS = 60.0
"""An executor that was lost so recently counts as unhealthy in its pool."""

FEWEST_DAYS_AHEAD = 2.0
"""Partitions of audit tables end later than this: ticks make fourteen days of them."""

SHUTTING_DOWN = ("graceful_shutdown", "stopped")
"""Operational states in which executors are meant to go."""


class Status(StrEnum):
    """How well something is; the values are those of interfaces and of exit codes."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_SEVERITY = {Status.HEALTHY: 0, Status.DEGRADED: 1, Status.UNHEALTHY: 2}


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of them; healthy when there are none."""
    return max(statuses, key=_SEVERITY.__getitem__, default=Status.HEALTHY)


@dataclass(frozen=True, slots=True)
class CoordinatorHealth:
    """The coordinator's ticks.

    Attributes:
        running: the last tick is younger than three periods.
        uptime_seconds: since the unbroken series of ticks began; 0 while it does not run.
        last_tick_seconds: since the last tick; ``None`` before the first.
    """

    running: bool = False
    uptime_seconds: float = 0.0
    last_tick_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """All executors of one kind.

    Attributes:
        healthy: how many are healthy or degraded: they make progress.
        unhealthy: how many make none though they should, or have just been lost.
        starting: how many have not polled yet.
        degraded: how many of the healthy ones are late, or fail now and then.
        stopping: how many were asked to stop.
        throughput: items per second over the last five minutes.
        utilization: share of their time, 0 to 1, that they spent on work when it was last measured.
        min: fewest executors that are wanted.
        max: most that are allowed.
        target: how many the coordinator wants at present.
        backlog: messages (tasks, for the task claimer) that wait; counted up to a bound.
        oldest_seconds: age of the oldest of them; ``None`` when none waits.
    """

    healthy: int = 0
    unhealthy: int = 0
    starting: int = 0
    degraded: int = 0
    stopping: int = 0
    throughput: float = 0.0
    utilization: float = 0.0
    min: int = 0
    max: int = 0
    target: int = 0
    backlog: int = 0
    oldest_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One part of the system.

    Attributes:
        status: how it is.
        message: why, in words; empty when it is healthy.
        figures: what was found, as plain values.
    """

    status: Status = Status.HEALTHY
    message: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


COMPONENTS = ("database", "pgmq", "coordinator", "workers", "pools", "circuits", "backlog", "partitions")
"""The names of ``SystemHealth.components``, all of which always appear."""


@dataclass(frozen=True, slots=True)
class SystemHealth:
    """How the whole system is.

    Attributes:
        status: the worst of its components, where the operational state lets it count.
        operational_state: ``startup``, ``normal``, ``graceful_shutdown``, ``emergency``, ``stopped``, or ``unknown``
            while the database cannot be asked.
        coordinator: the coordinator's ticks.
        pools: by kind, every kind always.
        components: by name (``COMPONENTS``), every one always.
        alerts: what somebody should be told now; empty while the system starts or ends on purpose.
    """

    status: Status
    operational_state: str
    coordinator: CoordinatorHealth
    pools: Mapping[str, PoolHealth]
    components: Mapping[str, ComponentHealth]
    alerts: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether work that comes in is done: nothing is unhealthy, and the system does not end."""
        return self.status is not Status.UNHEALTHY and self.operational_state in ("startup", "normal")

    def orchestration(self) -> dict[str, Any]:
        """The body of ``GET /health/orchestration``."""
        return {
            "status": self.status.value,
            "coordinator": {
                "running": self.coordinator.running,
                "uptime_seconds": round(self.coordinator.uptime_seconds),
            },
            "operational_state": self.operational_state,
            "executor_pools": {
                kind: {
                    "healthy": pool.healthy,
                    "unhealthy": pool.unhealthy,
                    "throughput": round(pool.throughput, 3),
                    "utilization": round(pool.utilization, 3),
                    "min": pool.min,
                    "max": pool.max,
                }
                for kind, pool in self.pools.items()
            },
        }

    def detailed(self) -> dict[str, Any]:
        """The body of ``GET /health/detailed``: everything, as plain JSON values."""
        return {
            "status": self.status.value,
            "operational_state": self.operational_state,
            "alerts": list(self.alerts),
            "coordinator": asdict(self.coordinator),
            "components": {
                name: {"status": each.status.value, "message": each.message, **each.figures}
                for name, each in self.components.items()
            },
            "executor_pools": {kind: asdict(pool) for kind, pool in self.pools.items()},
        }


def read_health(
    database: Database,
    settings: Settings,
    circuits: Mapping[str, str] | None = None,
    *,
    patience_seconds: float | None = None,
) -> SystemHealth:
    """How the system is now, as one connection of ``database`` finds it. Changes nothing.

    A database that cannot be asked is an answer, not an error.

    Args:
        database: the database.
        settings: bounds of pools, periods, thresholds.
        circuits: state of each circuit of this process (``CircuitBreakers.states()``).
        patience_seconds: longest wait for a connection, and longest silence of the server, where less than the settings
            say.
    """
    begun = time.perf_counter()
    try:
        with database.connection(patience_seconds=patience_seconds) as connection:
            facts = read_facts(
                connection,
                worker_seconds=LATE_TICKS * settings.orchestration.health_check_interval_seconds,
                lost_seconds=LOST_SECONDS,
            )
    except (psycopg.Error, TaskerError, OSError) as error:
        return assess(None, settings, circuits=circuits or {}, problem=f"{type(error).__name__}: {error}")
    milliseconds = round((time.perf_counter() - begun) * 1000, 3)
    return assess(facts, settings, circuits=circuits or {}, database_milliseconds=milliseconds)


def assess(
    facts: HealthFacts | None,
    settings: Settings,
    *,
    circuits: Mapping[str, str] | None = None,
    problem: str = "",
    database_milliseconds: float | None = None,
) -> SystemHealth:
    """Judge what was found.

    While the system starts or ends on purpose, what is missing for that reason is ``degraded`` at most, times are
    measured with more patience, and nobody is alerted (``orchestration.operational_state`` says how far).

    Args:
        facts: what was found; ``None``: the database could not be asked.
        settings: bounds, periods, thresholds.
        circuits: state of each circuit of this process.
        problem: why the database could not be asked.
        database_milliseconds: how long it took.
    """
    circuits = circuits or {}
    if facts is None:
        return _without_database(settings, circuits, problem)
    patience = multiplier(settings, facts.operational_state)
    on_purpose = facts.operational_state in ("startup", *SHUTTING_DOWN)
    coordinator = _coordinator(facts, settings, patience)
    by_kind = {pool.kind: pool for pool in facts.pools if not pool.queue}
    pools = {kind: _pool(kind, by_kind.get(kind), settings) for kind, _ in settings.executor_pools.by_kind()}
    components = {
        "database": ComponentHealth(figures={"milliseconds": database_milliseconds}),
        "pgmq": _pgmq(facts),
        "coordinator": _ticks(coordinator, on_purpose),
        "workers": _workers(facts, on_purpose),
        "pools": _pools(pools, on_purpose),
        "circuits": _circuits({**facts.circuits, **circuits}),
        "backlog": _backlog(facts, settings, patience, on_purpose),
        "partitions": _partitions(facts),
    }
    status = worst(each.status for each in components.values())
    if facts.operational_state == "emergency":
        status = Status.UNHEALTHY
    return SystemHealth(
        status=status,
        operational_state=facts.operational_state,
        coordinator=coordinator,
        pools=pools,
        components=components,
        alerts=_alerts(components, facts.operational_state, settings),
    )


def multiplier(settings: Settings, operational_state: str) -> float:
    """By how much longer things may take in this operational state before they are held against the system."""
    states = settings.orchestration.operational_state
    if operational_state == "startup":
        return states.startup_health_threshold_multiplier
    if operational_state in SHUTTING_DOWN:
        return states.shutdown_health_threshold_multiplier
    return 1.0


class HealthMonitor:
    """Judges executors at each tick: see ``judge_executors.sql`` for the states and what leads to them.

    Args:
        settings: heartbeats, periods, and how patient to be while the system starts or ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, operational_state: str) -> Call[tuple[HealthTransition, ...]]:
        """The call that judges all executors and records what changed."""
        settings = self._settings
        return judge_executors(
            stall_seconds={kind: stall_seconds(settings, kind) for kind, _ in settings.executor_pools.by_kind()},
            heartbeat_seconds=settings.orchestration.heartbeat_interval_seconds,
            multiplier=multiplier(settings, operational_state),
        )


# -- the components -------------------------------------------------------------------------------------------


def _without_database(settings: Settings, circuits: Mapping[str, str], problem: str) -> SystemHealth:
    unknown = ComponentHealth(Status.DEGRADED, "not known: the database cannot be asked")
    components = dict.fromkeys(COMPONENTS, unknown)
    components["database"] = ComponentHealth(Status.UNHEALTHY, problem or "the database cannot be asked")
    components["circuits"] = _circuits(circuits)
    return SystemHealth(
        status=Status.UNHEALTHY,
        operational_state="unknown",
        coordinator=CoordinatorHealth(),
        pools={kind: _pool(kind, None, settings) for kind, _ in settings.executor_pools.by_kind()},
        components=components,
        alerts=(f"database: {components['database'].message}",),
    )


def _coordinator(facts: HealthFacts, settings: Settings, patience: float) -> CoordinatorHealth:
    longest = LATE_TICKS * settings.orchestration.health_check_interval_seconds * patience
    running = facts.last_tick_seconds is not None and facts.last_tick_seconds < longest
    return CoordinatorHealth(running, (facts.series_seconds or 0.0) if running else 0.0, facts.last_tick_seconds)


def _ticks(coordinator: CoordinatorHealth, on_purpose: bool) -> ComponentHealth:
    figures = {"last_tick_seconds": coordinator.last_tick_seconds}
    if coordinator.running:
        return ComponentHealth(figures=figures)
    last = coordinator.last_tick_seconds
    when = "it has never ticked" if last is None else f"its last tick was {last:.0f} s ago"
    status = Status.DEGRADED if on_purpose else Status.UNHEALTHY
    return ComponentHealth(status, f"the coordinator does not run: {when}", figures)


def _pool(kind: str, pool: PoolMeasures | None, settings: Settings) -> PoolHealth:
    bounds = settings.executor_pools[kind]
    if pool is None:
        return PoolHealth(min=bounds.min_executors, max=bounds.max_executors, target=bounds.min_executors)
    rates = rates_of(pool)
    return PoolHealth(
        healthy=pool.healthy + pool.degraded,
        unhealthy=pool.unhealthy,
        starting=pool.starting,
        degraded=pool.degraded,
        stopping=pool.stopping,
        throughput=rates.throughput,
        utilization=rates.utilization,
        min=bounds.min_executors,
        max=bounds.max_executors,
        target=bounds.min_executors if pool.target is None else pool.target,
        backlog=pool.backlog,
        oldest_seconds=pool.oldest_seconds,
    )


def _pgmq(facts: HealthFacts) -> ComponentHealth:
    if facts.missing_queues:
        return ComponentHealth(Status.UNHEALTHY, f"queues are missing: {', '.join(facts.missing_queues)}")
    return ComponentHealth()


def _workers(facts: HealthFacts, on_purpose: bool) -> ComponentHealth:
    figures = {"living": facts.workers, "drained": facts.drained}
    if facts.workers:
        return ComponentHealth(figures=figures)
    return ComponentHealth(Status.DEGRADED if on_purpose else Status.UNHEALTHY, "no worker is there", figures)


def _pools(pools: Mapping[str, PoolHealth], on_purpose: bool) -> ComponentHealth:
    """A kind without a healthy executor does no work; one with some that are unhealthy, less than it should."""
    wanting = [kind for kind, pool in pools.items() if pool.min > 0 and not pool.healthy]
    fewer = [kind for kind, pool in pools.items() if kind not in wanting and pool.healthy < pool.min]
    stuck = [f"{pool.unhealthy} of {kind}" for kind, pool in pools.items() if pool.unhealthy]
    said = [
        *([f"no healthy executor: {', '.join(wanting)}"] if wanting else []),
        *([f"fewer than the minimum: {', '.join(fewer)}"] if fewer else []),
        *([f"unhealthy: {', '.join(stuck)}"] if stuck else []),
    ]
    if not said:
        return ComponentHealth()
    status = Status.UNHEALTHY if wanting and not on_purpose else Status.DEGRADED
    return ComponentHealth(status, "; ".join(said))


def _circuits(circuits: Mapping[str, str]) -> ComponentHealth:
    """An open circuit is a system elsewhere that is down: ours waits for it, and is degraded."""
    open_ones = sorted(name for name, state in circuits.items() if state != "closed")
    figures = {"states": dict(circuits)}
    if open_ones:
        return ComponentHealth(Status.DEGRADED, f"not closed: {', '.join(open_ones)}", figures)
    return ComponentHealth(figures=figures)


def _backlog(facts: HealthFacts, settings: Settings, patience: float, on_purpose: bool) -> ComponentHealth:
    """Old messages are late; old messages of a queue that nobody serves are nobody's."""
    longest = settings.orchestration.max_backlog_age_seconds * patience
    oldest: dict[str, float] = {}
    late: list[str] = []
    nobodys: list[str] = []
    for pool in facts.pools:
        if pool.oldest_seconds is None or (pool.kind == "step_executor" and not pool.queue):
            continue
        name = pool.queue or pool.kind
        oldest[name] = round(pool.oldest_seconds, 3)
        if pool.oldest_seconds > longest:
            (late if pool.executors else nobodys).append(f"{name} ({pool.oldest_seconds:.0f} s)")
    said = [
        *([f"nobody serves {', '.join(nobodys)}"] if nobodys else []),
        *([f"messages wait for long: {', '.join(late)}"] if late else []),
    ]
    figures = {"oldest_seconds": oldest}
    if not said:
        return ComponentHealth(figures=figures)
    status = Status.UNHEALTHY if nobodys and not on_purpose else Status.DEGRADED
    return ComponentHealth(status, "; ".join(said), figures)


def _partitions(facts: HealthFacts) -> ComponentHealth:
    figures = {"days_ahead": round(facts.days_ahead, 1)}
    if facts.days_ahead >= FEWEST_DAYS_AHEAD:
        return ComponentHealth(figures=figures)
    # Nothing is refused: the open-ended partition takes all that comes, and becomes too large to be dropped by age.
    return ComponentHealth(Status.DEGRADED, f"partitions end in {facts.days_ahead:.1f} days", figures)


def _alerts(components: Mapping[str, ComponentHealth], operational_state: str, settings: Settings) -> tuple[str, ...]:
    states = settings.orchestration.operational_state
    ending = operational_state in SHUTTING_DOWN and states.suppress_alerts_during_shutdown
    found = [
        f"{name}: {each.message}"
        for name, each in components.items()
        # Executors that have not started yet, or end, are no news. A database that is away is, whatever goes on.
        if each.status is Status.UNHEALTHY and not (ending and name not in ("database", "pgmq"))
    ]
    if operational_state == "emergency":
        found.insert(0, "the system is in emergency")
    return tuple(found)
