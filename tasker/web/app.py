"""The HTTP application: what ``tasker server`` serves, and what tests and others mount."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from tasker.core import OrchestrationCore
from tasker.database.migrations import release
from tasker.web import health, metrics, problems
from tasker.web.asking import Asking
from tasker.web.limits import Limits


def create_app(core: OrchestrationCore) -> FastAPI:
    """The application, on a core that whoever called closes after it.

    Args:
        core: the database, the settings, the circuits.
    """
    web = core.settings.web
    asking = Asking(core.database.max_connections)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        asking.close()

    app = FastAPI(
        title="Tasker",
        version=release(),
        docs_url="/api-docs/ui",
        redoc_url=None,
        openapi_url="/api-docs/openapi.json",
        lifespan=lifespan,
    )
    problems.install(app)
    app.include_router(health.routes(core, asking))
    app.include_router(metrics.routes(core, asking))
    app.add_middleware(Limits, timeout_seconds=web.request_timeout_ms / 1000, most=web.max_concurrent_requests)
    return app
