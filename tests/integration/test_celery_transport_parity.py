"""What kombu's users rely on, the same tests on PostgreSQL and on Redis: what the transports' own suites look at."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError, ContentDisallowed
from kombu.pidbox import Mailbox

from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register
from tests.e2e.foreign.redis_server import REDIS_URL, close_leftovers, forget, redis_or_skip

register()

DEADLINE_SECONDS = 20.0
MOMENT_SECONDS = 0.3
"""How long nothing must come to count as nothing."""

Connect = Callable[[], Connection]


@pytest.fixture(params=["pgmq", "redis"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes connections to one broker."""
    opened: list[Connection] = []
    if request.param == "redis":
        redis, prefix = redis_or_skip(), f"parity-{uuid.uuid4().hex[:10]}-"
        url, options = REDIS_URL, {"global_keyprefix": prefix}
    else:
        url, options = broker_url_of(request.getfixturevalue("tasker_database_url")), {}

    def opens() -> Connection:
        opened.append(Connection(url, transport_options=options))
        return opened[-1]

    yield opens
    for connection in opened:
        connection.release()
    if request.param == "redis":
        close_leftovers()
        forget(redis, prefix)


def jobs(name: str = "jobs", **options: Any) -> Queue:
    return Queue(name, Exchange(name), routing_key=name, **options)


def send(connection: Connection, body: object, queue: Queue | None = None, **options: Any) -> None:
    queue = queue or jobs()
    Producer(connection).publish(
        body, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], **options
    )


def read(connection: Connection, count: int, *queues: Queue, prefetch: int = 0, **options: Any) -> list[Any]:
    """The messages that come, until there are ``count`` of them or none comes for a moment."""
    got: list[Any] = []
    channel = connection.channel()
    channel.basic_qos(0, prefetch, False)
    Consumer(channel, queues or [jobs()], on_message=got.append, **options).consume()
    for timeout in (DEADLINE_SECONDS, *[MOMENT_SECONDS] * count):
        with suppress(TimeoutError):
            while len(got) < count:
                connection.drain_events(timeout=timeout if not got else MOMENT_SECONDS)
            break
    return got


def nothing_more(connection: Connection) -> bool:
    with suppress(TimeoutError):
        connection.drain_events(timeout=MOMENT_SECONDS)
        return False
    return True


def test_a_message_says_what_it_is_and_where_it_went(connect: Connect) -> None:
    send(connect(), {"hello": "world"}, headers={"k": "v"}, priority=3, correlation_id="c", reply_to="r")
    (message,) = read(connect(), 1)
    assert (message.payload, message.content_type, message.content_encoding) == (
        {"hello": "world"},
        "application/json",
        "utf-8",
    )
    assert message.headers["k"] == "v"
    assert {name: message.properties[name] for name in ("correlation_id", "reply_to", "priority")} == {
        "correlation_id": "c",
        "reply_to": "r",
        "priority": 3,
    }
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == ("jobs", "jobs")
    assert not message.delivery_info.get("redelivered")


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_any_body_arrives_in_any_wrapping(connect: Connect, serializer: str, compression: str | None) -> None:
    sender, reader = connect(), connect()
    bodies = ["größe 💥", {"ключ": [1, None, 2.5]}, "x" * 300_000, "", None]
    for body in bodies:
        send(sender, body, serializer=serializer, compression=compression)
    assert [message.payload for message in read(reader, 5, accept=["json", "pickle"])] == bodies


def test_bytes_arrive_as_they_are(connect: Connect) -> None:
    send(connect(), bytes(range(256)), content_type="application/data", content_encoding="binary")
    (message,) = read(connect(), 1)
    assert message.body == bytes(range(256))


def test_what_a_consumer_does_not_accept_it_does_not_open(connect: Connect) -> None:
    send(connect(), "text", serializer="pickle")
    (message,) = read(connect(), 1, accept=["json"])
    with pytest.raises(ContentDisallowed):
        message.decode()


def test_messages_keep_their_order_and_the_urgent_come_first(connect: Connect) -> None:
    sender, reader = connect(), connect()
    for number, priority in enumerate([9, 0, 3, 6, 0, 9, 5, 1]):
        send(sender, [priority, number], priority=priority)
    seen = [tuple(read(reader, 1, prefetch=1, no_ack=True)[0].payload)]
    while len(seen) < 8:
        seen += [tuple(message.payload) for message in read(connect(), 1, no_ack=True)]
    assert seen == [(0, 1), (0, 4), (1, 7), (3, 2), (5, 6), (6, 3), (9, 0), (9, 5)]


def test_the_urgent_come_first_in_queues_that_delete_themselves_too(connect: Connect) -> None:
    queue = jobs(auto_delete=True)
    sender, reader = connect(), connect()
    for number, priority in enumerate([9, 0, 6, 0, 3]):
        send(sender, [priority, number], queue, priority=priority)
    got = [tuple(message.payload) for message in read(reader, 5, queue)]
    assert got == [(0, 1), (0, 3), (3, 4), (6, 2), (9, 0)]


def test_no_more_comes_than_the_prefetch_allows(connect: Connect) -> None:
    sender, reader = connect(), connect()
    for number in range(5):
        send(sender, number)
    got = read(reader, 2, prefetch=2)
    assert nothing_more(reader)
    got[0].ack()
    reader.drain_events(timeout=DEADLINE_SECONDS)
    assert [message.payload for message in got] == [0, 1, 2]
    assert nothing_more(reader)


