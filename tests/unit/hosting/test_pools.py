"""Which pools can host executors, and the room made in them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from billiard.pool import ApplyResult
from celery.concurrency.thread import TaskPool
from celery.worker import state

from tasker.errors import ConfigurationError
from tasker.hosting.pools import add_slots, pool_of, refuse_unfit, slots_of, spare_handed_over, stop_between_tasks


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


# -- stopping -------------------------------------------------------------------------------------------------


def test_a_pool_of_threads_that_a_signals_handler_stops_while_a_task_is_handed_to_it_stops_right_afterwards() -> None:
    pool = TaskPool(limit=1)
    stop = stop_between_tasks(pool, pool.stop)
    submit, began = pool.executor.submit, threading.Event()

    def interrupted(*arguments: Any) -> Any:
        with pool.executor._shutdown_lock:  # as where it starts its thread
            stop()
        return submit(*arguments)

    pool.executor.submit = interrupted
    # In a thread of its own: where both want the lock, it never ends.
    thread = threading.Thread(target=pool.apply_async, args=(began.set,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(print)


def test_a_pool_of_threads_stops_at_once_where_no_task_is_handed_to_it() -> None:
    pool = TaskPool(limit=1)
    stop_between_tasks(pool, pool.stop)()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.executor.submit(print)


class _Request:
    def __init__(self, task_id: str, job: ApplyResult | None) -> None:
        self.id = task_id
        self._apply_result = job and ref(job)


def test_flushing_leaves_alone_what_a_process_was_given_and_forgets_what_waits() -> None:
    cache: dict[int, ApplyResult] = {}

    def job(**attributes: Any) -> ApplyResult:
        made = ApplyResult(cache, None)
        vars(made).update(attributes)
        return made

    def flush() -> None:
        for each in tuple(cache.values()):
            if not each._accepted:
                each.discard()

    process = object()
    given, waiting, running = job(_write_to=process), job(), job(_write_to=process, _accepted=True)
    requests = [_Request(str(number), each) for number, each in enumerate((given, waiting, running, None))]
    pool = SimpleNamespace(flush=flush)
    spare_handed_over(pool, lambda: requests)()
    assert set(cache.values()) == {given, running}
    assert (given._accepted, running._accepted) == (False, True)
    # Celery's own list of what it has is emptied before.
    assert requests[0] in state.reserved_requests
    assert requests[1] not in state.reserved_requests
    state.reserved_requests.discard(requests[0])
    state.requests.pop("0", None)
