"""Stopping workers under load: whatever way, on whatever pool, they end, and no step loses an attempt by it.

The table in docs/how-to/deploy_without_loss.md says what each of these ways does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import CeleryProcess, Cluster
from tests.waiting import wait_until

TASKS = 80
STEP_SECONDS = 0.03
POOLS = ("prefork", "threads", "solo")
ENDING = r"worker: Warm shutdown|worker: Hitting Ctrl\+C again will terminate"

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
SOFT = "worker_soft_shutdown_timeout = 2\n"

Way = Callable[[Cluster, CeleryProcess], None]


def under_load(cluster: Cluster, *arguments: str) -> CeleryProcess:
    """A worker in the middle of the work that ``finish`` ends."""
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e", *arguments)
    cluster.handles = cluster.start(  # type: ignore[attr-defined]
        workflows.paced, *({"n": n, "seconds": STEP_SECONDS} for n in range(TASKS))
    )
    wait_until(lambda: cluster.steps_in("complete") >= 10, "some steps are complete")
    assert cluster.steps_in("complete") < 2 * TASKS
    return worker


def finish(cluster: Cluster) -> None:
    """Nothing is held by anybody; another worker does the rest, and every step has run once."""
    assert cluster.steps_in("in_progress") == 0
    assert cluster.rows("SELECT * FROM tasker.step_claims") == []
    assert cluster.executors() == []
    assert cluster.rows("SELECT * FROM tasker.workers") == []
    cluster.worker("-Q", "e2e", "-P", "threads", "-c", "2")
    handles = cluster.handles  # type: ignore[attr-defined]
    assert set(cluster.wait(handles)) == {"complete"}
    assert set(cluster.losses(handles)) == {(1, 0)}


def _signals(*numbers: int, to_all: bool = False) -> Way:
    """Sends these, each once the one before has been heeded; to the main process or to all of the worker's."""

    def send(_cluster: Cluster, worker: CeleryProcess) -> None:
        for times, number in enumerate(numbers):
            if times:
                wait_until(lambda times=times: worker.log.count("worker: ") >= times, "the signal is heeded")
            if worker.running:
                (os.killpg if to_all else os.kill)(worker.pid, number)

    return send


def _control(cluster: Cluster, _worker: CeleryProcess) -> None:
    cluster.app.control.shutdown()


WAYS: dict[str, Way] = {
    "TERM": _signals(TERM),
    "TERM to all": _signals(TERM, to_all=True),
    "TERM twice": _signals(TERM, TERM),
    "INT to all": _signals(INT, to_all=True),
    "INT to all twice": _signals(INT, INT, to_all=True),
    "INT to all thrice": _signals(INT, INT, INT, to_all=True),
    "QUIT": _signals(QUIT),
    "QUIT to all": _signals(QUIT, to_all=True),
    "TERM, QUIT": _signals(TERM, QUIT),
    "control shutdown": _control,
    "soft QUIT": _signals(QUIT),
    "soft TERM as QUIT": _signals(TERM),
}
WITH_SETTINGS = {"soft QUIT", "soft TERM as QUIT"}

# Each signal and each pool; the whole table is the long form.
ALWAYS = {
    ("TERM", "prefork"),
    ("TERM", "threads"),
    ("INT to all twice", "threads"),
    ("QUIT", "solo"),
    ("control shutdown", "prefork"),
    ("soft TERM as QUIT", "prefork"),
}


def _cases() -> Iterator[object]:
    for way in WAYS:
        for pool in POOLS:
            marks = () if (way, pool) in ALWAYS else pytest.mark.long
            yield pytest.param(way, pool, marks=marks, id=f"{way}-{pool}")


@pytest.mark.parametrize(("way", "pool"), [*_cases()])
def test_however_a_worker_under_load_is_ended_it_gives_back_what_it_holds_and_no_attempt_is_lost(
    make_cluster: MakeCluster, way: str, pool: str
) -> None:
    cluster = make_cluster(**({"REMAP_SIGTERM": "SIGQUIT"} if "as QUIT" in way else {}))
    if way in WITH_SETTINGS:
        (cluster.folder / "celeryconfig.py").write_text(SOFT)
    worker = under_load(cluster, "-P", pool, "-c", "2")
    WAYS[way](cluster, worker)
    code = worker.wait()
    # The work was not just finished.
    assert cluster.steps_in("complete") < 2 * TASKS
    assert "Traceback" not in worker.log
    print(f"{pool}, {way}: exit code {code}")  # pytest -s shows it
    finish(cluster)


