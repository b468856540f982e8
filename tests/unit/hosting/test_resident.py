"""Keeping slots filled."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from tasker.hosting.host import WorkerHost
from tasker.hosting.resident import RUN_EXECUTORS, ResidentExecutors
from tasker.hosting.roles import Role


@pytest.fixture
def consumer() -> SimpleNamespace:
    return SimpleNamespace(
        app=Celery("somebody", set_as_current=False),
        pool=None,
        hub=None,
        on_task_message=(),
        strategies={},
        task_buckets={RUN_EXECUTORS: object()},
    )


def residents_of(consumer: Any) -> ResidentExecutors:
    host = WorkerHost("w@test", "prefork", executor_slots=1, roles=(Role("orchestration"),))
    return ResidentExecutors(host, consumer)


def test_executors_are_handed_over_whatever_rate_limits_there_are(consumer: SimpleNamespace) -> None:
    buckets = []

    def strategy(_message: Any, _body: Any, _ack: Any, _reject: Any, callbacks: list[Callable[[Any], None]]) -> None:
        buckets.append(consumer.task_buckets[RUN_EXECUTORS])
        callbacks[0](SimpleNamespace(id="1"))

    consumer.strategies[RUN_EXECUTORS] = strategy
    residents = residents_of(consumer)
    residents.attach(lambda seconds, function: None)
    residents._fill(residents.slots[0])
    assert buckets == [None]


def test_a_pool_that_ended_while_a_task_was_handed_to_it_is_an_error_unless_the_worker_ends(
    consumer: SimpleNamespace,
) -> None:
    def strategy(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    consumer.strategies[RUN_EXECUTORS] = strategy
    residents = residents_of(consumer)
    residents.attach(lambda seconds, function: None)
    with pytest.raises(RuntimeError):
        residents._fill(residents.slots[0])

    def stopped_meanwhile(*arguments: Any) -> None:
        residents._host.stop.set()
        strategy(*arguments)

    consumer.strategies[RUN_EXECUTORS] = stopped_meanwhile
    residents = residents_of(consumer)
    residents.attach(lambda seconds, function: None)
    residents._fill(residents.slots[0])
