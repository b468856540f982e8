"""The application on a database of the test's own, asked without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.web.app import create_app

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve() -> Serve:
    """``async with serve(url, **settings) as client``: the application on the database at ``url``."""

    @asynccontextmanager
    async def served(url: str, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
        with OrchestrationCore.from_settings(Settings.model_validate(settings), database_url=url) as core:
            app = create_app(core)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
                    yield client

    return served
