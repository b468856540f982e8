"""The transport when workers and servers die, stop and come back: no task is lost, and none runs twice without need."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasker.database.embedded import EmbeddedServer
from tasker.database.migrations import migrate
from tests.e2e.transport_support import Broker
from tests.embedded_support import FAST, server_folder, start
from tests.waiting import wait_until

LAZY = {**FAST, "wal_writer_delay": "10s"}


@pytest.fixture
def broker(tasker_database_url: str, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tasker_database_url, tmp_path)
    yield broker
    broker.close()


def test_what_a_killed_worker_held_goes_to_another_one(broker: Broker) -> None:
    with broker.start("--queues=celery", name="w1") as doomed:
        for number in range(4):
            broker.send("late", str(number), 60)
        wait_until(lambda: len(broker.lines()) == 2, "two tasks to start")
        assert broker.ready_messages() == 0
        doomed.kill()
        with broker.start("--queues=celery", "--concurrency=4", name="w2"):
            wait_until(lambda: len(broker.lines()) == 6, "all four tasks to start on the other worker")
            wait_until(
                lambda: len(broker.rows("SELECT * FROM tasker.celery_consumers")) == 1, "the dead to be forgotten"
            )
    assert sorted(broker.lines()[2:]) == [f"start {number} True" for number in range(4)]


def test_a_warm_shutdown_finishes_what_runs_and_gives_back_the_rest(broker: Broker) -> None:
    with broker.start("--queues=celery") as worker:
        for number in range(8):
            broker.send("late", str(number), 0.5)
        wait_until(lambda: len(broker.lines()) >= 2, "two tasks to start")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    started = [line for line in broker.lines() if line.startswith("start")]
    assert len(broker.lines()) == 2 * len(started)
    assert broker.ready_messages() == 8 - len(started)
    with broker.start("--queues=celery", name="w2", concurrency=8, pool="threads"):
        wait_until(lambda: len(broker.lines()) == 16, "the rest")
    assert len({line for line in broker.lines() if line.startswith("end")}) == 8


def test_a_cold_shutdown_gives_back_what_ran_and_what_waited(broker: Broker) -> None:
    with broker.start("--queues=celery").ready() as worker:
        for number in range(4):
            broker.send("late", str(number), 60)
        # Celery cancels what it knows to run; it would wait for the end of a task that has only just been started.
        wait_until(lambda: len(worker.inspect("active")) == 2, "the worker to know that two tasks run")
        assert worker.stop(signal.SIGQUIT) == 0
    assert broker.ready_messages() == 4


def test_an_acknowledged_task_is_not_run_again_when_its_worker_is_killed(broker: Broker) -> None:
    with broker.start("--queues=celery", pool="solo") as worker:
        broker.send("note", "early")
        wait_until(lambda: broker.lines() == ["early"], "the task")
        wait_until(lambda: broker.rows("SELECT * FROM pgmq.q_celery_celery") == [], "its acknowledgement")
        worker.kill()
    with broker.start("--queues=celery", name="w2", pool="solo"):
        broker.send("note", "next")
        wait_until(lambda: "next" in broker.lines(), "the other task")
    assert broker.lines() == ["early", "next"]


def test_a_worker_whose_idle_children_are_killed_goes_on(broker: Broker) -> None:
    with broker.start("--queues=celery").ready() as worker:
        for victim in psutil.Process(worker.process.pid).children():
            victim.kill()
        for number in range(4):
            broker.send("note", str(number))
        wait_until(lambda: sorted(broker.lines()) == ["0", "1", "2", "3"], "the tasks")
        assert worker.stop() == 0


def test_a_task_that_is_refused_comes_back_and_one_whose_child_dies_can(broker: Broker) -> None:
    with broker.start("--queues=celery") as worker:
        broker.send("refuse_once", "refused")
        wait_until(lambda: broker.lines() == ["refused False", "refused True"], "the second run")
        broker.send("die")
        wait_until(lambda: "signal 9 (SIGKILL)" in worker.output.read_text(), "the loss of the child")
        broker.send("note", "alive")
        wait_until(lambda: "alive" in broker.lines(), "the next task")


def test_a_message_that_is_no_task_is_put_aside_and_stops_nobody(broker: Broker) -> None:
    with broker.start("--queues=celery", pool="solo").ready() as worker:
        broker.rows("""SELECT pgmq.send('celery_celery', '{"hello": 1}'), pg_notify('tasker_celery_celery', '')""")
        broker.send("note", "after")
        wait_until(lambda: broker.lines() == ["after"], "the task behind it")
        assert "is no Celery message" in worker.output.read_text()
    assert broker.rows("SELECT message FROM pgmq.a_celery_celery") == [({"hello": 1},)]


def test_a_blocked_worker_keeps_its_messages_and_its_mailbox(broker: Broker) -> None:
    with broker.start("--queues=celery", name="w1", pool="solo").ready() as blocked:
        broker.send("late", "long", 4)
        wait_until(lambda: broker.lines() == ["start long False"], "the task to start")
        with broker.start("--queues=celery", name="w2", pool="solo").ready():
            # Mailboxes of the dead and messages of the dead would be taken now; this one is only busy.
            broker.rows("UPDATE tasker.celery_mailboxes SET seen_at = seen_at - interval '1 day' RETURNING name")
            broker.app.control.shutdown([blocked.nodename])
            assert blocked.wait() == 0
        assert broker.lines() == ["start long False", "end long"]


def test_what_was_sent_is_there_after_the_server_crashed_at_once(tmp_path: Path) -> None:
    # What is not on disk when a commit is answered stays in the server's memory for seconds.
    with server_folder() as folder, EmbeddedServer.start(folder, settings=LAZY) as server:
        url = server.database_url("postgres")
        migrate(url)
        broker = Broker(url, tmp_path)
        for number in range(3):
            broker.send("note", str(number))
        os.kill(int((folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        server.ensure_running()
        assert broker.rows("SELECT count(*) FROM pgmq.q_celery_celery") == [(3,)]
        broker.close()


def test_a_worker_resumes_when_its_database_has_restarted(tmp_path: Path) -> None:
    with server_folder() as folder, start(folder) as server:
        url = server.database_url("postgres")
        migrate(url)
        broker = Broker(url, tmp_path)
        with broker.start("--queues=celery") as worker:
            broker.send("note", "before")
            wait_until(lambda: broker.lines() == ["before"], "the task")
            broker.send("late", "across", 1)
            wait_until(lambda: "start across False" in broker.lines(), "the task to start")
            postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            server.ensure_running()
            broker.send("note", "after", retry=True)
            wait_until(lambda: "after" in broker.lines(), "the worker to read again")
            assert worker.inspect("ping") == {"ok": "pong"}
            wait_until(lambda: "end across" in broker.lines(), "the task that ran through it")
            wait_until(lambda: broker.rows("SELECT * FROM pgmq.q_celery_celery") == [], "its acknowledgement")
            assert worker.stop() == 0
        broker.close()
