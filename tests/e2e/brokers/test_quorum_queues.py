"""RabbitMQ's quorum queues, with the settings that the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.brokers import fan
from tests.e2e.brokers.kinds import RabbitMq
from tests.e2e.brokers.site import TASKS, site_on

WORKER = ("-Q", "e2e,e2e_other,orchestration,plain", "-P", "prefork", "-c", "2", "-I", TASKS)
SETTINGS = {"task_default_queue_type": "quorum", "task_create_missing_queue_type": "quorum"}


@pytest.mark.long
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_workflows_and_ordinary_tasks_run_on_quorum_queues(broker: RabbitMq, tmp_path: Path) -> None:
    lines = [f"{name} = {value!r}" for name, value in {"broker_url": broker.url, **SETTINGS}.items()]
    (tmp_path / "celeryconfig.py").write_text("\n".join(lines))
    with site_on(broker, tmp_path, {}, broker_url=broker.url) as site:
        # Senders need it, too, or RabbitMQ refuses the queue.
        site.cluster.app.conf.update(SETTINGS)
        worker = site.worker("all", *WORKER)
        worker.wait_for_log("Global QoS is disabled")
        for times in (2, 3):
            handles = site.cluster.start(fan.fan, *({"n": n} for n in range(5)))
            assert set(site.cluster.wait(handles)) == {"complete"}
            worker.wait_for_log(site.echo(times))
            broker.close_connections()
            worker.wait_for_log("Connected to amqp://", times=times)
        assert broker.queue_types("e2e", "plain", "orchestration") == {"quorum"}
        assert worker.terminate() == 0
