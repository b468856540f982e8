"""What a worker's main process makes of the events of steps: one message that any receiver of Celery's understands."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from celery import Celery
from kombu import Consumer, Exchange, Queue

from tasker.hosting.event_publisher import EventPublisher
from tasker.hosting.host import WorkerHost


@pytest.fixture(params=["json", "pickle"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("events", broker="memory://", set_as_current=False)
    app.conf.event_serializer = request.param
    yield app
    app.close()


def test_events_come_as_one_message_with_what_the_worker_knows_and_clocks_in_a_row(app: Celery) -> None:
    host = WorkerHost("w@test", "prefork", executor_slots=1)
    events: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        as_sent = Queue("as-sent", Exchange(app.conf.event_exchange, type="topic"), routing_key="#")
        with (
            receiver.consumer_context() as (_, channel, _consumers),
            Consumer(channel, [as_sent], on_message=lambda message: bodies.append(message.body), no_ack=True),
        ):
            app.clock.adjust(40)
            sent = [{"type": "task-started", "uuid": f"step {n}", "timestamp": 100.0 + n} for n in range(300)]
            assert host.events.send([orjson.dumps(event) for event in sent]) == 0
            publisher = EventPublisher(host, app)
            publisher.heed(SimpleNamespace(groups=set(), enabled=True))
            publisher.end(timeout_seconds=30)
            assert publisher.published == 300
            while not (events and bodies):
                channel.connection.client.drain_events(timeout=10)
    assert len(bodies) == 1
    assert [event["uuid"] for event in events] == [event["uuid"] for event in sent]
    assert {(event["hostname"], event["pid"], "utcoffset" in event) for event in events} == {("w@test", host.pid, True)}
    first = events[0]["clock"]
    assert first > 41
    assert [event["clock"] for event in events] == list(range(first, first + 300))
    assert app.clock.value >= first + 299
    host.events.close()
