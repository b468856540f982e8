"""Tasker's worker as a node of pytest-celery's: a process behind the plugin's own interface, without Docker."""

from __future__ import annotations

import signal as signals
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestContainer,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from tests.e2e import workflows
from tests.e2e.brokers.kinds import Broker
from tests.e2e.brokers.site import TASKS, Site, site_on
from tests.e2e.foreign.redis_server import close
from tests.e2e.harness import CeleryProcess
from tests.waiting import wait_until

WORKER = ("-Q", "e2e,e2e_other,plain", "-P", "threads", "-c", "1", "-I", TASKS, "--without-mingle")


class BrokerPlace(CeleryTestContainer):
    """Where a broker is; its server is nobody's to stop."""

    name = "broker"
    status = "running"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self._broker.url, "host_url": self._broker.url}

    def ready(self) -> bool:
        return True


class WorkerProcess(CeleryTestContainer):
    """A worker's process in the place of its container."""

    name = "worker"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process = self._start()

    def _start(self) -> CeleryProcess:
        return self._site.worker("node", *WORKER, ready=False)

    @property
    def id(self) -> str:
        return self._process.name

    @property
    def status(self) -> str:
        return "running" if self._process.running else "exited"

    def logs(self) -> str:
        return self._process.log

    def ready(self) -> bool:
        self._process.wait_for_log(rf"{self.id}@test ready\.")
        return True

    def reload(self) -> None:
        """Nothing is remembered of a process."""

    def kill(self, signal: str | int) -> None:
        self._process.signal(signals.Signals[signal] if isinstance(signal, str) else signal)
        self._process.wait()

    def restart(self, timeout: float) -> None:
        if self._process.running:
            self._process.terminate()
        self._process = self._start()


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    with site_on(broker, tmp_path, {"CELERY_BROKER_URL": broker.url}, broker_url=broker.url) as made:
        yield made


# -- fixtures of the plugin that ``celery_setup`` is made of ------------------------------------------------------


@pytest.fixture
def celery_broker_cluster(broker: Broker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(BrokerPlace(broker)))


@pytest.fixture
def celery_backend_cluster() -> None:
    """No results are kept."""


@pytest.fixture
def celery_worker_cluster(site: Site) -> CeleryWorkerCluster:
    cluster = CeleryWorkerCluster(CeleryTestWorker(WorkerProcess(site), site.cluster.app))
    assert cluster.ready()
    return cluster


@pytest.fixture
def celery_worker_cluster_config(celery_broker_cluster: CeleryBrokerCluster) -> dict[str, object]:
    return {"celery_broker_cluster_config": celery_broker_cluster.config()}


# -- the test -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broker",
    ["pgmq", pytest.param("redis", marks=pytest.mark.long), pytest.param("rabbitmq", marks=pytest.mark.long)],
    indirect=True,
)
def test_a_worker_node_is_killed_and_restarted_and_workflows_go_on(celery_setup: CeleryTestSetup, site: Site) -> None:
    assert celery_setup.ready(control=True)
    worker, cluster = celery_setup.worker, site.cluster
    (first,) = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait([first]) == ["complete"]
    worker.kill("SIGTERM")
    worker.assert_log_exists("Warm shutdown")
    (second,) = cluster.start(workflows.linear, {"n": 2})
    worker.restart()
    assert worker.ready()
    assert cluster.wait([second]) == ["complete"]
    sent = celery_setup.app.send_task(f"{TASKS}.echo", (3,), queue="plain", ignore_result=True)
    worker.assert_log_exists(f"echo[{sent.id}] succeeded")
    wait_until(lambda: celery_setup.app.control.ping(timeout=1), "it answers the plugin's app")
    close(celery_setup.app)
