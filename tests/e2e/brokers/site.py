"""Processes on one broker, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasker.client.handle import TaskHandle
from tests.e2e import workflows
from tests.e2e.brokers import fan
from tests.e2e.brokers.kinds import Broker
from tests.e2e.foreign.redis_server import close
from tests.e2e.harness import CeleryProcess, Cluster
from tests.sql_kit import assert_legal

TASKS = "tests.e2e.celery_tasks"
"""The module of ordinary tasks, which workers get by ``-I``."""


class Site:
    """Celery processes on one broker; a test that needs one which an earlier test ended starts another.

    Args:
        broker: the broker.
        cluster: the processes, and the database.
    """

    def __init__(self, broker: Broker, cluster: Cluster) -> None:
        self.broker = broker
        self.cluster = cluster
        self._workers: dict[str, CeleryProcess] = {}
        self._started = 0

    def worker(self, name: str, *arguments: str, ready: bool = True) -> CeleryProcess:
        """The worker of that name; it runs, and is ready to work unless ``ready`` is false."""
        found = self._workers.get(name)
        if found is None or not found.running:
            self._started += 1
            found = self.cluster.worker(*arguments, name=f"{name}{self._started}", ready=False)
            self._workers[name] = found
        if ready:
            found.wait_for_log(rf"{found.name}@test ready\.")
        return found

    def echo(self, value: int) -> str:
        """Send an ordinary task; what the log of its worker says when it has run, as a pattern."""
        sent = self.cluster.app.send_task(f"{TASKS}.echo", (value,), queue="plain", ignore_result=True)
        return rf"celery_tasks\.echo\[{sent.id}\] succeeded in \S+s: {value}"

    def states(self, handles: Sequence[TaskHandle]) -> set[str]:
        """The states in which steps of the tasks are."""
        uuids = [handle.task_uuid for handle in handles]
        query = "SELECT DISTINCT state FROM tasker.workflow_steps WHERE task_uuid = ANY (%s)"
        return {row["state"] for row in self.cluster.rows(query, uuids)}


@contextmanager
def site_on(broker: Broker, folder: Path, env: Mapping[str, str], *, broker_url: str) -> Iterator[Site]:
    """A site whose workflows are registered, and which is gone with all it left behind at the end of the block.

    Args:
        broker: the broker.
        folder: logs, and the processes' working directory.
        env: their settings, as environment variables.
        broker_url: where the client finds the broker; processes are told by ``env`` or a file in ``folder``.
    """
    handlers = {"TASKER_ENGINE__HANDLER_MODULES": '["tests.e2e.workflows", "tests.e2e.brokers.fan"]'}
    cluster = Cluster(broker.database_url, folder, {**handlers, "C_FORCE_ROOT": "1", **env}, broker_url=broker_url)
    try:
        cluster.register(workflows.linear, workflows.paced, fan.fan)
        yield Site(broker, cluster)
    finally:
        report = cluster.report()
        close(cluster.app)
        cluster.close()
        # Shown by pytest with a test that failed.
        print(report)
    assert_legal(broker.database_url)
