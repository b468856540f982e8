"""From what pools want and what workers can host to what is asked of whom."""

from __future__ import annotations

from typing import Any

from tasker.config.settings import Settings
from tasker.coordinator.placing import Asked, Placement, place
from tasker.database.pools import PoolMeasures, RequestedExecutor, WorkerCapacity

SETTINGS = Settings()
MOST = SETTINGS.executor_pools.step_executor.max_executors


def worker(name: str = "w@host", queues: tuple[str, ...] = ("shop",), *, slots: int = 2, **more: Any) -> WorkerCapacity:
    told = {"most_slots": slots, "scaling": "fixed", "drained": False, "executors": slots}
    return WorkerCapacity(name, queues, executor_slots=slots, **{**told, **more})


def steps(queue: str, executors: int, target: int) -> list[tuple[PoolMeasures, int]]:
    return [
        (PoolMeasures("step_executor", executors=executors), 1),
        (PoolMeasures("step_executor", queue, executors=executors), target),
    ]


def placed(
    pools: list[tuple[PoolMeasures, int]], *workers: WorkerCapacity, requested: tuple[RequestedExecutor, ...] = ()
) -> Placement:
    return place(pools, workers, requested, SETTINGS)


def test_pools_of_the_right_size_ask_for_nothing() -> None:
    assert placed(steps("shop_queue", 2, 2), worker(scaling="requested", most_slots=8)) == Placement()


def test_an_autoscaling_worker_is_sent_a_task_for_each_executor_up_to_its_most() -> None:
    found = placed(steps("shop_queue", 2, 5), worker(queues=("shop", "mail"), scaling="requested", most_slots=4))
    assert found.asked == [Asked("step_executor", ("shop",), "shop")] * 2


def test_a_worker_that_may_grow_is_told_how_many_it_shall_host() -> None:
    assert placed(steps("shop_queue", 2, 5), worker(scaling="resized", most_slots=4)).resized == {"w@host": 4}
    assert placed(steps("shop_queue", 2, 3), worker(scaling="resized", most_slots=4)).resized == {"w@host": 3}


def test_a_worker_of_fixed_size_a_drained_one_and_one_with_other_queues_are_asked_for_nothing() -> None:
    others = (
        worker("a@host"),
        worker("b@host", scaling="requested", most_slots=9, drained=True),
        worker("c@host", ("mail",), scaling="requested", most_slots=9),
    )
    assert placed(steps("shop_queue", 2, 5), *others) == Placement()


def test_never_more_than_the_maximum_of_the_kind() -> None:
    found = placed(steps("shop_queue", MOST - 1, MOST + 5), worker(scaling="requested", most_slots=50))
    assert len(found.asked) == 1


def test_what_was_asked_for_goes_first_and_only_when_no_queue_it_serves_needs_it() -> None:
    requested = (
        RequestedExecutor("1", "step_executor", ("shop_queue",)),
        RequestedExecutor("2", "step_executor", ("shop_queue", "mail_queue")),
    )
    pools = [*steps("shop_queue", 4, 2), (PoolMeasures("step_executor", "mail_queue", executors=1), 1)]
    assert placed(pools, worker(scaling="requested", most_slots=8), requested=requested).stopped == ["1"]


def test_a_worker_that_grew_is_told_to_shrink_by_what_none_of_its_queues_needs() -> None:
    grown = worker(queues=("shop", "mail"), slots=6, scaling="resized", most_slots=8)
    pools = [*steps("shop_queue", 6, 2), (PoolMeasures("step_executor", "mail_queue", executors=6), 4)]
    assert placed(pools, grown).resized == {"w@host": 4}
    assert placed(steps("shop_queue", 6, 0), worker(slots=6, scaling="resized", most_slots=8)).resized == {"w@host": 1}


def test_orchestration_is_asked_for_by_kind_and_an_orchestration_worker_grows_for_all() -> None:
    kinds = ("task_request_processor", "task_claimer", "step_enqueuer", "step_result_processor", "task_finalizer")
    pools = [(PoolMeasures(kind, executors=1), 2 if kind == "task_claimer" else 1) for kind in kinds]
    autoscaling = worker(queues=("orchestration",), slots=1, scaling="requested", most_slots=3)
    assert placed(pools, autoscaling).asked == [Asked("task_claimer", (), "orchestration")]
    growing = worker(queues=("orchestration",), slots=1, scaling="resized", most_slots=3)
    assert placed(pools, growing).resized == {"w@host": 2}


def test_what_a_minimum_lacks_is_not_asked_for_twice() -> None:
    pools = [(PoolMeasures("task_claimer", executors=0), 1)]
    assert placed(pools, worker(queues=("orchestration",), scaling="requested", most_slots=3)).asked == []
