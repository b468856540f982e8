"""A bank goes down under two workers: both stop calling it, its steps wait unspent, and all is paid once it is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.circuit_workflows import Bank, paying
from tests.e2e.fixtures import MakeCluster
from tests.e2e.harness import Cluster
from tests.waiting import wait_until

pytestmark = pytest.mark.circuit_breaker

PAYMENTS = 150


@pytest.fixture
def bank() -> Iterator[Bank]:
    made = Bank(answer_seconds=0.02)
    yield made
    made.close()


def circuit(cluster: Cluster) -> dict[str, Any]:
    found = cluster.rows("SELECT * FROM tasker.circuit_breakers WHERE name = 'bank'")
    return found[0] if found else {"state": "closed"}


def parked(cluster: Cluster) -> int:
    return int(cluster.value("SELECT count(*) FROM tasker.step_timers WHERE key = 'circuit:bank'"))


def test_both_workers_leave_a_bank_alone_that_is_down_and_go_on_when_it_is_back(
    make_cluster: MakeCluster, bank: Bank
) -> None:
    cluster = make_cluster(
        TASKER_ENGINE__HANDLER_MODULES="tests.e2e.circuit_workflows",
        TASKER_CIRCUIT_BREAKERS__COMPONENT_CONFIGS__BANK__TIMEOUT_SECONDS="2",
    )
    cluster.register(paying)
    for name in ("one", "other"):
        cluster.worker("-Q", "e2e", "-P", "prefork", "-c", "1", name=name, ready=False)
    cluster.wait_for_executors(2)
    handles = cluster.start(paying, *({"bank": bank.url} for _ in range(PAYMENTS)))
    wait_until(lambda: len(bank.processes) == 2 and len(bank.calls) >= 20, "both workers pay")

    bank.works = False
    wait_until(lambda: circuit(cluster)["state"] == "open", "the circuit opens")
    left = PAYMENTS - cluster.steps_in("complete")
    wait_until(lambda: parked(cluster) == left, "all that is left is parked")
    opened = circuit(cluster)
    assert opened["failure_threshold"] == 5
    assert "http_503" in opened["reason"] or "RetryableError" in opened["reason"]
    refused = [(at, process) for at, process, served in bank.calls if not served]
    first_opened_at = cluster.value("SELECT extract(epoch FROM min(at))::float8 FROM tasker.circuit_transitions")
    tried_at = cluster.value(
        "SELECT extract(epoch FROM min(at))::float8 FROM tasker.circuit_transitions WHERE to_state = 'half_open'"
    )
    late = [at - first_opened_at for at, _ in refused if at >= first_opened_at and (tried_at is None or at < tried_at)]
    print(f"calls after it opened: {len(late)}, the last after {max(late, default=0.0) * 1000:.0f} ms")
    assert max(late, default=0.0) < 30
    # Five that opened it, at most one under way in each process, and those that tried.
    tries = cluster.value("SELECT count(*) FROM tasker.circuit_transitions WHERE to_state = 'half_open'")
    assert len(refused) <= 5 + 2 + tries
    assert sum(attempts for attempts, _ in cluster.losses(handles)) == len(bank.calls)

    bank.works = True
    assert set(cluster.wait(handles)) == {"complete"}
    history = cluster.rows("SELECT from_state, to_state, open_seconds FROM tasker.circuit_transitions ORDER BY at")
    assert (history[-1]["from_state"], history[-1]["to_state"]) == ("half_open", "closed")
    print(f"it was not closed for {history[-1]['open_seconds']:.2f} s")
    assert parked(cluster) == 0
    assert sum(attempts for attempts, _ in cluster.losses(handles)) == len(bank.calls), "each call was one attempt"
    assert len(bank.calls) <= PAYMENTS + len(refused) + 20
