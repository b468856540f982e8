"""Exactly one speaks for a held step."""

from __future__ import annotations

import threading
from typing import Any

from tasker.executors.held import HeldStep, HeldSteps, Phase
from tasker.executors.incarnation import Incarnation
from tasker.executors.templates import StepTemplate

TASK = {"namespace": "n", "name": "t", "version": "1.0.0", "steps": [{"name": "s"}]}


def template(**rest: Any) -> StepTemplate:
    step = {
        "position": 0,
        "name": "s",
        "handler": {"callable": "h"},
        "retryable": True,
        "max_attempts": 3,
        "timeout_seconds": 10.0,
        "result_schema": None,
        "delegated": False,
        "expected_ms": None,
        "depends_on": [],
        **rest,
    }
    return StepTemplate(1, {**TASK, "steps": [step]}, step)


def held(number: int = 0, *, now: float = 0.0, incarnation: Incarnation | None = None, **rest: Any) -> HeldStep:
    claimed = {
        "task_uuid": f"task-{number}",
        "step_uuid": f"step-{number}",
        "position": 0,
        "map_index": 0,
        "fence": 1,
        "attempt": 1,
        "losses": 0,
        "results_paged": False,
    }
    return HeldStep(
        claimed,
        incarnation=incarnation or Incarnation(),
        call_no=1,
        template=template(**rest),
        task={"context": {}},
        results={},
        now=now,
        chain=(0, now),
    )


def test_steps_start_in_the_order_they_came() -> None:
    steps = HeldSteps()
    first, second = held(1), held(2)
    steps.add([first, second])
    assert steps.start_next(0) is first
    assert steps.start_next(0) is second
    assert steps.start_next(0) is None
    assert (steps.ready, steps.running, steps.count) == (0, 2, 2)


def test_only_one_of_end_and_timeout_settles_a_step() -> None:
    steps = HeldSteps()
    step = held()
    steps.add([step])
    steps.start_next(100.0)
    assert steps.next_deadline() == 110.0
    assert steps.take_timed_out(109.9) == []
    assert steps.take_timed_out(110.0) == [step]
    assert step.cancelled == "timeout"
    assert not steps.settle(step)
    assert steps.count == 0


def test_a_step_that_ended_does_not_time_out() -> None:
    steps = HeldSteps()
    step = held()
    steps.add([step])
    steps.start_next(0)
    assert steps.settle(step)
    assert steps.take_timed_out(1000) == []
    assert not steps.settle(step)


def test_only_what_waited_too_long_is_given_back() -> None:
    steps = HeldSteps()
    old, new = held(1, now=1.0), held(2, now=2.0)
    steps.add([old, new])
    assert steps.take_unstarted(1.5) == [old]
    assert steps.start_next(3.0) is new
    assert steps.take_unstarted() == []


def test_a_step_given_back_cannot_be_settled_again() -> None:
    steps = HeldSteps()
    step = held()
    steps.add([step])
    assert steps.take_unstarted() == [step]
    assert not steps.settle(step)
    assert step.phase is Phase.SETTLED


def test_cancelled_steps_are_found_by_their_fence() -> None:
    steps = HeldSteps()
    ready, running = held(1), held(2)
    steps.add([running, ready])
    steps.start_next(0)
    assert steps.cancel({("task-1", 0, 0, 2): "cancelled"}) == []
    gone = steps.cancel({("task-1", 0, 0, 1): "cancelled", ("task-2", 0, 0, 1): "resolved_manually"})
    assert {step.task_uuid: step.cancelled for step in gone} == {"task-1": "cancelled", "task-2": "resolved_manually"}
    assert steps.count == 0


def test_a_lost_incarnation_takes_only_its_own_steps_with_it() -> None:
    steps = HeldSteps()
    lost, alive = Incarnation(), Incarnation()
    running, ready, other = held(1, incarnation=lost), held(2, incarnation=lost), held(3, incarnation=alive)
    steps.add([running, ready, other])
    steps.start_next(0)
    assert steps.drop(lost, "lost") == [running]
    assert (running.cancelled, ready.cancelled, other.cancelled) == ("lost", "lost", None)
    assert steps.start_next(0) is other


def test_the_load_is_what_is_expected_still_to_be_done() -> None:
    steps = HeldSteps()
    steps.add([held(1, expected_ms=10), held(2, expected_ms=20), held(3, expected_ms=None)])
    assert steps.load(0, unknown_ms=50) == (3, 0, 80)
    steps.start_next(100.0)
    assert steps.load(100.004, unknown_ms=50) == (2, 1, 20 + 50 + 10 - (100.004 - 100.0) * 1000)
    # Longer than expected: nobody knows how much longer.
    assert steps.load(101.0, unknown_ms=50) == (2, 1, 120)


def test_many_threads_settle_each_step_once() -> None:
    steps = HeldSteps()
    all_steps = [held(number) for number in range(500)]
    steps.add(all_steps)
    while steps.start_next(0):
        pass
    wins: list[int] = []

    def settle() -> None:
        wins.append(sum(steps.settle(step) for step in all_steps))

    threads = [threading.Thread(target=settle) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wins) == 500
