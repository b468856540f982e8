"""Health over HTTP: whether the process answers, whether it can work, how the whole system is. Nothing is cached."""

from __future__ import annotations

from typing import Any

import psycopg
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from tasker.coordinator.health import Status, SystemHealth, assess, read_health
from tasker.core import OrchestrationCore
from tasker.database import figures, migrations, work
from tasker.database.calls import run
from tasker.errors import TaskerError
from tasker.web.asking import Allowance, Asking

READY_SECONDS = 2.0
"""Longest wait for the database in ``/ready``: those who ask give up soon themselves."""

HEALTH_SECONDS = 5.0
"""Longest wait for it in ``/health…``; less where ``web.request_timeout_ms`` is."""

NOT_STORED = {"Cache-Control": "no-store"}
CHECKS = ("database", "schema", "pgmq")


def check_ready(core: OrchestrationCore, seconds: float) -> dict[str, str]:
    """What each of ``CHECKS`` found: ``ok``, or what is wrong. One that fails leaves the later ones ``unknown``.

    Args:
        core: the database.
        seconds: longest silence of the server that is borne.
    """
    checks = dict.fromkeys(CHECKS, "unknown")
    doing = CHECKS[0]
    try:
        with core.database.connection(patience_seconds=seconds) as connection:
            run(connection, work.ping())
            checks[doing] = "ok"
            doing = "schema"
            migrations.check_connection(connection)
            checks[doing] = "ok"
            doing = "pgmq"
            run(connection, figures.reach_pgmq())
            checks[doing] = "ok"
    except (psycopg.Error, TaskerError, OSError) as error:
        checks[doing] = " ".join(str(error).split()) or type(error).__name__
    return checks


def routes(core: OrchestrationCore, asking: Asking) -> APIRouter:
    """The endpoints.

    Args:
        core: the database, the settings, the circuits of this process.
        asking: runs what blocks.
    """
    router = APIRouter(tags=["health"])
    timeout_ms = core.settings.web.request_timeout_ms
    for_health, for_ready = Allowance.of(timeout_ms, HEALTH_SECONDS), Allowance.of(timeout_ms, READY_SECONDS)

    async def health_now() -> SystemHealth:
        circuits = core.circuits.states()
        try:
            return await asking.ask(
                lambda: read_health(
                    core.database, core.settings, circuits, patience_seconds=for_health.patience_seconds
                ),
                seconds=for_health.seconds,
            )
        except TimeoutError:
            late = f"the database did not answer within {for_health.seconds:g} s"
            return assess(None, core.settings, circuits=circuits, problem=late)

    def answer(health: SystemHealth, body: dict[str, Any]) -> JSONResponse:
        return JSONResponse(body, 503 if health.status is Status.UNHEALTHY else 200, NOT_STORED)

    @router.head("/live", include_in_schema=False)
    @router.get("/live", summary="Whether the process answers; asks nobody else")
    async def live() -> JSONResponse:
        return JSONResponse({"status": "alive"}, headers=NOT_STORED)

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", summary="Whether requests can be served: database, schema and PGMQ; 503 if not")
    async def ready() -> JSONResponse:
        try:
            checks = await asking.ask(
                check_ready, core, for_ready.patience_seconds, seconds=for_ready.seconds, probe=True
            )
        except TimeoutError:
            late = f"no answer within {for_ready.seconds:g} s"
            checks = {**dict.fromkeys(CHECKS, "unknown"), CHECKS[0]: late}
        is_ready = set(checks.values()) == {"ok"}
        body = {"status": "ready" if is_ready else "not_ready", "checks": checks}
        return JSONResponse(body, 200 if is_ready else 503, NOT_STORED)

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="How the system is, in short; 503 if unhealthy")
    async def health() -> JSONResponse:
        found = await health_now()
        body = {
            "status": found.status.value,
            "operational_state": found.operational_state,
            "alerts": list(found.alerts),
        }
        return answer(found, body)

    @router.head("/health/detailed", include_in_schema=False)
    @router.get("/health/detailed", summary="How each part of the system is; 503 if unhealthy")
    async def detailed() -> JSONResponse:
        found = await health_now()
        return answer(found, found.detailed())

    @router.head("/health/orchestration", include_in_schema=False)
    @router.get("/health/orchestration", summary="The coordinator and the pools of executors; 503 if unhealthy")
    async def orchestration() -> JSONResponse:
        found = await health_now()
        return answer(found, found.orchestration())

    return router
