"""Domain events of real workers: each outcome is told of once, although the workers are killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tasker import DomainEvent
from tests.e2e import event_workflows
from tests.e2e.fixtures import MakeCluster
from tests.e2e.workflows import NAMESPACE
from tests.waiting import wait_until

TASKS = 60
FIRST = 10


def test_every_outcome_is_told_of_once_although_a_worker_is_killed(make_cluster: MakeCluster, tmp_path: Path) -> None:
    told = tmp_path / "told"
    cluster = make_cluster(TASKER_ENGINE__HANDLER_MODULES="tests.e2e.event_workflows", EVENTS_FILE=str(told))
    cluster.register(event_workflows.telling)
    cluster.worker("-Q", "orchestration", "-P", "threads", "-c", "2")
    doomed = cluster.worker("-Q", "e2e", "-c", "2")
    handles = cluster.start(event_workflows.telling, *({"n": n} for n in range(TASKS)))
    got: list[DomainEvent] = []
    wait_until(
        lambda: (
            cluster.client.consume_events(NAMESPACE, "order.sent", got.append, until_empty=True) >= 0
            and len(got) >= FIRST
        ),
        "some are done",
    )
    doomed.kill_all()
    cluster.worker("-Q", "e2e", "-P", "threads", "-c", "2")
    assert set(cluster.wait(handles)) == {"complete"}
    cluster.client.wait_all(handles, 60, finalized=True)

    cluster.client.consume_events(NAMESPACE, "*", got.append, until_empty=True)
    assert len({event.event_id for event in got}) == len(got)
    names = Counter(event.name for event in got)
    # An attempt whose worker died failed of nothing, so it may be the one that would have been declined.
    assert names.pop("order.declined") <= TASKS
    assert names == {"order.paid": TASKS, "order.sent": TASKS, "order.over": TASKS}
    for name in ("order.paid", "order.sent", "order.over"):
        assert {event.task_uuid for event in got if event.name == name} == {str(h.task_uuid) for h in handles}
    assert {event.payload["order"] for event in got if event.name == "order.paid"} == set(range(TASKS))
    assert cluster.client.dead_letters().letters == ()

    # What was told at once was also stored, with the same ids.
    heard = [line.split() for line in told.read_text().splitlines()]
    assert {name for name, _ in heard} == {"order.paid"}
    assert {number for _, number in heard} <= {event.event_id for event in got}
    assert len(heard) >= TASKS / 2
