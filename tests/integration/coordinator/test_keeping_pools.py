"""What ticks do about health, pools and the operational state, against a real database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from tasker.config.manager import ConfigManager
from tasker.config.settings import Settings
from tasker.coordinator.coordinator import Coordinator, TickReport
from tasker.coordinator.health import Status, read_health
from tasker.core import OrchestrationCore
from tasker.database import coordination, functions, operational
from tasker.database import pools as pool_calls
from tasker.database.calls import run

pytestmark = pytest.mark.orchestration

EXAMPLE = """
[orchestration]
auto_scaling_enabled = true
target_utilization = 0.75
scaling_interval_seconds = 30
health_check_interval_seconds = 10

[executor_pools.task_claimer]
min_executors = 2
max_executors = 10
polling_interval_ms = 50
batch_size = 20
circuit_breaker_enabled = true
"""
"""From the documentation of the original engine."""


class Asked:
    def __init__(self) -> None:
        self.executors: list[tuple[str, tuple[str, ...]]] = []
        self.sizes: dict[str, int] = {}

    def request(self, kind: str, namespaces: Sequence[str], *, queue: str, expires_seconds: float) -> None:
        self.executors.append((kind, tuple(namespaces)))

    def resize(self, hostname: str, slots: int) -> None:
        self.sizes[hostname] = slots


class System:
    """A core with settings of its own, and ticks whenever the test says so."""

    def __init__(self, core: OrchestrationCore, settings: Settings) -> None:
        self.settings = settings
        self.database = core.database
        self.asked = Asked()
        self.connection = core.database.connect()

    def tick(self, seconds: float | None = None) -> TickReport:
        """One tick, ``seconds`` after the last (a period, unless said)."""
        self.age(self.settings.orchestration.health_check_interval_seconds if seconds is None else seconds)
        ticker = Coordinator(self, request_executors=self.asked.request, resize_worker=self.asked.resize)
        report = ticker.tick()
        assert report.ticked
        assert report.problems == {}
        return report

    def age(self, seconds: float) -> None:
        """Let time pass for what ticks remember."""
        for table, columns in {
            "coordinator": ("last_tick_at",),
            "executor_pools": ("evaluated_at", "changed_at"),
            "executors": ("registered_at", "counted_at"),
        }.items():
            moved = ", ".join(f"{column} = {column} - make_interval(secs => {seconds})" for column in columns)
            self.connection.execute(f"UPDATE tasker.{table} SET {moved}".encode())
        self.connection.execute(
            """UPDATE tasker.executor_pools SET state = jsonb_set(jsonb_set(state, '{samples}', coalesce(
                 (SELECT jsonb_agg(jsonb_build_array((s->>0)::float - %(s)s, s->1, s->2, s->3))
                  FROM jsonb_array_elements(state->'samples') AS s), '[]')),
                 '{policy}', coalesce(state->'policy', '{}') || CASE WHEN state->'policy' ? 'since' THEN
                   jsonb_build_object('since', (state->'policy'->>'since')::float - %(s)s,
                     'backlog', jsonb_build_array((state->'policy'->'backlog'->>0)::float - %(s)s,
                                                  state->'policy'->'backlog'->1),
                     'needs', coalesce((SELECT jsonb_agg(jsonb_build_array((n->>0)::float - %(s)s, n->1))
                                        FROM jsonb_array_elements(state->'policy'->'needs') AS n), '[]'))
                   ELSE '{}' END)
               WHERE state ? 'samples'""",
            {"s": float(seconds)},
        )

    def executor(self, number: int, kind: str = "task_claimer", **counters: Any) -> str:
        executor = f"0192d3a0-0000-7000-8000-{number:012d}"
        request = {"executor": executor, "kind": kind, "worker": "w@test", "queues": ["admission"], "pid": 1}
        run(self.connection, functions.register_executor(request))
        self.beat(executor, **counters)
        return executor

    def beat(self, executor: str, **counters: Any) -> None:
        told = {"silence": {"poll_seconds": 0, "work_seconds": None}, "counters": counters}
        run(self.connection, functions.heartbeat({"executor": executor, "oldest_call_no": 1, **told}))

    def worker(self, hostname: str = "w@test", queues: Sequence[str] = ("orchestration",), **more: Any) -> None:
        run(
            self.connection,
            coordination.worker_heartbeat(
                hostname=hostname, pid=1, pool="prefork", concurrency=3, queues=list(queues), **more
            ),
        )

    def pool(self, kind: str = "task_claimer") -> pool_calls.PoolMeasures:
        found = run(self.connection, pool_calls.pool_measures())
        return next(each for each in found if each.kind == kind and not each.queue)


@pytest.fixture
def system(tasker_core: OrchestrationCore, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """With the settings of the example."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "example.toml").write_text(EXAMPLE)
    monkeypatch.setenv("TASKER_SETTINGS_DIR", str(tmp_path))
    made = System(tasker_core, ConfigManager.load("production"))
    yield made
    made.connection.close()


