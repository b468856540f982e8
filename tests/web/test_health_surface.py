"""Health over HTTP: what each endpoint says of a database that is well, ill, silent or gone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from psycopg import conninfo

from tasker.config.settings import Settings
from tasker.database.scratch import ScratchDatabases
from tests.proxies import SilentProxy
from tests.sql_kit import Core
from tests.web.conftest import Serve

KINDS = {
    "step_executor", "task_request_processor", "task_claimer", "step_enqueuer", "step_result_processor",
    "task_finalizer",
}  # fmt: skip
HEALTH = ("/health", "/health/detailed", "/health/orchestration")
OK = {"database": "ok", "schema": "ok", "pgmq": "ok"}
WELL_WITHIN_SECONDS = 20.0
"""Much less than the settings let a call wait for a silent server, and much more than it takes."""


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    made = Core(tasker_database_url)
    yield made
    made.close()


async def test_a_database_that_is_there_makes_the_server_ready(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "checks": OK})
        alive = await client.get("/live")
        assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
        for path in ("/ready", "/live", *HEALTH):
            assert (await client.get(path)).headers["cache-control"] == "no-store"


async def test_whoever_asks_for_heads_alone_is_told_the_same(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        for path in ("/ready", "/live", "/metrics", *HEALTH):
            asked, shown = await client.head(path), await client.get(path)
            assert (asked.status_code, asked.headers["content-type"]) == (200, shown.headers["content-type"])


async def test_orchestration_has_its_shape_and_every_kind_before_anything_runs(core: Core, serve: Serve) -> None:
    async with serve(core.url, executor_pools={"task_claimer": {"min_executors": 2, "max_executors": 10}}) as client:
        answer = await client.get("/health/orchestration")
    body = answer.json()
    assert body.keys() == {"status", "coordinator", "operational_state", "executor_pools"}
    assert body["coordinator"] == {"running": False, "uptime_seconds": 0}
    assert body["operational_state"] == "startup"
    assert body["executor_pools"].keys() == KINDS
    nobody = {"healthy": 0, "unhealthy": 0, "throughput": 0.0, "utilization": 0.0}
    assert body["executor_pools"]["task_claimer"] == {**nobody, "min": 2, "max": 10}


async def test_executors_and_ticks_show_at_once(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        before = (await client.get("/health/orchestration")).json()
        core.executor(kind="task_claimer")
        core.call("heartbeat", {"executor": core.executor().uuid, "oldest_call_no": 1, "silence": {"polled": 0}})
        with psycopg.connect(core.url) as ticking:
            ticking.execute("SELECT tasker.begin_tick(10), tasker.record_tick('test', 10)")
        after = (await client.get("/health/orchestration")).json()
        detailed = (await client.get("/health/detailed")).json()
    assert (before["coordinator"]["running"], after["coordinator"]["running"]) == (False, True)
    pool = detailed["executor_pools"]["task_claimer"]
    assert pool["starting"] + pool["healthy"] == 1
    assert detailed["components"].keys() == {
        "database", "pgmq", "coordinator", "workers", "pools", "circuits", "backlog", "partitions",
    }  # fmt: skip


async def test_an_unhealthy_system_is_a_503_on_every_path_of_health(core: Core, serve: Serve) -> None:
    core.call("set_operational_state", {"state": "emergency", "by": "ann", "reason": "the disk is full"})
    async with serve(core.url) as client:
        for path in HEALTH:
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy"), path
            assert answer.json()["operational_state"] == "emergency"
        assert "the system is in emergency" in (await client.get("/health")).json()["alerts"]
        assert (await client.get("/ready")).status_code == 200, "the server itself can work"


async def test_reading_health_changes_nothing(core: Core, serve: Serve) -> None:
    """Every session is read-only here: a write would be an error, and an error shows."""
    reading = conninfo.make_conninfo(core.url, options="-c default_transaction_read_only=on")
    async with serve(reading) as client:
        assert (await client.get("/ready")).json()["checks"] == OK
        for path in HEALTH:
            answer = await client.get(path)
            assert answer.json()["operational_state"] == "startup", path


async def test_a_schema_that_does_not_fit_is_named(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        core.rows_affected("UPDATE tasker.schema_functions SET digest = 'old' WHERE name = 'claim_steps'")
        answer = await client.get("/ready")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert (checks["database"], checks["pgmq"]) == ("ok", "unknown")
    assert "behind this release" in checks["schema"]


async def test_queues_that_are_gone_are_named(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        core.rows("SELECT pgmq.drop_queue('task_requests_queue')")
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert "q_task_requests_queue" in answer.json()["checks"]["pgmq"]
        assert (await client.get("/health")).status_code == 503


async def check_away(client: httpx.AsyncClient) -> None:
    """What is answered while the database cannot be asked, each in time."""
    for path, status in (("/live", 200), ("/ready", 503), *((path, 503) for path in HEALTH), ("/metrics", 503)):
        begun = time.monotonic()
        answer = await client.get(path)
        assert answer.status_code == status, path
        assert time.monotonic() - begun < WELL_WITHIN_SECONDS, path
    body = (await client.get("/health/orchestration")).json()
    assert (body["status"], body["operational_state"]) == ("unhealthy", "unknown")
    assert body["executor_pools"].keys() == KINDS
    assert (await client.get("/ready")).json()["status"] == "not_ready"


async def test_a_database_that_says_nothing_is_told_in_time_and_its_return_too(core: Core, serve: Serve) -> None:
    with SilentProxy(core.url) as proxy:
        async with serve(proxy.url, web={"request_timeout_ms": 1500}) as client:
            assert (await client.get("/ready")).status_code == 200
            proxy.die()
            await check_away(client)
            proxy.revive()
            while (await client.get("/ready")).status_code != 200:
                pass
            assert (await client.get("/health/orchestration")).json()["operational_state"] == "startup"


async def test_a_database_that_is_gone_is_told(tasker_server: ScratchDatabases, serve: Serve) -> None:
    url = tasker_server.create()
    async with serve(url, web={"request_timeout_ms": 1500}) as client:
        assert (await client.get("/ready")).status_code == 200
        tasker_server.drop(url)
        await check_away(client)


async def test_the_api_describes_itself(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        described = (await client.get("/api-docs/openapi.json")).json()
        assert {"/live", "/ready", "/health", "/health/detailed", "/health/orchestration", "/metrics"} == set(
            described["paths"]
        )
        assert (await client.get("/api-docs/ui")).status_code == 200
        missing = await client.get("/nothing")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


def test_the_server_has_a_pool_of_its_own_size() -> None:
    assert Settings().web.database_pool.max_connections == 5
    assert (Settings().web.host, Settings().web.port) == ("0.0.0.0", 8080)


async def test_metrics_are_shown_although_somebody_holds_the_place_of_counting(core: Core, serve: Serve) -> None:
    async with serve(core.url) as client:
        with psycopg.connect(core.url) as other:
            other.execute("SELECT FROM tasker.metric_progress FOR UPDATE")
            assert (await client.get("/metrics")).status_code == 200
