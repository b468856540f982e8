from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest

from tasker.client.tasker import Tasker
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.testing import run_until_idle
from web_enqueue.app import create_app

LAMP = {"customer": "ada", "item": "lamp", "price_cents": 4500}


@pytest.fixture
def tasker_settings(tasker_settings: Settings) -> Settings:
    engine = tasker_settings.engine.model_copy(update={"handler_modules": ("web_enqueue.workflow",)})
    return tasker_settings.model_copy(update={"engine": engine})


@pytest.fixture
async def web(tasker_core: OrchestrationCore) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the program, which runs in this process."""
    app = create_app(tasker_core)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        yield client


def counts(core: OrchestrationCore) -> tuple[int, ...]:
    """How many orders, tasks, steps and messages of the step queue there are."""
    tables = ("web_orders", "tasker.tasks", "tasker.workflow_steps", "pgmq.q_web_shop_queue")
    with psycopg.connect(core.database.url) as connection:
        return tuple(
            value
            for table in tables
            for (value,) in connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
        )


async def test_an_order_that_is_committed_is_enqueued_with_it(
    web: httpx.AsyncClient, tasker_core: OrchestrationCore, tasker_client: Tasker
) -> None:
    answer = await web.post("/orders", json=LAMP)
    assert answer.status_code == 202, answer.text
    assert counts(tasker_core) == (1, 1, 2, 1)
    number = answer.json()["order_id"]
    assert (await web.get(f"/orders/{number}")).json()["delivery"] == "in_progress"

    run_until_idle(tasker_core)
    assert (await web.get(f"/orders/{number}")).json()["delivery"] == "complete"
    assert tasker_client.results(answer.json()["task_uuid"])["announce"] == {
        "to": "ada",
        "text": f"lamp is on its way in P-{number:06d}",
    }


async def test_an_order_that_fails_after_it_was_enqueued_leaves_nothing(
    web: httpx.AsyncClient, tasker_core: OrchestrationCore
) -> None:
    assert [(await web.post("/orders", json=LAMP)).status_code for _ in range(2)] == [202, 202]
    before = counts(tasker_core)
    answer = await web.post("/orders", json=LAMP)
    assert (answer.status_code, answer.json()["detail"]) == (409, "ada has not enough credit left")
    assert counts(tasker_core) == before == (2, 2, 4, 2)


async def test_a_body_that_is_no_order_starts_nothing(web: httpx.AsyncClient, tasker_core: OrchestrationCore) -> None:
    assert (await web.post("/orders", json={**LAMP, "price_cents": 0})).status_code == 422
    assert (await web.get("/orders/1")).status_code == 404
    assert counts(tasker_core)[:2] == (0, 0)