def test_the_example_of_the_original_engine_loads_and_says_what_it_says(system: System) -> None:
    settings = system.settings
    assert settings.orchestration.auto_scaling_enabled
    assert settings.orchestration.target_utilization == 0.75
    assert settings.orchestration.scaling_interval_seconds == 30
    assert settings.orchestration.health_check_interval_seconds == 10
    pool = settings.executor_pools.task_claimer
    assert (pool.min_executors, pool.max_executors, pool.polling_interval_ms, pool.batch_size) == (2, 10, 50, 20)
    assert pool.circuit_breaker_enabled


def test_a_pool_of_the_example_grows_with_its_load_and_shrinks_to_its_minimum(system: System) -> None:
    system.worker(executor_slots=2, most_slots=20, scaling="requested")
    first, second = system.executor(1), system.executor(2)
    system.tick()
    assert system.pool().target == 2
    # Both are busy for all of their time, for longer than a cooldown.
    for number in range(1, 10):
        for executor in (first, second):
            system.beat(executor, taken=1000 * number, busy_ms=10_000 * number)
        system.tick()
    after = system.pool()
    assert after.target is not None
    assert 2 < after.target <= 10
    assert ("task_claimer", ()) in system.asked.executors
    (decision,) = run(system.connection, pool_calls.scaling_decisions(kind="task_claimer"))
    assert (decision.direction, decision.from_target, decision.to_target) == ("up", 2, after.target)
    assert decision.measures["utilization"] > 0.9
    counts = run(system.connection, pool_calls.scaling_event_counts())
    assert counts["task_claimer", "up", decision.reason] == 1
    # Then they idle.
    for _ in range(30):
        system.tick(30)
    assert system.pool().target == 2
    down = run(system.connection, pool_calls.scaling_decisions(kind="task_claimer"))[0]
    assert (down.direction, down.to_target) == ("down", 2)


def test_without_auto_scaling_targets_stay_and_nobody_is_asked(system: System) -> None:
    orchestration = system.settings.orchestration.model_copy(update={"auto_scaling_enabled": False})
    system.settings = system.settings.model_copy(update={"orchestration": orchestration})
    system.worker(executor_slots=2, most_slots=20, scaling="requested")
    executors = [system.executor(1), system.executor(2)]
    for number in range(1, 6):
        for executor in executors:
            system.beat(executor, taken=1000 * number, busy_ms=10_000 * number)
        report = system.tick(30)
    assert report.scaled == []
    assert run(system.connection, pool_calls.scaling_decisions()) == ()
    assert not any(kind == "task_claimer" for kind, _ in system.asked.executors)


def test_ticks_judge_executors_and_move_the_state(system: System) -> None:
    system.worker(executor_slots=1)
    system.executor(1)
    assert system.tick().health == {"healthy": 1}
    report = system.tick()
    assert (report.health, report.operational_state) == ({}, "normal")
    transitions = run(system.connection, operational.operational_state_transitions())
    assert [(each.from_state, each.to_state, each.actor) for each in transitions] == [("startup", "normal", "tasker")]
    assert run(system.connection, pool_calls.health_transition_counts()) == {("task_claimer", "starting", "healthy"): 1}


