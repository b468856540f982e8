"""Brokers that end connections, vanish and come back: executors go on meanwhile, and workers connect again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import workflows
from tests.e2e.brokers import fan
from tests.e2e.brokers.kinds import Broker
from tests.e2e.brokers.site import TASKS, Site, site_on
from tests.e2e.harness import CeleryProcess
from tests.waiting import wait_until

WORKER = ("-Q", "e2e,e2e_other,orchestration,plain", "-P", "prefork", "-c", "2", "-I", TASKS, "--without-mingle")


@pytest.fixture(scope="module")
def site(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    env = {"CELERY_BROKER_URL": broker.proxied_url}
    with site_on(broker, tmp_path_factory.mktemp("loss"), env, broker_url=broker.proxied_url) as made:
        yield made


def executors(site: Site) -> set[Any]:
    """The worker's two executors: one for orchestration, and one for steps."""
    found = {row["executor"] for kind in ("step_executor", "task_claimer") for row in site.cluster.executors(kind)}
    return found if len(found) == 2 else set()


def reconnected(site: Site, worker: CeleryProcess, times: int) -> None:
    """The worker is connected for the ``times``-th time, answers, and does ordinary tasks."""
    worker.wait_for_log(r"Connected to ", times=times)
    # Over a connection of its own: those of the pool were cut, too.
    with site.cluster.app.connection_for_write() as connection:
        inspect = site.cluster.app.control.inspect([f"{worker.name}@test"], timeout=1, connection=connection)
        wait_until(inspect.ping, "it answers")
    worker.wait_for_log(site.echo(times))


def test_executors_go_on_when_the_server_ends_all_connections(site: Site) -> None:
    cluster, worker = site.cluster, site.worker("all", *WORKER)
    before = wait_until(lambda: executors(site), "there are two executors")
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.02} for n in range(30)))
    wait_until(lambda: "complete" in site.states(handles), "some steps are complete")
    site.broker.close_connections()
    worker.wait_for_log("Connection to broker lost")
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}
    reconnected(site, worker, 2)
    assert executors(site) == before
    # One branch of this needs the broker.
    (handle,) = cluster.start(fan.fan, {"n": 1})
    assert cluster.wait([handle]) == ["complete"]


def test_workflows_run_while_there_is_no_broker_and_the_worker_comes_back_with_it(site: Site) -> None:
    cluster, worker = site.cluster, site.worker("all", *WORKER)
    before = wait_until(lambda: executors(site), "there are two executors")
    connected = worker.log.count("Connected to ")
    site.broker.vanish()
    tries = worker.log.count("Trying again")
    worker.wait_for_log("Trying again", times=tries + 1)
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(30)))
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}
    # A step that is a Celery task waits for the broker.
    (waiting,) = cluster.start(fan.fan, {"n": 2})
    wait_until(lambda: "in_progress" in site.states([waiting]), "it began")
    site.broker.proxy.appear()
    reconnected(site, worker, connected + 1)
    assert cluster.wait([waiting]) == ["complete"]
    assert executors(site) == before


@pytest.mark.long
def test_a_worker_can_be_stopped_while_there_is_no_broker(site: Site) -> None:
    cluster, worker = site.cluster, site.worker("all", *WORKER)
    wait_until(lambda: executors(site), "there are two executors")
    tries = worker.log.count("Trying again")
    site.broker.vanish()
    worker.wait_for_log("Trying again", times=tries + 1)
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.02} for n in range(30)))
    wait_until(lambda: "complete" in site.states(handles), "some steps are complete")
    assert worker.terminate() == 0
    assert "in_progress" not in site.states(handles)
    assert "enqueued" in site.states(handles)
    assert cluster.rows("SELECT * FROM tasker.executors") == []
    # And one that is started before its broker waits for it.
    another = site.worker("all", *WORKER, ready=False)
    another.wait_for_log("Trying again")
    site.broker.proxy.appear()
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}
    another.wait_for_log(rf"{another.name}@test ready\.")
