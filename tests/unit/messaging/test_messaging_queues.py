"""Names of queues and channels."""

from __future__ import annotations

import pytest

from tasker.messaging.queues import (
    FIXED_QUEUES,
    celery_queue_name,
    channel_name,
    is_step_queue,
    mail_channel_name,
    namespace_of,
    queue_name,
    step_queue_names,
)

NAMES = ["celery", "Celery", "a.b", "a-b", "a_b", "a_b_p3", "größe", "q" * 37, "q" * 38, "q" * 500, "", " "]


def test_a_namespace_has_a_step_queue_for_each_band_and_is_known_by_it() -> None:
    assert queue_name("payments") == "payments_queue"
    assert step_queue_names("payments") == ("payments_queue", "payments_queue_high", "payments_queue_low")
    longest = "n" * 33
    for namespace in ("payments", "task", "a_queue", longest):
        for queue in step_queue_names(namespace):
            assert len(queue) <= 47
            assert namespace_of(queue) == namespace
            assert is_step_queue(queue)


def test_fixed_queues_belong_to_no_namespace() -> None:
    assert [namespace_of(queue) for queue in FIXED_QUEUES] == [None] * 4
    assert [queue for queue in FIXED_QUEUES if is_step_queue(queue)] == ["step_enqueue"]
    assert not is_step_queue("celery_celery")


@pytest.mark.parametrize("name", NAMES)
def test_a_celery_queue_of_any_name_has_one_that_pgmq_takes(name: str) -> None:
    queue = celery_queue_name(name)
    assert queue.startswith("celery_")
    assert queue == queue.lower()
    assert queue.replace("_", "a").isalnum()
    assert queue.isascii()
    # Room for _p3, _p6 and _p9 within PGMQ's 47.
    assert len(queue) <= 44
    assert queue == celery_queue_name(name)


def test_celery_queues_of_different_names_stay_apart() -> None:
    assert len({celery_queue_name(name) for name in NAMES}) == len(NAMES)
    assert celery_queue_name("celery") == "celery_celery"


@pytest.mark.parametrize("queue", ["q" * 47, celery_queue_name("x" * 500)])
def test_channels_fit_into_the_servers_identifiers(queue: str) -> None:
    assert len(channel_name(queue)) <= 63
    assert len(mail_channel_name("m" * 500)) <= 63
    assert mail_channel_name("ä") != mail_channel_name("b")
