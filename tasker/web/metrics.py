"""Metrics over HTTP, for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import Response

from tasker.coordinator.counting import count_history
from tasker.coordinator.health import read_health
from tasker.core import OrchestrationCore
from tasker.database import figures
from tasker.database.calls import run
from tasker.errors import TaskerError
from tasker.observability.metrics import Samples, render, samples
from tasker.web.asking import Allowance, Asking
from tasker.web.problems import problem

logger = logging.getLogger(__name__)

METRICS_SECONDS = 8.0
"""Longest wait for the database; less where ``web.request_timeout_ms`` is. Prometheus gives up after ten."""

RETRY_AFTER_SECONDS = 5
_NOT_COUNTED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)


def read_samples(core: OrchestrationCore, patience_seconds: float, circuits: Mapping[str, str]) -> Samples:
    """Count what has come to the history, and read all.

    Args:
        core: the database.
        patience_seconds: longest silence of the server that is borne.
        circuits: state of this process's circuits; those that all share are known by the database.

    Raises:
        psycopg.Error, TaskerError: the database cannot be asked.
    """
    with core.database.connection(patience_seconds=patience_seconds) as connection:
        try:
            count_history(connection)
        except _NOT_COUNTED as error:
            # The coordinator's ticks count, too; what is counted can be shown.
            logger.warning("The history could not be counted for metrics: %s", error)
        found = run(connection, figures.get_metrics())
        queues = run(connection, figures.queue_depths())
    health = read_health(core.database, core.settings, circuits, patience_seconds=patience_seconds)
    states: Mapping[str, str] = health.components["circuits"].figures["states"]
    return samples(found, queues, health.pools, states)


def routes(core: OrchestrationCore, asking: Asking) -> APIRouter:
    """The endpoint.

    Args:
        core: the database, and the circuits of this process.
        asking: runs what blocks.
    """
    router = APIRouter(tags=["metrics"])
    allowed = Allowance.of(core.settings.web.request_timeout_ms, METRICS_SECONDS)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="Metrics of all processes, as Prometheus reads them")
    async def metrics(request: Request) -> Response:
        try:
            found = await asking.ask(
                read_samples, core, allowed.patience_seconds, core.circuits.states(), seconds=allowed.seconds
            )
        except (psycopg.Error, TaskerError, OSError) as error:  # a TimeoutError is an OSError
            reason = " ".join(str(error).split()) or f"no answer within {allowed.seconds:g} s"
            detail = f"the database cannot be asked: {reason}"
            return problem(503, detail, retry_after_seconds=RETRY_AFTER_SECONDS)
        page, content_type = render(found, request.headers.get("accept", ""))
        return Response(page, media_type=None, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return router
