"""``tasker up``: one program, whatever ends it nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.e2e import workflows
from tests.e2e.harness import Cluster
from tests.waiting import PATIENCE_SECONDS, wait_until


class Up:
    """``tasker up`` in a session of its own, so that it can be interrupted as from a terminal."""

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        self.log_path = cluster.folder / "up.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from tasker.cli import main; main()", "up", "-c", "1", *arguments],
                cwd=cluster.folder,
                env=cluster.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def family(self) -> list[psutil.Process]:
        """All that it started, and what that started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def up(cluster: Cluster) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(cluster, *arguments))
        wait_until(lambda: len(cluster.rows("SELECT * FROM tasker.workers")) == 2, "both workers registered")
        return started[-1]

    yield start
    for each in started:
        print(each.log)
        family = each.family() if each.process.poll() is None else []
        for process in [*family, each.process]:
            try:
                process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        each.process.wait()


def workers(cluster: Cluster) -> dict[str, Any]:
    """The rows of workers, by the names they have in ``tasker up``."""
    return {row["hostname"].partition("@")[0]: row for row in cluster.rows("SELECT * FROM tasker.workers")}


def gone(family: list[psutil.Process]) -> bool:
    return not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_up_runs_workflows_and_one_ctrl_c_stops_all_of_it_in_order(cluster: Cluster, up: Callable[..., Up]) -> None:
    running = up("--no-flower", "--no-server")
    # A namespace that did not exist when it started is served, too.
    cluster.register(workflows.linear)
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(20)))
    assert set(cluster.wait(handles)) == {"complete"}
    wait_until(lambda: "e2e" in workers(cluster)["steps"]["queues"], "the worker's row names the new queues")
    hosts = workers(cluster)
    assert (hosts["orchestration"]["pool"], hosts["orchestration"]["concurrency"]) == ("threads", 3)
    assert (hosts["steps"]["pool"], hosts["steps"]["concurrency"]) == ("prefork", 2)
    assert hosts["orchestration"]["queues"] == ["orchestration"]
    assert {"e2e", "e2e_other"} < set(hosts["steps"]["queues"])
    wait_until(lambda: cluster.value("SELECT ticks FROM tasker.coordinator"), "beat made the coordinator tick")

    family = running.family()
    running.process.send_signal(signal.SIGINT)
    assert running.wait() == 0
    assert gone(family)
    assert running.log.rstrip().endswith("Stopped.")
    assert cluster.rows("SELECT * FROM tasker.workers") == []
    assert cluster.rows("SELECT * FROM tasker.executors") == []
    assert "Traceback" not in running.log


def test_a_worker_that_is_killed_is_started_again(cluster: Cluster, up: Callable[..., Up]) -> None:
    cluster.register(workflows.linear)
    running = up("--no-flower", "--no-server")
    pid = workers(cluster)["steps"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: workers(cluster)["steps"]["pid"] != pid, "another worker took its place")
    assert "steps was killed by SIGKILL; it is started again" in running.log
    handles = cluster.start(workflows.linear, {"n": 1})
    assert cluster.wait(handles) == ["complete"]


def test_nothing_outlives_up_when_it_is_killed(cluster: Cluster, up: Callable[..., Up]) -> None:
    running = up("--no-flower", "--no-server")
    family = running.family()
    running.process.kill()
    running.wait()
    wait_until(lambda: gone(family), "all that it started ended")
