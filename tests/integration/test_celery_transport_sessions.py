"""What a reader holds is tied to its session: what happens when sessions and processes end, in every way they can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue

from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register
from tests.waiting import wait_until

register()

DEADLINE_SECONDS = 20.0
# Other tests may use other databases of the server meanwhile.
SESSIONS = "pg_stat_activity WHERE application_name = 'tasker-broker' AND datname = current_database()"
JOBS = Queue("jobs")
LETTERS = Queue("letters", Exchange("post", "fanout"), auto_delete=True, expires=5.0)


@pytest.fixture
def url(tasker_database_url: str) -> str:
    return broker_url_of(tasker_database_url)


@pytest.fixture
def admin(tasker_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def broker(url: str) -> Iterator[Connection]:
    with Connection(url) as connection:
        yield connection


def send(connection: Connection, body: object) -> None:
    Producer(connection.default_channel).publish(body, exchange="", routing_key="jobs", serializer="json")


def post(connection: Connection, body: object) -> None:
    Producer(connection.default_channel).publish(body, exchange="post", routing_key="", serializer="json")


def read(connection: Connection, queue: Queue, count: int) -> list[Any]:
    messages: list[Any] = []
    Consumer(connection.channel(), [queue], on_message=messages.append).consume()
    while len(messages) < count:
        connection.drain_events(timeout=DEADLINE_SECONDS)
    return messages


def count(admin: psycopg.Connection, table: str) -> int:
    (found,) = admin.execute(f"SELECT count(*) FROM {table}").fetchone() or (None,)
    return int(found)


def tend(admin: psycopg.Connection) -> int:
    (returned,) = admin.execute("SELECT tasker.celery_tend()").fetchone() or (None,)
    return int(returned)


def end_session(admin: psycopg.Connection) -> None:
    """End the broker sessions of this process, as a server that restarts does."""
    admin.execute(f"SELECT pg_terminate_backend(pid) FROM {SESSIONS}")
    wait_until(lambda: sessions(admin) == 0, "the session to end")


def sessions(admin: psycopg.Connection) -> int:
    return count(admin, SESSIONS)


def test_messages_of_a_dead_reader_return_and_those_of_a_living_one_stay(
    url: str, broker: Connection, admin: psycopg.Connection
) -> None:
    with Connection(url) as doomed:
        for number in range(2):
            send(broker, number)
        (held,) = read(broker, JOBS, 1)
        read(doomed, JOBS, 1)
        assert tend(admin) == 0
        (pid,) = admin.execute(
            "SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 1413567307 AND l.objid ="
            " (SELECT max(consumer) FROM tasker.celery_consumers)"
        ).fetchone() or (None,)
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        wait_until(lambda: tend(admin) == 1, "its message to return")
    assert count(admin, "pgmq.q_celery_jobs WHERE vt <= now()") == 1
    assert count(admin, "tasker.celery_consumers") == 1
    held.ack()
    assert count(admin, "pgmq.q_celery_jobs") == 1


def test_a_reader_that_dies_while_its_child_lives_holds_nothing(url: str, admin: psycopg.Connection) -> None:
    program = f"""
import os, sys, time
sys.path.insert(0, {str(os.getcwd())!r})
from tests.integration.test_celery_transport_sessions import *
connection = Connection({url!r})
send(connection, 1)
read(connection, JOBS, 1)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert sessions(admin) == 1
        parent.kill()
        parent.wait(DEADLINE_SECONDS)
        wait_until(lambda: tend(admin) == 1, "the message to return")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_closes_what_it_inherited_does_not_harm_its_parent(
    broker: Connection, admin: psycopg.Connection
) -> None:
    send(broker, 1)
    (message,) = read(broker, JOBS, 1)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            broker.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert sessions(admin) == 1
    message.ack()
    send(broker, 2)
    assert count(admin, "pgmq.q_celery_jobs") == 1


def test_a_task_done_while_the_session_was_lost_is_acknowledged_by_the_next_one(
    broker: Connection, admin: psycopg.Connection
) -> None:
    for number in range(2):
        send(broker, number)
    done, _ = read(broker, JOBS, 2)
    end_session(admin)
    with pytest.raises(broker.connection_errors):
        broker.drain_events(timeout=1)
    done.ack()
    assert count(admin, "pgmq.q_celery_jobs") == 2
    broker.collect()
    assert tend(admin) == 2
    (again,) = read(broker, JOBS, 1)
    assert again.payload == 1
    assert count(admin, "pgmq.q_celery_jobs") == 1


def test_sending_goes_on_after_the_session_was_lost(broker: Connection, admin: psycopg.Connection) -> None:
    send(broker, 1)
    end_session(admin)
    producer = Producer(broker)
    producer.publish(2, exchange="", routing_key="jobs", serializer="json", retry=True, retry_policy={"max_retries": 3})
    assert count(admin, "pgmq.q_celery_jobs") == 2


def test_a_connection_that_the_server_ended_while_it_was_idle_is_opened_anew_when_it_is_used(
    broker: Connection, admin: psycopg.Connection
) -> None:
    # As remote control does it: over a connection from a pool, without another try.
    assert LETTERS(broker.default_channel).queue_declare().message_count == 0
    end_session(admin)
    post(broker, "lost and found")
    assert LETTERS(broker.default_channel).queue_declare().message_count == 0
    send(broker, 1)
    assert count(admin, "pgmq.q_celery_jobs") == 1
    assert sessions(admin) == 1


def test_the_reader_of_a_connection_hears_that_it_was_lost(broker: Connection, admin: psycopg.Connection) -> None:
    read(broker, JOBS, 0)
    end_session(admin)
    with pytest.raises(broker.connection_errors):
        broker.default_channel.queue_declare("jobs", passive=True)
    with pytest.raises(broker.connection_errors):
        broker.drain_events(timeout=1)


