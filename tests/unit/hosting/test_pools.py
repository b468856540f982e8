"""Which pools can host executors, and the room made in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tasker.errors import ConfigurationError
from tasker.hosting.pools import add_slots, pool_of, refuse_unfit, slots_of


def worker(**attributes: Any) -> Any:
    defaults = {
        "hostname": "w@test",
        "pool_cls": "prefork",
        "concurrency": 4,
        "options": {},
        "optimization": None,
        "pool_start_method": "fork",
    }
    return SimpleNamespace(**{**defaults, **attributes})


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_the_three_pools_are_known_and_fit(pool: str) -> None:
    assert pool_of(worker(pool_cls=pool)) == pool
    refuse_unfit(worker(pool_cls=pool), pool)


def test_spawned_processes_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="spawned") as refused:
        refuse_unfit(worker(pool_start_method="spawn"), "prefork")
    assert refused.value.field == "worker_pool_start_method"
    assert "fork" in (refused.value.hint or "")


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_that_cannot_grow_is_refused_where_it_shall_scale(pool: str) -> None:
    with pytest.raises(ConfigurationError, match=pool) as refused:
        refuse_unfit(worker(options={"autoscale": "4,1"}), pool)
    assert "-P prefork" in (refused.value.hint or "")


def test_other_pools_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="gevent") as refused:
        refuse_unfit(worker(), "celery.concurrency.gevent")
    assert "-P prefork" in (refused.value.hint or "")


@pytest.mark.parametrize("optimization", ["fast", "fcfs"])
def test_tasks_are_never_written_to_processes_that_an_executor_occupies(optimization: str) -> None:
    busy = worker(optimization=optimization)
    refuse_unfit(busy, "prefork")
    assert busy.optimization == "fair"


def test_spare_slots_come_on_top_of_what_was_asked_for() -> None:
    fixed = worker()
    assert slots_of(fixed, "prefork") == 4
    assert add_slots(fixed, "prefork", 1) == 1
    assert fixed.concurrency == 5


@pytest.mark.parametrize("autoscale", ["8,2", (8, 2)])
def test_an_autoscaling_worker_fills_its_fewest_slots_and_gets_room_at_both_ends(autoscale: Any) -> None:
    scaling = worker(options={"autoscale": autoscale})
    assert slots_of(scaling, "prefork") == 2
    add_slots(scaling, "prefork", 1)
    assert scaling.options["autoscale"] == (9, 3)


def test_a_solo_worker_has_one_slot_and_no_room_for_more() -> None:
    solo = worker(concurrency=8)
    assert slots_of(solo, "solo") == 1
    assert add_slots(solo, "solo", 1) == 0
    assert solo.concurrency == 8
