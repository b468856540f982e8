"""The transport under real Celery workers: tasks, remote control, events, in every pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.transport_support import Broker, celery_process, end_session
from tests.waiting import wait_until


@pytest.fixture
def broker(tasker_database_url: str, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tasker_database_url, tmp_path)
    yield broker
    broker.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_tasks_run_once_and_a_worker_stopped_by_remote_control_leaves_nothing_behind(broker: Broker, pool: str) -> None:
    for number in range(20):
        broker.send("note", f"before {number}")
    with broker.start(pool=pool).ready() as worker:
        for number in range(20):
            broker.send("note", f"after {number}")
        wait_until(lambda: len(broker.lines()) >= 40, "40 tasks")
        assert worker.inspect("ping") == {"ok": "pong"}
        assert worker.inspect("stats")["broker"]["transport"] == "tasker-pgmq"
        broker.app.control.shutdown([worker.nodename])
        assert worker.wait() == 0
    assert sorted(broker.lines()) == sorted(f"{when} {n}" for when in ("before", "after") for n in range(20))
    assert broker.ready_messages() == 0
    broker.close()
    for table in ("celery_consumers", "celery_mailboxes", "celery_mail"):
        assert broker.rows(f"SELECT * FROM tasker.{table}") == []
    assert broker.rows("SELECT * FROM pgmq.q_celery_celery") == []
    assert broker.rows("SELECT DISTINCT queue FROM tasker.celery_bindings ORDER BY 1") == [("celery",), ("other",)]


def test_remote_control_sees_and_steers_a_busy_worker(broker: Broker) -> None:
    with broker.start("--queues=celery").ready() as worker:
        running = broker.send("late", "long", 60)
        wait_until(broker.lines, "the long task to start")
        soon = broker.send("note", "never", countdown=60)
        wait_until(lambda: worker.inspect("scheduled"), "the task to be scheduled")

        assert [task["id"] for task in worker.inspect("active")] == [running]
        assert [task["request"]["id"] for task in worker.inspect("scheduled")] == [soon]
        assert [queue["name"] for queue in worker.inspect("active_queues")] == ["celery"]
        assert "note" in worker.inspect("registered")
        assert worker.inspect("reserved") == []

        control = broker.app.control
        control.add_consumer("made_at_runtime", destination=[worker.nodename], reply=True)
        broker.send("note", "from a new queue", queue="made_at_runtime")
        wait_until(lambda: "from a new queue" in broker.lines(), "the new queue to be read")
        control.cancel_consumer("made_at_runtime", destination=[worker.nodename], reply=True)
        broker.send("note", "unread", queue="made_at_runtime")
        wait_until(lambda: broker.ready_messages("made_at_runtime") == 1, "the message to stay")

        control.pool_grow(1, destination=[worker.nodename], reply=True)
        wait_until(lambda: len(worker.inspect("stats")["pool"]["processes"]) == 3, "a third process")
        control.revoke([running, soon], terminate=True, signal="KILL")
        wait_until(lambda: worker.inspect("active") == [], "the long task to be gone")
        assert worker.stop() == 0
    assert "end long" not in broker.lines()


def test_tasks_wait_for_their_time_and_retries_come_back(broker: Broker) -> None:
    with broker.start("--queues=celery").ready():
        sent = monotonic()
        broker.send("note", "later", countdown=2)
        broker.send("note", "now")
        broker.send("retry_once", "retried")
        wait_until(lambda: len(broker.lines()) == 4, "all four runs")
        assert monotonic() - sent >= 2
    # Two processes run them: "now" and the retried one come in either order.
    lines = broker.lines()
    assert lines.index("now") < lines.index("later")
    assert [line for line in lines if line.startswith("retried")] == ["retried 0", "retried 1"]


def test_events_reach_receivers_and_can_be_switched_on_at_runtime(broker: Broker) -> None:
    seen: list[dict[str, Any]] = []
    with broker.app.connection_for_read() as connection, broker.start("--queues=celery").ready() as worker:
        receiver = broker.app.events.Receiver(connection, handlers={"*": seen.append})
        with receiver.consumer_context() as (receiving, _, _):

            def capture() -> set[str]:
                with suppress(TimeoutError):
                    receiving.drain_events(timeout=0.2)
                return {event["type"] for event in seen}

            broker.send("note", "unseen")
            wait_until(lambda: broker.lines() == ["unseen"], "the first task")
            wait_until(lambda: "worker-heartbeat" in capture(), "a heartbeat")
            assert not any(kind.startswith("task-") for kind in capture())
            broker.app.control.enable_events(destination=[worker.nodename], reply=True)
            task = broker.send("note", "seen")
            expected = {"task-received", "task-started", "task-succeeded"}
            wait_until(lambda: expected <= capture(), "the task's events")
    assert {event["uuid"] for event in seen if event["type"] in expected} == {task}


def test_a_broadcast_reaches_every_worker(broker: Broker) -> None:
    with broker.start("--queues=everybody", name="w1", pool="solo") as one:
        with broker.start("--queues=everybody", name="w2", pool="solo") as two:
            one.ready(), two.ready()
            assert set(broker.app.control.inspect(timeout=10, limit=2).ping()) == {"w1@test", "w2@test"}
            broker.send("note", "hello", exchange="everybody", routing_key="all")
            wait_until(lambda: broker.lines() == ["hello", "hello"], "both workers")


def test_beat_sends_on_schedule(broker: Broker, tmp_path: Path) -> None:
    command = ["beat", f"--schedule={tmp_path / 'schedule'}", "--pidfile=", "--loglevel=INFO", "--max-interval=1"]
    beat = celery_process(broker, command, tmp_path / "beat.out")
    try:
        with broker.start("--queues=celery", pool="solo"):
            wait_until(lambda: broker.lines().count("tick") >= 3, "three ticks")
    finally:
        end_session(beat)


def test_the_more_urgent_priority_goes_first(broker: Broker) -> None:
    for priority in (9, 6, 3, 0, 9, 4):
        broker.send("note", str(priority), priority=priority)
    with broker.start("--queues=celery", "--prefetch-multiplier=1", pool="solo", concurrency=1):
        wait_until(lambda: len(broker.lines()) == 6, "six tasks")
    assert broker.lines() == ["0", "3", "4", "6", "9", "9"] or broker.lines() == ["0", "4", "3", "6", "9", "9"]


@pytest.mark.parametrize("name", ["Fulfillment.Orders-EU", "q" * 200, "größe 💥"])
def test_any_name_does_for_a_queue(broker: Broker, name: str) -> None:
    broker.send("note", "arrived", queue=name)
    with broker.start(f"--queues={name}", pool="solo"):
        wait_until(lambda: broker.lines() == ["arrived"], "the task")