# -- system health --------------------------------------------------------------------------------------------


def test_health_always_names_every_pool_and_component_and_reading_it_changes_nothing(system: System) -> None:
    def everything() -> list[Any]:
        tables = ("executors", "executor_pools", "operational_state", "coordinator", "scaling_decisions")
        return [system.connection.execute(f"SELECT * FROM tasker.{table}".encode()).fetchall() for table in tables]

    before = everything()
    health = read_health(system.database, system.settings)
    assert everything() == before
    body = health.orchestration()
    assert set(body["executor_pools"]) == {kind for kind, _ in system.settings.executor_pools.by_kind()}
    claimer = {"healthy": 0, "unhealthy": 0, "throughput": 0.0, "utilization": 0.0, "min": 2, "max": 10}
    assert body["executor_pools"]["task_claimer"] == claimer
    assert body["operational_state"] == "startup"
    assert health.status is Status.DEGRADED  # nothing is there yet, and that is no news while it starts
    assert health.detailed()["components"]["partitions"]["status"] == "healthy"


def test_a_system_that_works_is_healthy_and_says_how_fast(system: System) -> None:
    system.worker(executor_slots=1)
    executors = {}
    for number, (kind, pool) in enumerate(system.settings.executor_pools.by_kind()):
        for copy in range(pool.min_executors):
            executors[system.executor(10 * number + copy, kind)] = kind
    for number in range(1, 4):
        for executor, kind in executors.items():
            done = {"completed": 100 * number} if kind == "step_executor" else {"taken": 100 * number}
            system.beat(executor, **done, busy_ms=5000 * number)
        system.tick()
    health = read_health(system.database, system.settings, {"database": "closed"})
    assert health.status is Status.HEALTHY, health
    assert health.is_ready
    body = health.orchestration()
    assert body["coordinator"]["running"]
    assert body["executor_pools"]["task_claimer"]["healthy"] == 2
    assert 15 < body["executor_pools"]["task_claimer"]["throughput"] < 25  # 2 × 100 in 10 s
    assert 0.4 < body["executor_pools"]["task_claimer"]["utilization"] < 0.6


def test_a_deploy_raises_no_alarm_and_the_same_without_a_word_does(system: System) -> None:
    def all_gone() -> None:
        system.connection.execute("DELETE FROM tasker.workers")
        system.connection.execute("DELETE FROM tasker.executors")
        system.connection.execute("UPDATE tasker.coordinator SET last_tick_at = now() - interval '1 hour'")

    system.worker(executor_slots=1)
    system.executor(1)
    system.tick()
    system.tick()
    all_gone()
    crashed = read_health(system.database, system.settings)
    assert crashed.status is Status.UNHEALTHY
    assert any(alert.startswith("workers:") for alert in crashed.alerts)
    for leaving in range(2):
        with system.connection.transaction():
            state = run(system.connection, operational.judge_operational_state(within_seconds=30, leaving=True)).state
        ending = read_health(system.database, system.settings)
        assert ending.operational_state == state == ("graceful_shutdown", "stopped")[leaving]
        assert (ending.alerts, ending.is_ready) == ((), False)
        assert ending.status is Status.DEGRADED
    system.worker(executor_slots=1)
    system.executor(2)
    system.tick()
    assert read_health(system.database, system.settings).alerts == ()


def test_an_emergency_is_unhealthy_and_an_alert(system: System) -> None:
    with system.connection.transaction():
        run(system.connection, operational.set_operational_state("emergency", by="anna", reason="data looks wrong"))
    health = read_health(system.database, system.settings)
    assert health.status is Status.UNHEALTHY
    assert "the system is in emergency" in health.alerts


def test_a_database_that_cannot_be_asked_is_an_answer(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise psycopg.OperationalError("no route")

    monkeypatch.setattr(system.database, "connection", refuse)
    health = read_health(system.database, system.settings)
    assert (health.status, health.operational_state) == (Status.UNHEALTHY, "unknown")
    assert len(health.orchestration()["executor_pools"]) == 6
    assert health.alerts == ("database: OperationalError: no route",)