def test_a_mailbox_ends_with_its_reader_however_that_ends(
    url: str, broker: Connection, admin: psycopg.Connection
) -> None:
    with Connection(url) as reader:
        read(reader, LETTERS, 0)
        post(broker, "hello")
        reader.drain_events(timeout=DEADLINE_SECONDS)
        assert count(admin, "tasker.celery_mailboxes") == 1
    for table in ("celery_mailboxes", "celery_bindings", "celery_mail"):
        assert count(admin, f"tasker.{table}") == 0

    with Connection(url) as reader:
        read(reader, LETTERS, 0)
        end_session(admin)
    with Connection(url) as sender:
        post(sender, "unread")
    assert tend(admin) == 0
    assert count(admin, "tasker.celery_mailboxes") == 1
    admin.execute("UPDATE tasker.celery_mailboxes SET seen_at = seen_at - interval '6 seconds'")
    tend(admin)
    for table in ("celery_mailboxes", "celery_bindings", "celery_mail", "celery_consumers"):
        assert count(admin, f"tasker.{table}") == 0


def test_mail_is_kept_no_longer_than_it_is_good_for(broker: Connection, admin: psycopg.Connection) -> None:
    queue = Queue("letters", Exchange("post", "fanout"), auto_delete=True, message_ttl=10.0)
    got = read(broker, queue, 0)
    post(broker, "old")
    admin.execute("UPDATE tasker.celery_mail SET expires_at = expires_at - interval '11 seconds'")
    post(broker, "new")
    broker.drain_events(timeout=DEADLINE_SECONDS)
    assert [message.payload for message in got] == ["new"]
    post(broker, "unread")
    admin.execute("UPDATE tasker.celery_mail SET expires_at = expires_at - interval '11 seconds'")
    tend(admin)
    assert count(admin, "tasker.celery_mail") == 0


@pytest.mark.parametrize("settle", ["ack", "requeue"])
def test_a_reader_that_waits_hears_of_messages_while_another_thread_settles_earlier_ones(
    url: str, broker: Connection, settle: str
) -> None:
    got: list[Any] = []
    done = threading.Event()
    # No look at all queues comes to the rescue of news that got lost.
    with Connection(url, transport_options={"housekeeping_interval": 3600}) as reader:
        Consumer(reader.channel(), [JOBS], on_message=got.append).consume()

        def wait_for_messages() -> None:
            while not done.is_set():
                reader.drain_events(timeout=3600)

        waiting = threading.Thread(target=wait_for_messages)
        waiting.start()
        channel = broker.channel()
        for number in range(300):
            held = got[-1:]
            sending = threading.Thread(
                target=Producer(channel).publish, args=(number,), kwargs={"exchange": "", "routing_key": "jobs"}
            )
            sending.start()
            for message in held:
                getattr(message, settle)()
            sending.join()
            expected = number + 1 if settle == "ack" else 2 * number + 1
            wait_until(lambda expected=expected: len(got) >= expected, f"message {number}")
        done.set()
        send(broker, "the last one")
        waiting.join()


def test_a_second_reader_of_one_mailbox_is_told_of_the_first(url: str, broker: Connection) -> None:
    assert LETTERS(broker.default_channel).queue_declare().consumer_count == 0
    assert LETTERS(broker.default_channel).queue_declare().consumer_count == 0
    with Connection(url) as other:
        assert LETTERS(other.default_channel).queue_declare().consumer_count == 1


def test_readers_can_be_many_and_none_is_left(url: str, admin: psycopg.Connection) -> None:
    for _ in range(50):
        with Connection(url) as connection:
            read(connection, LETTERS, 0)
            read(connection, JOBS, 0)
    for table in ("celery_mailboxes", "celery_mail", "celery_consumers"):
        assert count(admin, f"tasker.{table}") == 0
    wait_until(lambda: sessions(admin) == 0, "the last session to end")


def test_the_functions_touch_celerys_queues_only(admin: psycopg.Connection) -> None:
    admin.execute("SELECT pgmq.create('shop_queue'), pgmq.send('shop_queue', '{}')")
    poll = '{"consumer": 1, "done": {"shop_queue": [1]}, "queues": ["shop_queue"], "limit": 5, "mail_limit": 0}'
    assert admin.execute("SELECT * FROM tasker.celery_poll(%s)", (poll,)).fetchall() == []
    assert admin.execute("SELECT tasker.celery_set_aside('shop_queue', 1)").fetchone() == (False,)
    assert admin.execute("SELECT tasker.celery_purge('shop_queue')").fetchone() == (0,)
    admin.execute("SELECT tasker.celery_delete('shop_queue')")
    assert count(admin, "pgmq.q_shop_queue") == 1
    with pytest.raises(psycopg.Error, match="not a name for a Celery queue"):
        admin.execute("SELECT tasker.celery_declare_queue('x', 'shop_queue')")


def test_a_message_that_the_socket_takes_in_parts_arrives(url: str, admin: psycopg.Connection) -> None:
    """The server does not read for a moment, and the system's buffer holds less than the message."""
    with Connection(url, transport_options={"answer_timeout": 10}) as broker:
        send(broker, "the first")
        (server,) = admin.execute(f"SELECT pid FROM {SESSIONS}").fetchone() or (None,)
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        goes_on = threading.Timer(0.3, os.kill, (server, signal.SIGCONT))
        goes_on.start()
        try:
            send(broker, "x" * 3_000_000)
        finally:
            goes_on.join()
        assert [len(message.decode()) for message in read(broker, JOBS, 2)] == [9, 3_000_000]
