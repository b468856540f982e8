"""The main example from end to end: in this process with a clock that moves, and on real Celery workers."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import order_fulfillment.__main__
from order_fulfillment import shop
from order_fulfillment.checks import run_checks
from order_fulfillment.progress import read_outcomes, read_progress
from order_fulfillment.submissions import TEMPLATE, Submissions, read_submissions
from tasker.client.tasker import Tasker
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.testing import Clock, run_until_idle
from tasker.workflows.registry import TemplateRegistry
from tests.e2e.fixtures import MakeCluster, make_cluster
from tests.e2e.harness import ROOT, Cluster
from tests.waiting import wait_until

__all__ = ["make_cluster"]

EXAMPLES = Path(shop.__file__).parents[1]
NAMESPACES = "fulfillment,inventory,payments,notifications"


@pytest.fixture
def tasker_settings(tasker_settings: Settings) -> Settings:
    engine = tasker_settings.engine.model_copy(update={"handler_modules": ("order_fulfillment",)})
    return tasker_settings.model_copy(update={"engine": engine})


@pytest.fixture
def shop_url(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    shop.set_up(tasker_database_url)
    yield tasker_database_url
    shop.close()


def assert_all_is_right(url: str, submissions: Submissions) -> None:
    with closing(shop.connect(url)) as connection:
        wrong = [check for check in run_checks(connection, submissions) if not check.ok]
    assert wrong == []


def test_orders_with_every_flaw_end_as_they_must(
    shop_url: str, tasker_core: OrchestrationCore, tasker_client: Tasker, tasker_clock: Clock
) -> None:
    submissions = read_submissions(120)
    tasker_core.templates.load([TEMPLATE])
    handles = tasker_client.create_many(submissions.requests())
    assert sum(handle.is_new for handle in handles) == len(submissions.order_ids) == 120
    assert sum(not handle.is_new for handle in handles) == submissions.repeats > 0

    with closing(shop.connect(shop_url)) as connection:
        while read_progress(connection).finished < 120:
            run_until_idle(tasker_core, timeout_seconds=100)
            tasker_clock.advance(seconds=5)  # past the back-off of those that met an outage
        outcomes = read_outcomes(connection)
        steps = read_progress(connection).steps
    assert_all_is_right(shop_url, submissions)
    assert outcomes.fulfilled + sum(outcomes.refused.values()) == 120
    assert outcomes.outages > 0
    assert outcomes.recovered > 0
    assert outcomes.repeated_runs > 0, "an outage after the work, found done by the next attempt"
    assert [step.complete for step in steps if step.name == "close_order"] == [outcomes.fulfilled]


def order_cluster(make_cluster: MakeCluster) -> Cluster:
    """A cluster that knows the workflow, without workers yet."""
    cluster = make_cluster(
        TASKER_ENGINE__HANDLER_MODULES="order_fulfillment", PYTHONPATH=os.pathsep.join([str(ROOT), str(EXAMPLES)])
    )
    TemplateRegistry(cluster.database, cluster.settings).load([TEMPLATE])
    return cluster


def finished(url: str) -> int:
    with closing(shop.connect(url)) as connection:
        return read_progress(connection).finished


def test_orders_on_real_workers_survive_the_death_of_one_of_them(shop_url: str, make_cluster: MakeCluster) -> None:
    cluster = order_cluster(make_cluster)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "2")
    cluster.beat()
    doomed = cluster.worker("-Q", NAMESPACES, "-c", "2")
    submissions = read_submissions(150)
    handles = cluster.client.create_many(submissions.requests())

    wait_until(lambda: finished(shop_url) >= 10, "the first orders have ended")
    os.kill(doomed.children()[0].pid, signal.SIGKILL)
    doomed.kill_all()
    assert finished(shop_url) < 150
    cluster.worker("-Q", NAMESPACES, "-c", "2")

    cluster.wait(handles)
    assert_all_is_right(shop_url, submissions)


def test_the_steps_by_hand_come_to_the_same(shop_url: str, tasker_core: OrchestrationCore, tasker_clock: Clock) -> None:
    def by_hand(*arguments: str) -> str:
        done = CliRunner().invoke(order_fulfillment.__main__.main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    assert by_hand("set-up") == "registered fulfillment/process_order:1.0.0\n"
    assert by_hand("submit", "--orders", "30") == "31 orders sent, 30 of them new\n"
    assert "engine and shop agree" not in by_hand("show", "--orders", "30")
    with closing(shop.connect(shop_url)) as connection:
        while read_progress(connection).finished < 30:
            run_until_idle(tasker_core, timeout_seconds=100)
            tasker_clock.advance(seconds=5)
    assert re.search(r"engine and shop agree +yes", by_hand("show", "--orders", "30"))
