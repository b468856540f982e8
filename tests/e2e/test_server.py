"""``tasker server`` and ``tasker-server`` as real processes: probes in an outage, metrics through kills, their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasker.database.migrations import migrate
from tests.e2e import workflows
from tests.e2e.harness import Cluster
from tests.embedded_support import kill_postmaster, server_folder
from tests.embedded_support import start as start_embedded
from tests.waiting import PATIENCE_SECONDS, wait_until

SERVER = "from tasker.cli import main; main()"
SUPERVISED = "from tasker.cli.server import supervised; supervised()"

Labels = tuple[tuple[str, str], ...]


class Served:
    """A program that serves HTTP, in a session of its own."""

    def __init__(self, folder: Path, env: Mapping[str, str], code: str, *arguments: str) -> None:
        self.log_path = folder / "server.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=self.url(), timeout=PATIENCE_SECONDS)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def url(self, times: int = 1) -> str:
        """Where it listens, as it says; the ``times``-th server that was started."""

        def found() -> str | None:
            urls = re.findall(r"Tasker's server: (http://\S+)", self.log)
            assert self.process.poll() is None, self.log
            return urls[times - 1] if len(urls) >= times else None

        return wait_until(found, f"it listens:\n{self.log}")

    def status(self, path: str) -> int:
        return self.client.get(path).status_code

    def metrics(self) -> dict[tuple[str, Labels], float]:
        """Every sample of /metrics."""
        answer = self.client.get("/metrics")
        assert answer.status_code == 200, answer.text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(env: Mapping[str, str], code: str = SERVER, *arguments: str) -> Served:
        started.append(Served(tmp_path, env, code, *(arguments or ("server", "--bind", "127.0.0.1:0"))))
        return started[-1]

    yield start
    for each in started:
        print(each.log)
        each.client.close()
        family = psutil.Process(each.process.pid).children(recursive=True) if each.process.poll() is None else []
        for process in [*family, each.process]:
            try:
                process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        each.process.wait()


def test_the_server_answers_through_the_death_of_its_database_and_ends_when_told(serve: Serve) -> None:
    with server_folder() as folder:
        database = start_embedded(folder)
        try:
            migrate(database.url)
            server = serve({**os.environ, "DATABASE_URL": database.url, "TASKER_ENV": "test"})
            assert (server.status("/live"), server.status("/ready")) == (200, 200)
            kill_postmaster(folder)
            wait_until(lambda: server.status("/ready") == 503, "the server is not ready")
            assert server.status("/live") == 200
            assert server.status("/health") == 503
            assert server.status("/metrics") == 503
            database.ensure_running()
            wait_until(lambda: server.status("/ready") == 200, "the server is ready again")
            kill_postmaster(folder)
            wait_until(lambda: server.status("/ready") == 503, "the server is not ready")
            assert server.terminate() == 0
            assert "Traceback" not in server.log
        finally:
            database.release()


def test_an_address_that_another_has_is_an_error_that_says_so(cluster: Cluster, serve: Serve) -> None:
    first = serve(cluster.env)
    port = first.url().rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-c", SERVER, "server", "--bind", f"127.0.0.1:{port}"],
        env=cluster.env,
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert second.returncode == 1
    assert f"the server cannot listen on 127.0.0.1:{port}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr


def said_by_the_database(cluster: Cluster) -> dict[tuple[str, Labels], float]:
    """What the counters must be, from all rows of the history."""
    found: Counter[tuple[str, Labels]] = Counter()
    for row in cluster.rows("SELECT from_state, to_state FROM tasker.task_transitions"):
        if row["from_state"] is None:
            found["tasks_created_total", ()] += 1
        elif row["to_state"] in ("complete", "error", "cancelled", "resolved_manually"):
            found["tasks_finalized_total", (("state", row["to_state"]),)] += 1
    names = {"complete": "steps_completed_total", "error": "steps_failed_total"}
    for row in cluster.rows(
        "SELECT a.from_state, a.to_state, a.reason, d.namespace, d.name, n.name AS step"
        " FROM tasker.workflow_step_transitions AS a JOIN tasker.tasks AS t USING (task_uuid)"
        " JOIN tasker.named_tasks AS d USING (named_task_id)"
        " JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = a.position"
    ):
        labels = (("namespace", row["namespace"]), ("step", row["step"]), ("task", row["name"]))
        if row["to_state"] in names:
            found[names[row["to_state"]], labels] += 1
        elif row["from_state"] == "in_progress" and row["to_state"] == "waiting_for_retry":
            found["steps_retried_total", labels] += 1
        elif row["reason"] in ("executor_lost", "executor_left", "answer_lost"):
            found["steps_recovered_total", (("reason", row["reason"]),)] += 1
    return dict(found)


def assert_never_fell(before: Mapping[tuple[str, Labels], float], after: Mapping[tuple[str, Labels], float]) -> None:
    for (name, labels), value in before.items():
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            # Sums of seconds are added up in another order each time.
            assert after.get((name, labels), 0.0) >= value - 1e-6, (name, labels)


def test_metrics_say_what_the_database_says_whatever_was_killed(cluster: Cluster, serve: Serve) -> None:
    cluster.register(workflows.linear, workflows.paced, workflows.flaky, workflows.hopeless)
    server = serve(cluster.env)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "1", name="orchestration", ready=False)
    first = cluster.worker("-Q", "e2e,e2e_other", "-P", "prefork", "-c", "2", name="first")
    gate = cluster.folder / "gate"
    handles = [
        *cluster.start(workflows.paced, {"n": 1, "gate": str(gate)}),
        *cluster.start(workflows.linear, *({"n": n} for n in range(100))),
        *cluster.start(workflows.flaky, *({} for _ in range(5))),
        *cluster.start(workflows.hopeless, *({} for _ in range(5))),
    ]
    wait_until((cluster.folder / "gate.reached").exists, "the step at the gate runs")
    wait_until(lambda: cluster.steps_in("complete") >= 50, "some steps are complete")
    seen = server.metrics()
    first.kill_all()
    gate.touch()
    second = cluster.worker("-Q", "e2e,e2e_other", "-P", "prefork", "-c", "2", name="second")
    while not all(handle.state in ("complete", "error") for handle in handles):
        assert_never_fell(seen, now := server.metrics())
        seen = now
    assert second.terminate() == 0

    after = server.metrics()
    assert_never_fell(seen, after)
    said = said_by_the_database(cluster)
    assert said["tasks_created_total", ()] == 111
    assert any(name == "steps_recovered_total" for name, _ in said), "the step at the gate was lost"
    counters = {name for name, _ in said}
    assert {key: value for key, value in after.items() if key[0] in counters} == said
    # What executors count themselves is told with their good-bye; what the killed ones had not told yet is not known.
    attempts = sum(value for (name, _), value in said.items() if name.startswith(("steps_completed", "steps_failed")))
    attempts += said["steps_retried_total", (("namespace", "e2e"), ("step", "third_time_lucky"), ("task", "flaky"))]
    ran = after["step_duration_seconds_count", (("namespace", "e2e"),)]
    assert 0 < ran <= attempts + 2
    assert after["step_handoff_seconds_count", (("namespace", "e2e"),)] > 0
    assert after["queue_depth", (("queue", "e2e_queue"),)] == 0
    assert after["executor_pool_size", (("kind", "step_executor"),)] == 0


def test_the_supervised_server_runs_all_three_and_one_sigterm_stops_all_in_order(
    cluster: Cluster, serve: Serve
) -> None:
    running = serve(cluster.env, SUPERVISED, "--bind", "127.0.0.1:0")
    assert running.status("/ready") == 200
    wait_until(lambda: cluster.value("SELECT ticks FROM tasker.coordinator"), "beat made the coordinator tick")
    (worker,) = cluster.rows("SELECT * FROM tasker.workers")
    assert (worker["pool"], worker["queues"]) == ("threads", ["orchestration"])
    health = running.client.get("/health/orchestration").json()
    assert health["coordinator"]["running"] is True

    family = psutil.Process(running.process.pid).children(recursive=True)
    (serving,) = [process for process in family if "tasker.cli:main" in process.cmdline()]
    serving.kill()
    wait_until(lambda: "server was killed by SIGKILL; it is started again" in running.log, "it is started again")
    second = httpx.get(f"{running.url(times=2)}/ready")
    assert second.status_code == 200

    family = psutil.Process(running.process.pid).children(recursive=True)
    assert running.terminate() == 0
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert running.log.rstrip().endswith("Stopped.")
    assert cluster.rows("SELECT * FROM tasker.workers") == []
    assert "Traceback" not in running.log
