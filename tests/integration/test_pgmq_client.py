"""PGMQ's queues through ``PgmqClient``, on real queues."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tasker.config.sections import PgmqSettings
from tasker.database.connection import Database
from tasker.errors import CircuitOpen, InvalidRequest, NotFound, PayloadTooLarge, ValueNotStorable
from tasker.messaging.client import PgmqClient
from tasker.messaging.listener import Listener
from tasker.messaging.queues import FIXED_QUEUES, channel_name
from tasker.resilience.circuits import Circuit, CircuitConfig

DEADLINE_SECONDS = 10.0
SETTINGS = PgmqSettings(poll_interval_ms=10, max_batch_size=3, max_message_bytes=1024)


@pytest.fixture
def database(tasker_database_url: str) -> Iterator[Database]:
    database = Database(tasker_database_url)
    yield database
    database.close()


@pytest.fixture
def client(database: Database) -> PgmqClient:
    client = PgmqClient(database, SETTINGS)
    client.create_queue("letters")
    return client


def test_a_queue_is_made_once_and_listed(client: PgmqClient) -> None:
    assert client.create_queue("parcels")
    assert not client.create_queue("parcels")
    assert {"letters", "parcels", *FIXED_QUEUES} <= set(client.list_queues())


@pytest.mark.parametrize("name", ["", "Letters", "a-b", "a b", 'a"b', "ä", "x" * 48])
def test_a_name_that_pgmq_would_change_or_refuse_is_refused(client: PgmqClient, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name for a queue"):
        client.create_queue(name)


def test_messages_come_in_order_and_are_hidden_until_deleted(client: PgmqClient) -> None:
    ids = client.send_many("letters", [{"n": 1}, {"n": 2}])
    read = client.read_messages("letters", 10)
    assert [(message.msg_id, message.message, message.read_count) for message in read] == [
        (ids[0], {"n": 1}, 1),
        (ids[1], {"n": 2}, 1),
    ]
    assert client.read_messages("letters", 10) == []
    assert client.delete_messages("letters", ids) == 2
    assert client.delete_messages("letters", ids) == 0
    assert client.metrics("letters").length == 0


def test_a_message_not_deleted_in_time_comes_back(client: PgmqClient) -> None:
    client.send("letters", "once more")
    assert client.read_messages("letters", visibility_timeout_seconds=0)[0].read_count == 1
    assert client.read_messages("letters", visibility_timeout_seconds=0)[0].read_count == 2


def test_a_batch_is_no_larger_than_the_settings_allow(client: PgmqClient) -> None:
    client.send_many("letters", [1, 2, 3, 4])
    assert len(client.read_messages("letters", 100)) == 3


def test_a_delayed_message_is_not_seen_before_its_time(client: PgmqClient) -> None:
    client.send("letters", "later", delay_seconds=3600)
    assert client.read_messages("letters") == []
    metrics = client.metrics("letters")
    assert (metrics.length, metrics.visible) == (1, 0)


def test_reading_can_wait_for_a_message(client: PgmqClient) -> None:
    threading.Timer(0.05, client.send, ("letters", "hello")).start()
    (message,) = client.read_messages("letters", wait_seconds=DEADLINE_SECONDS)
    assert message.message == "hello"
    assert client.read_messages("letters", wait_seconds=0.03) == []


def test_sending_wakes_those_who_listen(client: PgmqClient, tasker_database_url: str) -> None:
    woken = threading.Semaphore(0)
    listener = Listener(tasker_database_url)
    try:
        listener.subscribe(channel_name("letters"), woken.release)
        assert woken.acquire(timeout=DEADLINE_SECONDS)
        client.send("letters", 1)
        assert woken.acquire(timeout=DEADLINE_SECONDS)
    finally:
        listener.close()


def test_looking_changes_nothing(client: PgmqClient) -> None:
    client.send_many("letters", ["a", "b"])
    client.read_messages("letters", 1)
    first = client.peek("letters")
    assert [(message.message, message.read_count) for message in first] == [("a", 1), ("b", 0)]
    assert client.peek("letters") == first
    assert [message.message for message in client.peek("letters", 1)] == ["a"]


def test_archived_messages_leave_the_queue_and_stay_in_its_archive(client: PgmqClient, database: Database) -> None:
    msg_id = client.send("letters", "keep")
    assert client.archive("letters", [msg_id]) == 1
    assert client.peek("letters") == []
    with database.connection() as connection:
        assert connection.execute("SELECT message FROM pgmq.a_letters").fetchall() == [("keep",)]


def test_metrics_tell_how_full_and_how_old(client: PgmqClient) -> None:
    empty = client.metrics("letters")
    assert (empty.length, empty.oldest_age_seconds, empty.newest_age_seconds) == (0, None, None)
    client.send_many("letters", [1, 2])
    client.read_messages("letters")
    full = client.metrics("letters")
    assert (full.length, full.visible) == (2, 1)
    assert full.oldest_age_seconds is not None
    assert full.newest_age_seconds is not None
    assert full.oldest_age_seconds >= full.newest_age_seconds >= 0


def test_purging_empties_a_queue_but_no_step_queue(client: PgmqClient) -> None:
    client.send_many("letters", [1, 2])
    assert client.purge("letters") == 2
    for queue in ("fulfillment_queue", "fulfillment_queue_high", "step_enqueue"):
        with pytest.raises(InvalidRequest, match="is a step queue"):
            client.purge(queue)
    assert client.purge("task_requests_queue") == 0


def test_an_unknown_queue_is_named(client: PgmqClient) -> None:
    for call in (client.metrics, client.purge, client.peek, client.read_messages):
        with pytest.raises(NotFound, match="there is no queue 'nowhere'"):
            call("nowhere")
    with pytest.raises(NotFound, match="there is no queue 'nowhere'"):
        client.send("nowhere", 1)


@pytest.mark.parametrize("message", [{"x": float("nan")}, "a\0b", "\ud800", {1: 2}, object()])
def test_what_jsonb_cannot_hold_is_refused_before_it_travels(client: PgmqClient, message: object) -> None:
    with pytest.raises(ValueNotStorable, match="the message for letters"):
        client.send("letters", message)
    with pytest.raises(PayloadTooLarge, match="1,024 are allowed"):
        client.send("letters", "x" * 1024)
    assert client.metrics("letters").length == 0


def test_a_database_that_is_away_opens_the_circuit_and_wrong_requests_do_not(client: PgmqClient) -> None:
    circuit = Circuit("pgmq", CircuitConfig(failure_threshold=2, timeout_seconds=600))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = Database(f"postgresql://nobody@127.0.0.1:{unused.getsockname()[1]}/x", acquire_timeout_seconds=0.1)
        failing = PgmqClient(away, SETTINGS, circuit)
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                failing.peek("letters")
        with pytest.raises(CircuitOpen):
            failing.peek("letters")
        away.close()

    fresh = Circuit("pgmq", CircuitConfig(failure_threshold=1, timeout_seconds=600))
    checked = PgmqClient(client._database, SETTINGS, fresh)
    with pytest.raises(NotFound):
        checked.peek("nowhere")
    assert checked.peek("letters") == []
    assert fresh.state == "closed"
