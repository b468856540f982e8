"""Declaring, routing, delivering and acknowledging through kombu, between connections that share only the database."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError
from psycopg.pq import TransactionStatus

from tasker.errors import SchemaVersionError
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register

register()

JOBS = Queue("jobs")


@pytest.fixture
def url(tasker_database_url: str) -> str:
    return broker_url_of(tasker_database_url)


@pytest.fixture
def sender(url: str) -> Iterator[Connection]:
    with Connection(url) as connection:
        yield connection


@pytest.fixture
def reader(url: str) -> Iterator[Connection]:
    with Connection(url) as connection:
        yield connection


def send(connection: Connection, body: object, queue: str = "jobs", **options: Any) -> None:
    options.setdefault("serializer", "json")
    Producer(connection.default_channel).publish(body, exchange="", routing_key=queue, **options)


def received(connection: Connection, *queues: Queue, count: int, prefetch: int = 0, no_ack: bool = False) -> list[Any]:
    """The messages that come, until there are ``count`` of them or none comes for a moment."""
    messages: list[Any] = []
    channel = connection.channel()
    channel.basic_qos(0, prefetch, False)
    consumer = Consumer(channel, queues, on_message=messages.append, no_ack=no_ack, accept=["json", "pickle"])
    consumer.consume()
    with suppress(TimeoutError):
        while len(messages) < count:
            connection.drain_events(timeout=0.5)
    return messages


def payloads(messages: list[Any]) -> list[Any]:
    return [message.payload for message in messages]


def test_messages_come_in_the_order_of_sending_and_are_gone_once_acknowledged(
    sender: Connection, reader: Connection, tasker_database_url: str
) -> None:
    for number in range(5):
        send(sender, {"n": number})
    messages = received(reader, JOBS, count=5)
    assert payloads(messages) == [{"n": number} for number in range(5)]
    for message in messages:
        message.ack()
    with psycopg.connect(tasker_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM pgmq.q_celery_jobs").fetchone() == (0,)


@pytest.mark.parametrize("body", ["NUL \0 inside", {"nan": "NaN", "emoji": "💥"}, "x" * 100_000, None, []])
@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_any_body_arrives_as_it_was_sent(sender: Connection, reader: Connection, body: object, serializer: str) -> None:
    headers = {"nul": "\0", "lone": "\ud800", "inf": float("inf"), "plain": "é"}
    send(sender, body, serializer=serializer, headers=headers)
    (message,) = received(reader, JOBS, count=1)
    assert message.payload == body
    assert {name: message.headers[name] for name in headers} == headers


def test_a_queue_shows_its_size_and_can_be_purged_and_deleted(sender: Connection, reader: Connection) -> None:
    channel = reader.default_channel
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.queue_declare("jobs", passive=True)
    for number in range(3):
        send(sender, number)
    assert channel.queue_declare("jobs", passive=True).message_count == 3
    assert channel.queue_purge("jobs") == 3
    assert channel.queue_declare("jobs", passive=True).message_count == 0
    channel.queue_delete("jobs")
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.queue_declare("jobs", passive=True)


def test_a_refused_message_goes_and_a_returned_one_is_the_first_again(sender: Connection, reader: Connection) -> None:
    for number in range(3):
        send(sender, number)
    first, second = received(reader, JOBS, count=2, prefetch=2)
    assert not first.delivery_info.get("redelivered")
    second.reject()
    first.requeue()
    again = received(reader, JOBS, count=2)
    assert payloads(again) == [0, 2]
    assert again[0].delivery_info["redelivered"] is True


def test_what_a_closed_connection_had_not_acknowledged_returns(
    sender: Connection, url: str, reader: Connection
) -> None:
    for number in range(3):
        send(sender, number)
    with Connection(url) as leaver:
        received(leaver, JOBS, count=3)[1].ack()
    assert payloads(received(reader, JOBS, count=3)) == [0, 2]


def test_no_more_is_delivered_than_the_prefetch_allows_until_something_is_acknowledged(
    sender: Connection, reader: Connection
) -> None:
    for number in range(5):
        send(sender, number)
    messages = received(reader, JOBS, count=5, prefetch=2)
    assert payloads(messages) == [0, 1]
    messages[0].ack()
    with suppress(TimeoutError):
        while True:
            reader.drain_events(timeout=0.2)
    assert payloads(messages) == [0, 1, 2]


def test_a_consumer_can_be_cancelled_by_a_signals_handler_in_the_middle_of_a_call(
    sender: Connection, reader: Connection
) -> None:
    """So does Celery when a worker is to end at once; what was fetched goes back with the connection."""
    for number in range(3):
        send(sender, number)
    taken: list[Any] = []
    consumer = Consumer(reader.channel(), [Queue("jobs")], callbacks=[lambda _, message: taken.append(message)])
    consumer.consume()
    reader.drain_events(timeout=20)
    transport: Any = reader.transport

    def interrupt() -> None:
        while transport.session._connection.info.transaction_status != TransactionStatus.ACTIVE:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: consumer.cancel())
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        transport.session._execute("SELECT pg_sleep(0.5)")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    reader.release()
    with Connection(sender.as_uri(include_password=True)) as third:
        assert payloads(received(third, Queue("jobs"), count=3)) == [0, 1, 2]


def test_a_consumer_without_acknowledgements_takes_messages_for_good(
    sender: Connection, url: str, reader: Connection
) -> None:
    send(sender, "once")
    with Connection(url) as careless:
        assert payloads(received(careless, JOBS, count=1, no_ack=True)) == ["once"]
    assert received(reader, JOBS, count=1) == []


def test_single_messages_can_be_fetched(sender: Connection, reader: Connection) -> None:
    send(sender, "one")
    queue = JOBS(reader.default_channel)
    message = queue.get(accept=["json"])
    assert message.payload == "one"
    assert queue.get() is None
    message.requeue()
    assert queue.get(no_ack=True).payload == "one"
    assert queue.get() is None


def test_simple_queues_work_and_buffers_end_with_their_user(sender: Connection, reader: Connection) -> None:
    with sender.SimpleQueue("simple") as sending, reader.SimpleQueue("simple") as receiving:
        sending.put({"hello": "world"})
        message = receiving.get(timeout=5)
        assert message.payload == {"hello": "world"}
        message.ack()
        assert receiving.qsize() == 0


def test_exchanges_route_between_connections_by_their_kind(sender: Connection, reader: Connection) -> None:
    direct, topic = Exchange("by_key", "direct"), Exchange("by_topic", "topic")
    fanout = Exchange("to_all", "fanout")
    bound = {
        "exact": Queue("exact", direct, routing_key="a.b"),
        "star": Queue("star", topic, routing_key="orders.*.eu"),
        "hash": Queue("hash", topic, routing_key="orders.#"),
        "one": Queue("one", fanout, auto_delete=True),
        "two": Queue("two", fanout, auto_delete=True),
    }
    arrived: list[tuple[str, str]] = []
    channel = reader.channel()
    for name, queue in bound.items():
        Consumer(
            channel, [queue], on_message=lambda message, name=name: arrived.append((name, message.payload)), no_ack=True
        ).consume()
    producer = Producer(sender.default_channel)
    for exchange, key in [
        (direct, "a.b"),
        (direct, "a.c"),
        (topic, "orders.new.eu"),
        (topic, "orders.new.us"),
        (topic, "parcels.new.eu"),
        (fanout, ""),
    ]:
        # The sender declares nothing: bindings are everybody's.
        producer.publish(f"{exchange.name} {key}", exchange=exchange.name, routing_key=key)
    with suppress(TimeoutError):
        while True:
            reader.drain_events(timeout=0.3)
    assert Counter(arrived) == Counter(
        [
            ("exact", "by_key a.b"),
            ("star", "by_topic orders.new.eu"),
            ("hash", "by_topic orders.new.eu"),
            ("hash", "by_topic orders.new.us"),
            ("one", "to_all "),
            ("two", "to_all "),
        ]
    )


def test_an_unbound_queue_gets_nothing_more(sender: Connection, reader: Connection) -> None:
    exchange = Exchange("by_key", "direct")
    queue = Queue("exact", exchange, routing_key="k")(reader.default_channel)
    queue.declare()
    producer = Producer(sender.default_channel)
    producer.publish(1, exchange="by_key", routing_key="k")
    queue.unbind_from(exchange, routing_key="k")
    producer.publish(2, exchange="by_key", routing_key="k")
    assert payloads(received(reader, Queue("exact"), count=2)) == [1]


def test_what_is_sent_to_nobody_waits_if_it_is_lasting_and_goes_if_not(sender: Connection, reader: Connection) -> None:
    send(sender, "waits", queue="later")
    send(sender, "goes", queue="never", delivery_mode="transient")
    assert payloads(received(reader, Queue("later"), count=1)) == ["waits"]
    with pytest.raises(ChannelError):
        reader.default_channel.queue_declare("never", passive=True)


def test_a_busy_queue_does_not_starve_another_of_the_same_consumer(sender: Connection, reader: Connection) -> None:
    for number in range(10):
        send(sender, number, queue="busy")
    send(sender, "mine", queue="quiet")
    messages = received(reader, Queue("busy"), Queue("quiet"), count=3, prefetch=3)
    assert "mine" in payloads(messages)


def test_every_message_goes_to_exactly_one_of_many_readers(sender: Connection, url: str) -> None:
    for number in range(300):
        send(sender, number)
    got: list[int] = []

    def read_all() -> None:
        with Connection(url) as connection:
            channel = connection.channel()
            channel.basic_qos(0, 7, False)

            def on_message(message: Any) -> None:
                got.append(message.payload)
                message.ack()

            Consumer(channel, [JOBS], on_message=on_message).consume()
            with suppress(TimeoutError):
                while True:
                    connection.drain_events(timeout=0.5)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(300))


def test_the_address_is_shown_without_its_password() -> None:
    connection = Connection("tasker-pgmq://me:secret@db.example:5433/shop?sslmode=require")
    assert connection.as_uri() == "tasker-pgmq://me:**@db.example:5433/shop?sslmode=require"
    assert "secret" not in repr(connection)
    assert "secret" in connection.as_uri(include_password=True)


def test_a_database_without_the_tables_is_told_from_one_that_is_away(tasker_server: Any) -> None:
    url = tasker_server.create(migrated=False)
    try:
        with Connection(broker_url_of(url)) as connection, pytest.raises(SchemaVersionError, match="tasker db migrate"):
            send(connection, 1)
    finally:
        tasker_server.drop(url)
    with Connection("tasker-pgmq:///x?host=/nonexistent") as connection, pytest.raises(connection.connection_errors):
        connection.connect()