def test_a_soft_shutdown_does_not_let_executors_work_through_its_sleep(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_soft_shutdown_timeout = 3\n")
    worker = under_load(cluster, "-P", "prefork", "-c", "2")
    worker.signal(signal.SIGQUIT)
    worker.wait_for_log("Initiating Soft Shutdown")
    wait_until(lambda: cluster.executors() == [], "the executors said good-bye")
    assert worker.running
    assert cluster.steps_in("complete") < 2 * TASKS
    worker.wait()
    assert cluster.steps_in("in_progress") == 0


# -- handlers that take longer than they may ------------------------------------------------------------------


def _in_a_handler(cluster: Cluster, pool: str) -> tuple[CeleryProcess, Path]:
    """A worker whose only executor runs a handler that waits for the file that is also returned."""
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e", "-P", pool, "-c", "1")
    gate = cluster.folder / "gate"
    cluster.handles = cluster.start(workflows.paced, {"n": 1, "gate": str(gate)})  # type: ignore[attr-defined]
    wait_until((cluster.folder / "gate.reached").exists, "the handler runs")
    return worker, gate


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long), "solo"])
def test_a_handler_that_outlasts_a_warm_end_is_interrupted_and_its_step_keeps_its_attempt(
    make_cluster: MakeCluster, pool: str
) -> None:
    cluster = make_cluster(TASKER_ORCHESTRATION__OPERATIONAL_STATE__GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS="0.5")
    worker, gate = _in_a_handler(cluster, pool)
    worker.signal(TERM)
    assert worker.wait() == 0
    assert cluster.steps_in("enqueued") == 1
    gate.touch()
    finish(cluster)


@pytest.mark.parametrize(
    ("way", "pool"),
    [
        ("QUIT", "prefork"),
        pytest.param("QUIT", "threads", marks=pytest.mark.long),
        pytest.param("QUIT", "solo", marks=pytest.mark.long),
        pytest.param("INT to all twice", "prefork", marks=pytest.mark.long),
        pytest.param("INT to all twice", "solo", marks=pytest.mark.long),
        pytest.param("TERM, QUIT", "prefork", marks=pytest.mark.long),
        pytest.param("TERM, QUIT", "threads", marks=pytest.mark.long),
    ],
)
def test_a_cold_end_does_not_wait_as_long_as_a_warm_one_and_the_step_keeps_its_attempt(
    make_cluster: MakeCluster, way: str, pool: str
) -> None:
    cluster = make_cluster(
        TASKER_ORCHESTRATION__OPERATIONAL_STATE__GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS="600",
        TASKER_ORCHESTRATION__OPERATIONAL_STATE__EMERGENCY_SHUTDOWN_TIMEOUT_SECONDS="0.5",
    )
    worker, gate = _in_a_handler(cluster, pool)
    WAYS[way](cluster, worker)
    worker.wait()
    assert cluster.steps_in("enqueued") == 1
    gate.touch()
    finish(cluster)


def test_sigterm_to_every_process_of_a_worker_leaves_handlers_the_time_of_a_warm_end(
    make_cluster: MakeCluster,
) -> None:
    """As systemd sends it. A pool process that is sent it alone has less time."""
    cluster = make_cluster(TASKER_ORCHESTRATION__OPERATIONAL_STATE__EMERGENCY_SHUTDOWN_TIMEOUT_SECONDS="0.1")
    worker, gate = _in_a_handler(cluster, "prefork")
    os.killpg(worker.pid, TERM)
    worker.wait_for_log("worker: Warm shutdown")
    seen = set()

    def beaten_twice() -> bool:
        (executor,) = cluster.executors()
        seen.add(executor["heartbeat_at"])
        return len(seen) > 2

    wait_until(beaten_twice, "more than the emergency's time is over, and the executor lives")
    gate.touch()
    worker.wait()
    assert cluster.steps_in("complete") == 1
    finish(cluster)


def test_sigterm_to_one_pool_process_replaces_it_and_its_step_keeps_its_attempt(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(
        TASKER_ORCHESTRATION__OPERATIONAL_STATE__GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS="600",
        TASKER_ORCHESTRATION__OPERATIONAL_STATE__EMERGENCY_SHUTDOWN_TIMEOUT_SECONDS="0.5",
    )
    worker, gate = _in_a_handler(cluster, "prefork")
    (before,) = cluster.executors()
    os.kill(before["pid"], TERM)
    wait_until(lambda: before["executor"] not in {one["executor"] for one in cluster.executors()}, "it said good-bye")
    gate.touch()
    handles = cluster.handles  # type: ignore[attr-defined]
    assert cluster.wait(handles) == ["complete"]
    assert set(cluster.losses(handles)) == {(1, 0)}
    assert worker.running
