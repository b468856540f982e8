"""The process's one LISTEN connection: who is woken, when, and what survives."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tasker.messaging.listener import Listener
from tests.waiting import wait_until

DEADLINE_SECONDS = 10.0


class Waiter:
    """Counts its wakes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.wakes = 0

    def wake(self) -> None:
        with self._changed:
            self.wakes += 1
            self._changed.notify_all()

    def wait_for(self, wakes: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.wakes >= wakes, DEADLINE_SECONDS), (
                f"{self.wakes} of {wakes} wakes"
            )


@pytest.fixture
def listener(tasker_database_url: str) -> Iterator[Listener]:
    listener = Listener(tasker_database_url, name="listener-under-test")
    yield listener
    listener.close()


@pytest.fixture
def admin(tasker_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        yield connection


def notify(admin: psycopg.Connection, channel: str) -> None:
    admin.execute("SELECT pg_notify(%s, '')", (channel,))


def backends(admin: psycopg.Connection) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'listener-under-test' AND datname = %s"
    return [pid for (pid,) in admin.execute(query, [admin.info.dbname])]


def test_a_waiter_is_woken_when_listening_has_begun_and_on_each_notification(
    listener: Listener, admin: psycopg.Connection
) -> None:
    waiter = Waiter()
    listener.subscribe("tasker_a_queue", waiter)
    waiter.wait_for(1)
    assert listener.connected
    for wakes in (2, 3, 4):
        notify(admin, "tasker_a_queue")
        waiter.wait_for(wakes)


def test_a_later_waiter_is_woken_when_it_is_listened_for_too(listener: Listener, admin: psycopg.Connection) -> None:
    first, second, third = Waiter(), Waiter(), Waiter()
    listener.subscribe("tasker_a_queue", first)
    first.wait_for(1)
    listener.subscribe("tasker_b_queue", second)
    second.wait_for(1)
    listener.subscribe("tasker_b_queue", third)
    third.wait_for(1)
    notify(admin, "tasker_b_queue")
    second.wait_for(2)
    third.wait_for(2)
    assert first.wakes == 1


def test_a_descriptor_gets_a_byte_and_a_full_one_blocks_nobody(listener: Listener, admin: psycopg.Connection) -> None:
    reader, writer = os.pipe()
    waiter = Waiter()
    try:
        with listener.subscribe("tasker_a_queue", writer):
            assert select.select([reader], [], [], DEADLINE_SECONDS)[0]
            assert set(os.read(reader, 100)) == {0}
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(65536))
            listener.subscribe("tasker_a_queue", waiter.wake)
            waiter.wait_for(1)
            notify(admin, "tasker_a_queue")
            waiter.wait_for(2)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_closed_subscription_is_woken_no_more(listener: Listener, admin: psycopg.Connection) -> None:
    gone, stays = Waiter(), Waiter()
    subscription = listener.subscribe("tasker_a_queue", gone)
    listener.subscribe("tasker_a_queue", stays)
    stays.wait_for(1)
    gone.wait_for(1)
    subscription.close()
    subscription.close()
    notify(admin, "tasker_a_queue")
    stays.wait_for(2)
    assert gone.wakes == 1


def test_a_waiter_that_raises_harms_no_other(
    listener: Listener, admin: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    waiter = Waiter()

    def fails() -> None:
        raise RuntimeError("not now")

    listener.subscribe("tasker_a_queue", fails)
    listener.subscribe("tasker_a_queue", waiter)
    waiter.wait_for(1)
    notify(admin, "tasker_a_queue")
    waiter.wait_for(2)
    assert "could not be woken" in caplog.text


def test_many_waiters_share_one_connection_and_one_thread(listener: Listener, admin: psycopg.Connection) -> None:
    waiters = [Waiter() for _ in range(50)]
    threads_before = threading.active_count()
    for number, waiter in enumerate(waiters):
        listener.subscribe(f"tasker_{number}_queue", waiter)
    for waiter in waiters:
        waiter.wait_for(1)
    assert len(backends(admin)) == 1
    assert threading.active_count() == threads_before + 1


def test_everybody_is_woken_after_a_reconnection_and_hears_again(listener: Listener, admin: psycopg.Connection) -> None:
    first, second = Waiter(), Waiter()
    listener.subscribe("tasker_a_queue", first)
    listener.subscribe("tasker_b_queue", second)
    first.wait_for(1)
    second.wait_for(1)
    before = (first.wakes, second.wakes)
    admin.execute("SELECT pg_terminate_backend(%s)", (backends(admin)[0],))
    first.wait_for(before[0] + 1)
    second.wait_for(before[1] + 1)
    notify(admin, "tasker_b_queue")
    second.wait_for(before[1] + 2)


def test_a_closed_listener_leaves_no_connection_and_can_be_used_again(
    listener: Listener, admin: psycopg.Connection
) -> None:
    waiter = Waiter()
    listener.subscribe("tasker_a_queue", waiter)
    waiter.wait_for(1)
    listener.close()
    wait_until(lambda: backends(admin) == [], "the connection to end")
    assert not listener.connected
    listener.subscribe("tasker_a_queue", waiter)
    waiter.wait_for(2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 on: there are threads, on purpose
def test_a_forked_child_has_its_own_and_the_parent_keeps_hearing(listener: Listener, admin: psycopg.Connection) -> None:
    waiter = Waiter()
    listener.subscribe("tasker_a_queue", waiter)
    waiter.wait_for(1)
    ready_reader, ready_writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            own = Waiter()
            listener.subscribe("tasker_child", own)
            own.wait_for(1)
            os.write(ready_writer, b"1")
            own.wait_for(2)
            listener.close()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        assert select.select([ready_reader], [], [], DEADLINE_SECONDS)[0]
        assert len(backends(admin)) == 2
        notify(admin, "tasker_a_queue")
        waiter.wait_for(2)
        notify(admin, "tasker_child")
        assert os.waitpid(child, 0)[1] == 0
        wait_until(lambda: len(backends(admin)) == 1, "the child's connection to end")
        notify(admin, "tasker_a_queue")
        waiter.wait_for(3)
    finally:
        os.close(ready_reader)
        os.close(ready_writer)


def test_closing_does_not_wait_for_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        listener = Listener(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        listener.subscribe("tasker_a_queue", Waiter())
        listener.close(timeout_seconds=0.1)
        # libpq goes on trying, on a thread of its own that nobody waits for.
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "tasker-listener")
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_two_listeners_of_a_process_share_the_connection_until_both_are_closed(
    listener: Listener, tasker_database_url: str, admin: psycopg.Connection
) -> None:
    other = Listener(tasker_database_url, name="listener-under-test")
    first, second = Waiter(), Waiter()
    listener.subscribe("tasker_a_queue", first)
    other.subscribe("tasker_a_queue", second)
    first.wait_for(1)
    second.wait_for(1)
    assert len(backends(admin)) == 1
    other.close()
    woken, told = first.wakes, second.wakes
    notify(admin, "tasker_a_queue")
    first.wait_for(woken + 1)
    assert second.wakes == told
    listener.close()
    wait_until(lambda: backends(admin) == [], "the connection to end")
