"""A database whose connections stay open and never answer, and real workers that get over it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.e2e import workflows
from tests.e2e.fixtures import MakeCluster
from tests.proxies import SilentProxy
from tests.waiting import wait_until

POOLS = pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])


@pytest.fixture
def proxy(tasker_database_url: str) -> Iterator[SilentProxy]:
    with SilentProxy(tasker_database_url) as made:
        yield made


@POOLS
def test_a_worker_gets_over_connections_that_all_fell_silent(
    make_cluster: MakeCluster, proxy: SilentProxy, pool: str
) -> None:
    cluster = make_cluster(
        DATABASE_URL=proxy.url,
        TASKER_DATABASE__STATEMENT_TIMEOUT_MS="1500",
        TASKER_DATABASE__ANSWER_TIMEOUT_SECONDS="2",
    )
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e,orchestration", "-P", pool, "-c", "2")
    handles = cluster.start(workflows.paced, *({"n": n, "seconds": 0.02} for n in range(40)))
    wait_until(lambda: cluster.steps_in("complete") >= 10, "some steps are complete")
    proxy.forget_connections()
    assert set(cluster.wait(handles)) == {"complete"}
    assert {attempts for attempts, _ in cluster.losses(handles)} == {1}
    worker.wait_for_log("Connected to tasker-pgmq://", times=2)
    wait_until(lambda: cluster.app.control.ping(timeout=2), "the worker answers")
    assert worker.terminate() == 0


@POOLS
@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.long)], ids=["idle", "under load"])
def test_sigterm_ends_a_worker_whose_database_does_not_answer(
    make_cluster: MakeCluster, proxy: SilentProxy, pool: str, busy: bool
) -> None:
    """Although it would wait for an answer for longer than this test lasts."""
    cluster = make_cluster(DATABASE_URL=proxy.url, TASKER_DATABASE__ANSWER_TIMEOUT_SECONDS="600")
    cluster.register(workflows.paced)
    worker = cluster.worker("-Q", "e2e,orchestration", "-P", pool, "-c", "2")
    cluster.wait_for_executors(1)
    if busy:
        cluster.start(workflows.paced, *({"n": n, "seconds": 0.02} for n in range(40)))
        wait_until(lambda: cluster.steps_in("complete") >= 10, "some steps are complete")
    proxy.die()
    sent_at = worker.signal(signal.SIGTERM)
    worker.wait()
    print(f"{pool}: {worker.ended_at - sent_at:.2f} s from SIGTERM to exit")  # pytest -s shows it