def test_a_returned_message_comes_again_and_a_refused_one_is_gone(connect: Connect) -> None:
    sender, reader = connect(), connect()
    for number in range(3):
        send(sender, number)
    first, second = read(reader, 2, prefetch=2)
    second.reject()
    first.requeue()
    reader.release()
    again = {message.payload: message for message in read(connect(), 3)}
    assert again.keys() == {0, 2}
    assert again[0].delivery_info["redelivered"] is True


def test_what_a_closed_connection_held_returns(connect: Connect) -> None:
    sender, leaver = connect(), connect()
    for number in range(3):
        send(sender, number)
    read(leaver, 3)[1].ack()
    leaver.release()
    assert sorted(message.payload for message in read(connect(), 2)) == [0, 2]


def test_a_queue_can_be_purged(connect: Connect) -> None:
    connection = connect()
    for number in range(3):
        send(connection, number)
    assert jobs()(connection.default_channel).purge() == 3
    assert jobs()(connection.default_channel).get() is None


def test_single_messages_can_be_fetched_and_returned(connect: Connect) -> None:
    connection = connect()
    send(connection, "one")
    queue = jobs()(connection.default_channel)
    message = queue.get()
    assert message.payload == "one"
    assert queue.get() is None
    message.requeue()
    assert queue.get(no_ack=True).payload == "one"


def test_simple_queues_and_buffers_work(connect: Connect) -> None:
    connection = connect()
    for make in (connection.SimpleQueue, connection.SimpleBuffer):
        with make(make.__name__) as simple:
            simple.put({"hello": "world"}, headers={"k": "v"})
            message = simple.get(timeout=DEADLINE_SECONDS)
            assert (message.payload, message.headers["k"]) == ({"hello": "world"}, "v")
            message.ack()
            with pytest.raises(simple.Empty):
                simple.get(block=False)


def test_direct_topic_and_fanout_exchanges_route(connect: Connect) -> None:
    direct, topic, fanout = Exchange("by_key"), Exchange("by_topic", "topic"), Exchange("to_all", "fanout")
    bound = {
        "exact": Queue("exact", direct, routing_key="a.b"),
        "star": Queue("star", topic, routing_key="orders.*.eu"),
        "hash": Queue("hash", topic, routing_key="orders.#"),
        "one": Queue("one", fanout),
        "two": Queue("two", fanout),
    }
    reader, sender = connect(), connect()
    arrived: list[tuple[str, str]] = []
    for name, queue in bound.items():
        # On Redis only one queue of a fanout exchange is read on one channel.
        Consumer(
            reader.channel(),
            [queue],
            on_message=lambda message, name=name: arrived.append((name, message.payload)),
            no_ack=True,
        ).consume()
    while not nothing_more(reader):
        pass
    producer = Producer(sender)
    for exchange, key in [
        (direct, "a.b"),
        (direct, "a.c"),
        (topic, "orders.new.eu"),
        (topic, "orders.us"),
        (topic, "parcels.new.eu"),
        (fanout, ""),
    ]:
        # On Redis a sender that has not declared an exchange takes it for a direct one.
        producer.publish(f"{exchange.name} {key}", exchange=exchange, routing_key=key, declare=[exchange])
    while len(arrived) < 6:
        reader.drain_events(timeout=DEADLINE_SECONDS)
    assert nothing_more(reader)
    assert Counter(arrived) == Counter(
        [
            ("exact", "by_key a.b"),
            ("star", "by_topic orders.new.eu"),
            ("hash", "by_topic orders.new.eu"),
            ("hash", "by_topic orders.us"),
            ("one", "to_all "),
            ("two", "to_all "),
        ]
    )


def test_a_queue_that_is_not_there_is_told(connect: Connect) -> None:
    with pytest.raises(ChannelError):
        connect().default_channel.queue_declare("nowhere", passive=True)


def test_a_cancelled_consumer_gets_nothing_more_and_the_rest_stays(connect: Connect) -> None:
    sender, reader = connect(), connect()
    got: list[Any] = []
    consumer = Consumer(reader.channel(), [jobs()], on_message=got.append, prefetch_count=1)
    consumer.consume()
    send(sender, 1)
    reader.drain_events(timeout=DEADLINE_SECONDS)
    consumer.cancel()
    got[0].ack()
    send(sender, 2)
    assert nothing_more(reader)
    assert [message.payload for message in read(connect(), 1)] == [2]


def test_a_mailbox_answers_casts_and_calls(connect: Connect) -> None:
    mailbox = Mailbox("control", type="fanout")
    server, client = connect(), connect()
    said: list[str] = []

    def greet(state: Any, name: str) -> str:
        said.append(name)
        return f"hello {name}"

    node = mailbox(server).Node("here", handlers={"greet": greet}, channel=server.channel())
    node.listen(callback=lambda body, message: node.handle_message(body, message))
    while not nothing_more(server):  # Redis confirms that it listens
        pass
    mailbox(client).cast(["here"], "greet", {"name": "first"})
    server.drain_events(timeout=DEADLINE_SECONDS)
    mailbox(client).cast(["elsewhere"], "greet", {"name": "nobody"})
    server.drain_events(timeout=DEADLINE_SECONDS)
    assert said == ["first"]
