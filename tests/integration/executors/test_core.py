"""``OrchestrationCore``: one bootstrap, in one order, with clear errors."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tasker.config.sections import ConnectionPoolSettings, DatabaseSettings, OrchestrationSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.embedded import EmbeddedServer
from tasker.errors import CircuitOpen, ConfigurationError, InvalidRequest, SchemaVersionError
from tasker.executors.executor import Executor, ExecutorKind
from tasker.executors.stop import StopSignal
from tests.embedded_support import kill_postmaster, server_folder
from tests.integration.executors.engine import Engine
from tests.integration.executors.steps import chain
from tests.waiting import wait_until

pytestmark = pytest.mark.orchestration


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as made:
        yield made


def settings_for(url: str, **rest: Any) -> Settings:
    return Settings(database=DatabaseSettings(url=url, **rest.pop("database", {})), **rest)


def test_a_database_without_the_schema_is_refused_with_advice(tasker_server: Any) -> None:
    url = tasker_server.create(migrated=False)
    try:
        with pytest.raises(SchemaVersionError, match="tasker db migrate"):
            OrchestrationCore.from_settings(settings_for(url))
        # Nobody is left connected.
        with psycopg.connect(url, autocommit=True) as connection:
            others = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            ).fetchone()
        assert others == (0,)
    finally:
        tasker_server.drop(url)


def test_it_migrates_where_the_settings_say_so(tasker_server: Any) -> None:
    url = tasker_server.create(migrated=False)
    try:
        with OrchestrationCore.from_settings(settings_for(url, database={"migrate_on_start": True})) as core:
            assert core.health().status == "healthy"
    finally:
        tasker_server.drop(url)


def test_a_database_that_cannot_be_reached_is_told_at_once() -> None:
    with pytest.raises(psycopg.OperationalError):
        OrchestrationCore.from_settings(settings_for("postgresql:///nowhere?host=/nowhere/at/all"))


def test_queues_of_active_namespaces_are_made(tasker_database_url: str) -> None:
    orchestration = OrchestrationSettings(active_namespaces=("inventory", "fulfillment"))
    with OrchestrationCore.from_settings(settings_for(tasker_database_url, orchestration=orchestration)) as core:
        core.initialize_queues(["payments", "inventory"])
        assert core.queues[-3:] == ["fulfillment_queue", "inventory_queue", "payments_queue"]
        with core.database.connection() as connection:
            found = connection.execute("SELECT name FROM tasker.namespaces ORDER BY name").fetchall()
        assert found == [("fulfillment",), ("inventory",), ("payments",)]


@pytest.mark.parametrize("name", ["Inventory", "celery_things", "orchestration", "a" * 34, ""])
def test_a_bad_namespace_is_refused_and_no_other_is_made(tasker_database_url: str, name: str) -> None:
    with OrchestrationCore.from_settings(settings_for(tasker_database_url)) as core:
        with pytest.raises(InvalidRequest):
            core.initialize_queues(["good", name])
        with core.database.connection() as connection:
            assert connection.execute("SELECT count(*) FROM tasker.namespaces").fetchone() == (0,)


def test_health_tells_when_the_database_is_away(tasker_server: Any) -> None:
    url = tasker_server.create()
    with OrchestrationCore.from_settings(settings_for(url)) as core:
        healthy = core.health()
        assert (healthy.status, healthy.schema, healthy.problems) == ("healthy", "current", [])
        assert healthy.database["reachable"]
        tasker_server.drop(url)
        away = core.health()
    assert (away.status, away.schema) == ("unhealthy", None)
    assert not away.database["reachable"]
    assert "cannot be reached" in away.problems[0]


def test_pools_are_kept_within_the_connection_budget(tasker_database_url: str) -> None:
    pool = ConnectionPoolSettings(max_connections=900)
    settings = settings_for(tasker_database_url, database={"pool": pool, "resource_validation": "degraded"})
    with OrchestrationCore.from_settings(settings) as core:
        assert core.database.max_connections < 900
    strict = settings_for(tasker_database_url, database={"pool": pool, "resource_validation": "fail_fast"})
    with pytest.raises(ConfigurationError, match="connections"):
        OrchestrationCore.from_settings(strict)


def test_every_kind_of_executor_keeps_to_the_protocol(tasker_database_url: str) -> None:
    stop = StopSignal()
    with (
        OrchestrationCore.from_settings(settings_for(tasker_database_url)) as core,
        core.build_loop(list(ExecutorKind), ["testing_queue"], stop=stop, worker="test") as loop,
    ):
        executors = [slot.executor for slot in loop._slots]
        assert [executor.kind for executor in executors] == list(ExecutorKind)
        assert all(isinstance(executor, Executor) for executor in executors)
    stop.close()


def test_closing_the_core_ends_loops_that_were_left_open(engine: Engine) -> None:
    engine.workflow({"name": "only", "handler": lambda ctx: {}})
    stop = StopSignal()
    core = OrchestrationCore.from_settings(settings_for(engine.database.url))
    loop = core.build_loop(list(ExecutorKind), ["testing_queue"], stop=stop, worker="test")
    loop.drain_all()
    assert engine.value("SELECT count(*) FROM tasker.executors") == 6
    core.close(timeout_seconds=5)
    core.close()
    assert engine.value("SELECT count(*) FROM tasker.executors") == 0
    stop.close()


def test_executors_carry_on_when_the_embedded_server_is_killed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    server = EmbeddedServer.start(folder)
    monkeypatch.setattr(EmbeddedServer, "start", lambda: server)
    runs: Counter[tuple[str, str]] = Counter()

    def handler(ctx: Any) -> Any:
        runs[ctx.task_uuid, ctx.step_name] += 1
        time.sleep(0.002)
        return {}

    stop = StopSignal()
    with OrchestrationCore.from_settings(Settings()) as core:
        core.handlers = engine.handlers
        embedded = Engine(core.database, core.settings)
        embedded.handlers = engine.handlers
        embedded.workflow(*chain(handler, handler, handler, handler))
        embedded.create(100)
        loop = core.build_loop(list(ExecutorKind), ["testing_queue"], stop=stop, worker="test")
        thread = threading.Thread(target=loop.run)
        thread.start()
        wait_until(lambda: len(runs) > 40, "work in progress")
        kill_postmaster(folder)

        def complete() -> bool:
            try:
                with core.database.connection() as connection:
                    found = connection.execute("SELECT count(*) FROM tasker.tasks WHERE state = 'complete'").fetchone()
            except psycopg.Error:
                return False
            return found == (100,)

        wait_until(complete, "all tasks, over the restart")
        stop.set()
        thread.join(20)
        loop.close()
        embedded.connection.close()
    stop.close()
    assert len(runs) == 400
    # Fenced and repeated by number: what was under way is not run again just because the server went down.
    assert set(runs.values()) == {1}


@pytest.mark.circuit_breaker
def test_circuits_are_as_the_settings_say_and_one_process_hears_of_another(tasker_database_url: str) -> None:
    settings = Settings.model_validate(
        {
            "database": {"url": tasker_database_url},
            "circuit_breakers": {
                "default_config": {"failure_threshold": 2},
                "component_configs": {"database": {"failure_threshold": 7}, "bank": {"timeout_seconds": 90}},
            },
        }
    )
    with OrchestrationCore.from_settings(settings) as here, OrchestrationCore.from_settings(settings) as there:
        assert here.circuits.get("database").config.failure_threshold == 7
        bank, seen = here.circuits.get("bank"), there.circuits.get("bank")
        assert seen.call(int) == 0
        assert there.listener is not None
        wait_until(lambda: there.listener.connected, "it listens")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                bank.call(lambda: 1 // 0)
        wait_until(lambda: seen.state == "open", "the other one hears of it")
        assert there.health().circuits["bank"] == "open"
        with pytest.raises(CircuitOpen) as refused:
            seen.call(int)
        assert 80 < (refused.value.retry_after_seconds or 0) <= 90
