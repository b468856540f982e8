"""Flower's own pages in a real browser: workers, steps as tasks, one step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fixtures import MakeCluster
from tests.e2e.flower import Flower
from tests.waiting import wait_until
from tests.web import shop
from tests.web.browser import Browser, opened

ORDERS = (*({"order": n} for n in range(1, 4)), {"order": 4, "busy": True}, {"order": 5, "card": "expired"})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with opened(tmp_path) as browser:
        yield browser


def test_the_pages_show_workers_and_every_step_with_its_state_and_what_became_of_it(
    make_cluster: MakeCluster, browser: Browser
) -> None:
    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="tests.web.shop")
    cluster.register(shop.orders)
    flower = Flower(cluster)
    cluster.worker("-E", "-Q", "shop", "-c", "2", name="steps")
    cluster.worker("-E", "-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration")
    for worker in ("steps@test", "orchestration@test"):
        flower.wait_for_worker(worker)
    *well, declined = cluster.start(shop.orders, *ORDERS)
    assert cluster.wait([*well, declined]) == ["complete"] * 4 + ["error"]
    charged = {step.name: step.step_uuid for step in cluster.client.steps(declined)}["charge_card"]
    retried = {step.name: step.step_uuid for step in cluster.client.steps(well[-1])}["reserve_inventory"]
    flower.wait_for(charged, "FAILURE")
    for handle in well:
        for step in cluster.client.steps(handle):
            flower.wait_for(step.step_uuid, "SUCCESS")

    def both_online() -> list[str] | None:
        browser.open(f"{flower.url}/workers")
        rows = browser.wait_for_rows("#workers-table", "steps@test", "orchestration@test")
        return rows if all("Online" in row for row in rows) else None

    # Heartbeats, which tell of what is active, come every two seconds.
    rows = wait_until(both_online, "both workers are online")
    assert len(rows) == 2
    browser.picture("flower_workers")

    browser.open(f"{flower.url}/tasks")
    rows = browser.wait_for_rows("#tasks-table", "shop.process_order.charge_card", str(charged))
    states = {row.split()[0]: row for row in rows if "shop.process_order." in row}
    assert states.keys() == {
        f"shop.process_order.{step}" for step in ("validate_order", "reserve_inventory", "charge_card", "send_receipt")
    }
    (failed,) = (row for row in rows if str(charged) in row)
    assert "FAILURE" in failed
    assert "steps@test" in failed
    browser.picture("flower_tasks")

    browser.open(f"{flower.url}/task/{charged}")
    wait_until(lambda: "card_declined('the card has expired')" in browser.text, "the page says why the step failed")
    assert str(declined.task_uuid) in browser.text
    browser.picture("flower_failed_step")
    browser.open(f"{flower.url}/task/{retried}")
    wait_until(lambda: "SUCCESS" in browser.text, "the page of the step that was retried")
    assert "Retries\n1" in browser.text or "Retries 1" in browser.text

    browser.open(f"{flower.url}/worker/orchestration@test")
    wait_until(lambda: "orchestration@test" in browser.text, "the worker's page")
    assert browser.complaints() == []
