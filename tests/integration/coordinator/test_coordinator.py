"""The coordinator's tick against a real database: whose turn it is, and what each part does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from tasker.coordinator import coordinator as module
from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore
from tasker.database import coordination, functions
from tasker.database.calls import run
from tasker.executors.executor import ORCHESTRATION_KINDS

PERIOD_SECONDS = 10.0


class Requests:
    """Remembers which executors were asked for."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[str, ...], str]] = []

    def __call__(self, kind: str, namespaces: Sequence[str], *, queue: str, expires_seconds: float) -> None:
        assert expires_seconds > 0
        self.made.append((kind, tuple(namespaces), queue))


@pytest.fixture
def connection(tasker_core: OrchestrationCore) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with tasker_core.database.connect() as connection:
        yield connection


def move_last_tick_back(connection: psycopg.Connection[tuple[object, ...]], seconds: float) -> None:
    connection.execute(
        "UPDATE tasker.coordinator SET last_tick_at = last_tick_at - make_interval(secs => %s)", (seconds,)
    )


def add_worker(
    connection: psycopg.Connection[tuple[object, ...]], hostname: str, queues: list[str], *, age_seconds: float = 3600
) -> None:
    run(
        connection,
        coordination.worker_heartbeat(hostname=hostname, pid=1, pool="prefork", concurrency=2, queues=queues),
    )
    connection.execute(
        "UPDATE tasker.workers SET started_at = clock_timestamp() - make_interval(secs => %s) WHERE hostname = %s",
        (age_seconds, hostname),
    )


def test_a_second_tick_within_half_a_period_is_nobodys_turn(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    assert Coordinator(tasker_core).tick().ticked
    assert not Coordinator(tasker_core).tick().ticked
    move_last_tick_back(connection, tasker_core.settings.orchestration.health_check_interval_seconds)
    assert Coordinator(tasker_core).tick().ticked


def test_two_ticks_at_the_same_moment_are_one(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    with connection.transaction():
        assert run(connection, coordination.begin_tick(PERIOD_SECONDS))
        assert not Coordinator(tasker_core).tick().ticked
    assert Coordinator(tasker_core).tick().ticked


def test_a_tick_says_who_made_it_and_when_the_unbroken_series_began(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    period = tasker_core.settings.orchestration.health_check_interval_seconds

    def row() -> tuple[dt.datetime, int, str]:
        found = connection.execute("SELECT series_started_at, ticks, ticked_by FROM tasker.coordinator").fetchone()
        assert found is not None
        return found  # type: ignore[return-value]

    Coordinator(tasker_core, name="first").tick()
    began, ticks, by = row()
    assert (ticks, by) == (1, "first")
    move_last_tick_back(connection, period)
    Coordinator(tasker_core, name="second").tick()
    assert row() == (began, 2, "second")
    move_last_tick_back(connection, 4 * period)
    Coordinator(tasker_core).tick()
    assert row()[0] > began


def test_a_part_that_fails_keeps_no_other_from_its_work(
    tasker_core: OrchestrationCore,
    connection: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise psycopg.errors.QueryCanceled("too slow")

    monkeypatch.setattr(module.coordination, "tend_transport", fail)
    run(connection, functions.add_waiter("tasker_wait_1", 1))
    connection.execute("UPDATE tasker.waiters SET expires_at = clock_timestamp() - interval '1 second'")
    report = Coordinator(tasker_core).tick()
    assert report.ticked
    assert list(report.problems) == ["tend the broker's queues"]
    assert "too slow" in report.problems["tend the broker's queues"]
    assert report.pruned["waiters"] == 1
    assert run(connection, coordination.seconds_since_tick()) is not None


def test_steps_of_a_lost_executor_come_back_after_two_looks_a_lease_apart(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    settings = tasker_core.settings.orchestration
    executor = "0192d3a0-0000-7000-8000-000000000001"
    request = {"executor": executor, "kind": "step_executor", "worker": "w@test", "queues": ["a_queue"], "pid": 1}
    run(connection, functions.register_executor(request))
    connection.execute("UPDATE tasker.executors SET heartbeat_at = clock_timestamp() - interval '1 hour'")
    assert Coordinator(tasker_core).tick().lost_executors == []  # suspected
    move_last_tick_back(connection, settings.health_check_interval_seconds)
    assert Coordinator(tasker_core).tick().lost_executors == []  # not yet for a lease
    move_last_tick_back(connection, settings.health_check_interval_seconds)
    connection.execute(
        "UPDATE tasker.executors SET suspected_at = suspected_at - make_interval(secs => %s)",
        (settings.executor_lease_seconds,),
    )
    assert Coordinator(tasker_core).tick().lost_executors == [executor]


def test_missing_executors_are_asked_of_living_workers_that_consume_the_right_queue(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    tasker_core.initialize_queues(["inventory", "payments"])
    add_worker(connection, "steps@test", ["inventory", "payments", "emails"])
    add_worker(connection, "orchestration@test", ["orchestration"])
    add_worker(connection, "young@test", ["orchestration", "inventory"], age_seconds=0)
    requests = Requests()
    report = Coordinator(tasker_core, request_executors=requests).tick()
    assert sorted(requests.made) == sorted(
        [("step_executor", ("inventory", "payments"), "inventory")]
        + [(kind.value, (), "orchestration") for kind in ORCHESTRATION_KINDS]
    )
    assert report.requested == {"step_executor": 1} | {kind.value: 1 for kind in ORCHESTRATION_KINDS}


def test_executors_that_live_are_not_asked_for_again(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    tasker_core.initialize_queues(["inventory"])
    add_worker(connection, "steps@test", ["inventory"])
    request = {
        "executor": "0192d3a0-0000-7000-8000-000000000001",
        "kind": "step_executor",
        "worker": "steps@test",
        "queues": ["inventory_queue"],
        "pid": 1,
    }
    run(connection, functions.register_executor(request))
    requests = Requests()
    Coordinator(tasker_core, request_executors=requests).tick()
    assert requests.made == []


def test_nobody_is_asked_where_no_worker_could_answer(tasker_core: OrchestrationCore) -> None:
    requests = Requests()
    assert Coordinator(tasker_core, request_executors=requests).tick().requested == {}
    assert requests.made == []


def test_a_worker_that_is_gone_for_long_is_forgotten(
    tasker_core: OrchestrationCore, connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    for hostname in ("gone@test", "here@test"):
        add_worker(connection, hostname, ["celery"])
    connection.execute(
        "UPDATE tasker.workers SET heartbeat_at = clock_timestamp() - interval '2 hours' WHERE hostname = 'gone@test'"
    )
    assert Coordinator(tasker_core).tick().pruned["workers"] == 1
    assert [row[0] for row in connection.execute("SELECT hostname FROM tasker.workers")] == ["here@test"]


def test_a_worker_that_took_over_a_hostname_is_not_deregistered_by_the_one_before(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    def beat(pid: int) -> None:
        call = coordination.worker_heartbeat(hostname="w@test", pid=pid, pool="solo", concurrency=1, queues=[])
        run(connection, call)

    beat(1)
    beat(2)
    run(connection, coordination.deregister_worker("w@test", 1))
    assert connection.execute("SELECT pid FROM tasker.workers").fetchall() == [(2,)]
    run(connection, coordination.deregister_worker("w@test", 2))
    assert connection.execute("SELECT pid FROM tasker.workers").fetchall() == []
