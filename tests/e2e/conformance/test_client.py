"""A client in another language creates tasks and follows them, with no more than the role of a client."""

from __future__ import annotations

import pytest

from tests.e2e.conformance.kit import INHOUSE, Site, step

pytestmark = pytest.mark.orchestration


@pytest.fixture
def shop(site: Site) -> Site:
    site.register(
        step("start", "conformance.start"), step("double", "conformance.multiply", "start", initialization={"by": 2})
    )
    site.work_in_house()
    site.partner()
    return site


def test_tasks_are_created_by_sql_and_waited_for(shop: Site) -> None:
    made = shop.ask_client("create", INHOUSE, "flow", '{"n": 21}')
    assert (made["is_new"], made["state"]) == (True, "in_progress")
    assert shop.ask_client("wait", made["task_uuid"]) == {"state": "complete"}
    assert shop.results(made["task_uuid"])["double"] == {"value": 42}


def test_the_same_key_is_the_same_task_by_sql_and_by_message(shop: Site) -> None:
    made = shop.ask_client("create", INHOUSE, "flow", '{"n": 1}', "order-1")
    again = shop.ask_client("create", INHOUSE, "flow", '{"n": 2}', "order-1")
    assert again["task_uuid"] == made["task_uuid"]
    assert (again["is_new"], again["same_context"]) == (False, False)
    shop.ask_client("request", INHOUSE, "flow", '{"n": 1}', "order-1")
    shop.ask_client("request", INHOUSE, "flow", '{"n": 7}', "order-7")
    shop.ask_client("request", INHOUSE, "flow", '{"n": 7}', "order-7")
    shop.wait_for(made["task_uuid"])
    seven = shop.ask_client("create", INHOUSE, "flow", '{"n": 7}', "order-7")
    assert shop.ask_client("wait", seven["task_uuid"]) == {"state": "complete"}
    assert shop.sql.one("SELECT count(*) FROM tasker.tasks") == 2


def test_mistakes_come_with_their_sqlstate(shop: Site) -> None:
    assert shop.ask_client("create", INHOUSE, "nothing", "{}")["sqlstate"] == "TK002"
    assert shop.ask_client("create", INHOUSE, "flow", "[1]")["sqlstate"] == "TK001"


def test_a_task_is_cancelled(site: Site) -> None:
    site.register(step("start", "conformance.start"))
    (task,) = site.create(1)
    assert site.ask_client("cancel", task)["tasks"] == [{"task_uuid": task, "changed": True, "state": "cancelled"}]
    assert site.ask_client("wait", task) == {"state": "cancelled"}
