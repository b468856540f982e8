"""What Tasker does by Celery's broker works on each: processes are told the broker's URL, and nothing else of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import workflows
from tests.e2e.brokers import fan
from tests.e2e.brokers.kinds import Broker
from tests.e2e.brokers.site import TASKS, Site, site_on
from tests.e2e.events import watched
from tests.e2e.harness import CeleryProcess
from tests.integration.test_docs_how_to import blocks
from tests.waiting import wait_until

# One slot for a resident executor and two to spare, of which the coordinator takes one: it wants two executors.
SETTINGS = {
    "TASKER_ORCHESTRATION__SPARE_SLOTS": "2",
    "TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__MIN_EXECUTORS": "2",
    "TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS": "300",
}
CONFIGURATION = """
broker_url = {broker_url!r}
result_backend = {result_backend!r}
worker_send_task_events = True
"""
STEPS = ("-Q", "e2e,e2e_other,plain", "-P", "prefork", "-c", "1", "-I", TASKS, "--without-mingle")
ORCHESTRATION = ("-Q", "orchestration", "-P", "threads", "-c", "1")


class Processes:
    """A worker for steps and ordinary tasks, one for orchestration, beat and Flower."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cluster = site.cluster
        self.steps(ready=False)
        self.orchestration = site.worker("orchestration", *ORCHESTRATION, ready=False)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._flower_port = free.getsockname()[1]
        self.cluster.flower(self._flower_port)
        self.cluster.beat()
        self.steps()
        self.orchestration.wait_for_log(r"orchestration\d@test ready\.")

    def steps(self, *, ready: bool = True) -> CeleryProcess:
        """The worker that runs steps and ordinary tasks."""
        return self.site.worker("steps", *STEPS, ready=ready)

    def executors(self) -> list[dict[str, Any]]:
        """The worker's executors as tasks that it runs, once there are one of its own and one that was asked for."""
        name = f"{self.steps().name}@test"
        active = (self.cluster.app.control.inspect([name], timeout=2).active() or {}).get(name, [])
        found = [task for task in active if task["name"] == "tasker.run_executors"]
        return found if len({is_local(task) for task in found}) == 2 else []

    def flower_worker(self, name: str) -> dict[str, Any]:
        """What Flower knows of a worker."""
        found: dict[str, Any] = (self.flower(f"workers?refresh=1&workername={name}") or {}).get(name, {})
        return found

    def flower(self, path: str) -> Any:
        """What Flower's API answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._flower_port}/api/{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:  # it does not listen yet, or does not know it
            return None


@pytest.fixture(scope="module")
def processes(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder = tmp_path_factory.mktemp("brokers")
    configuration = CONFIGURATION.format(broker_url=broker.url, result_backend=broker.result_backend)
    (folder / "celeryconfig.py").write_text(configuration)
    with site_on(broker, folder, SETTINGS, broker_url=broker.url) as site:
        yield Processes(site)


def is_local(task: dict[str, Any]) -> bool:
    """Whether an executor was started by its worker, and not by a message."""
    return bool(task["delivery_info"]["routing_key"] == "tasker.local")


def test_a_workflow_fans_out_and_joins_and_each_of_its_steps_runs_once(processes: Processes) -> None:
    cluster = processes.cluster
    handles = cluster.start(fan.fan, *({"n": n} for n in range(10)))
    assert set(cluster.wait(handles)) == {"complete"}
    # One branch is a Celery task, which went through the broker, as did its outcome.
    assert [handle.results["joined"]["value"] for handle in handles] == [2 * n + n**2 + n for n in range(10)]
    assert set(cluster.losses(handles)) == {(1, 0)}


def test_beat_has_the_coordinator_ask_for_the_executor_that_is_missing(processes: Processes) -> None:
    processes.orchestration.wait_for_log(r"coordinator_tick\[[-0-9a-f]+\] succeeded in \S+s: \{'ticked': True")
    found = wait_until(processes.executors, "there is one that came by message")
    assert all(task["args"] == ["step_executor", ["e2e", "e2e_other"]] for task in found)
    # The message is acknowledged while its executor runs: it must not come again.
    wait_until(lambda: processes.site.broker.waiting(processes.cluster.app, "e2e") == 0, "nothing is left in the queue")


# What came by a message is asked for again, but not before it counts as lost.
@pytest.mark.parametrize(
    "came_by_message", [False, pytest.param(True, marks=pytest.mark.long)], ids=["resident", "asked for"]
)
def test_an_executor_whose_process_is_killed_is_replaced(processes: Processes, came_by_message: bool) -> None:
    cluster = processes.cluster
    doomed = {
        task["worker_pid"]
        for task in wait_until(processes.executors, "there are executors of both sorts")
        if is_local(task) != came_by_message
    }
    for child in processes.steps().children():
        if child.pid in doomed:
            child.kill()
    wait_until(
        lambda: any(
            is_local(task) != came_by_message and task["worker_pid"] not in doomed for task in processes.executors()
        ),
        "another took its place",
    )
    handles = cluster.start(workflows.linear, *({"n": n} for n in range(10)))
    assert set(cluster.wait(handles)) == {"complete"}


def test_ordinary_tasks_run_beside_executors_on_the_same_worker(processes: Processes) -> None:
    cluster = processes.cluster
    gate = cluster.folder / "gate"
    (handle,) = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})
    wait_until(gate.with_name("gate.reached").exists, "an executor is busy")
    for done in [processes.site.echo(number) for number in range(3)]:
        processes.steps().wait_for_log(done)
    gate.touch()
    assert cluster.wait([handle]) == ["complete"]


def test_remote_control_answers(processes: Processes) -> None:
    cluster, name = processes.cluster, f"{processes.steps().name}@test"
    wait_until(processes.executors, "there are two executors, as inspect active says")
    inspect = cluster.app.control.inspect([name], timeout=10)
    assert inspect.ping() == {name: {"ok": "pong"}}
    (stats,) = inspect.stats().values()
    assert stats["pool"]["max-concurrency"] == 3
    assert stats["total"]["tasker.run_executors"] >= 2
    assert {queue["name"] for queue in inspect.active_queues()[name]} == {"e2e", "e2e_other", "plain"}


def test_flower_sees_workers_ordinary_tasks_and_steps(processes: Processes) -> None:
    cluster, worker = processes.cluster, processes.steps()
    name = f"{worker.name}@test"
    # Asked again, as a worker that is busy with another look answers late.
    wait_until(
        lambda: {"plain"} <= {queue["name"] for queue in processes.flower_worker(name).get("active_queues") or ()},
        "Flower sees the worker and its queues",
    )
    sent = cluster.app.send_task(f"{TASKS}.echo", (7,), queue="plain")
    (handle,) = cluster.start(fan.fan, {"n": 1})
    info = wait_until(
        lambda: found if (found := processes.flower(f"task/info/{sent.id}")) and found["state"] == "SUCCESS" else None,
        "Flower sees the end of the task",
    )
    assert (info["name"], info["result"], info["worker"]) == (f"{TASKS}.echo", "7", name)
    assert cluster.wait([handle]) == ["complete"]
    for step in cluster.client.steps(handle):
        if step.name != "echoed":  # which is an ordinary task, with an id of its own

            def ended(uuid: object = step.step_uuid) -> Any:
                found = processes.flower(f"task/info/{uuid}")
                return found if found and found["state"] == "SUCCESS" else None

            info = wait_until(ended, f"Flower sees the end of step {step.name}")
            assert (info["worker"], info["root_id"]) == (name, str(handle.task_uuid))
            assert info["name"].endswith(f".fan.{step.name}")


def test_a_receiver_is_told_of_every_step_in_the_order_of_what_happened(processes: Processes) -> None:
    cluster, worker = processes.cluster, processes.steps()
    with watched(cluster.app) as watcher:
        handles = cluster.start(workflows.linear, *({"n": n} for n in range(10)))
        assert set(cluster.wait(handles)) == {"complete"}
        for step in (step for handle in handles for step in cluster.client.steps(handle)):
            task = watcher.wait_for(step.step_uuid, "task-succeeded")
            assert (task.state, task.worker.hostname) == ("SUCCESS", f"{worker.name}@test")
            assert watcher.of(step.step_uuid) == ["task-received", "task-started", "task-succeeded"]


def test_a_program_that_has_only_celery_starts_a_workflow_and_is_told_its_uuid(processes: Processes) -> None:
    cluster, broker = processes.cluster, processes.site.broker
    (program,) = blocks("how-to/enqueue_from_celery.md", "python")
    file = cluster.folder / "program.py"
    file.write_text(program.replace('"fulfillment", "process_order", {"order_id": 47}', '"e2e", "linear", {"n": 47}'))
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parent / "celery_only.py"),
            *(["--with-tasker"] if broker.needs_tasker else []),
            *(broker.url, broker.result_backend, str(file)),
        ],
        env=cluster.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    task_uuid = done.stdout.strip()
    assert cluster.client.wait(task_uuid, timeout=30).state == "complete"
    record = cluster.client.get(task_uuid)
    assert (record.context, list(record.tags)) == ({"n": 47}, ["web"])


@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("control shutdown", marks=pytest.mark.long)])
def test_a_worker_that_is_stopped_under_load_loses_no_attempt(processes: Processes, how: str) -> None:
    cluster = processes.cluster
    worker = processes.steps()
    pids = {child.pid for child in worker.children()}
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.03} for n in range(30)))
    wait_until(lambda: "complete" in processes.site.states(handles), "some steps ran")
    if how == "SIGTERM":
        worker.signal(signal.SIGTERM)
    else:
        cluster.app.control.shutdown(destination=[f"{worker.name}@test"])
    assert worker.wait() == 0
    assert "in_progress" not in processes.site.states(handles)
    assert "enqueued" in processes.site.states(handles)
    assert not pids & {executor["pid"] for executor in cluster.executors()}
    processes.steps(ready=False)
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}
