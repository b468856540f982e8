"""Idle executors look again soon, then ever more rarely."""

from __future__ import annotations

import pytest

from tasker.executors.idle import JITTER, LOOK_AGAIN_SECONDS, IdleSchedule


def waits(schedule: IdleSchedule, count: int) -> list[float]:
    return [schedule.next_wait() for _ in range(count)]


def test_after_the_flag_was_set_it_looks_twice_more_and_then_polls_doubling() -> None:
    schedule = IdleSchedule(0.05, 0.3, jitter=lambda: 0.0)
    schedule.found_work()
    schedule.flag_was_set()
    assert waits(schedule, 6) == [*LOOK_AGAIN_SECONDS, 0.05, 0.1, 0.2, 0.3]


def test_while_the_flag_stays_set_it_does_not_look_twice_again() -> None:
    schedule = IdleSchedule(0.05, 5, jitter=lambda: 0.0)
    schedule.flag_was_set()
    waits(schedule, 5)
    schedule.found_work()
    assert waits(schedule, 2) == [0.05, 0.1]


def test_work_that_falls_due_earlier_shortens_a_wait() -> None:
    schedule = IdleSchedule(1, 5, jitter=lambda: 0.0)
    schedule.found_work()
    assert schedule.next_wait(0.25) == 0.25
    assert schedule.next_wait(60) == 2
    assert schedule.next_wait(-1) == 0


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_jitter_only_shortens(chance: float) -> None:
    schedule = IdleSchedule(1, 1, jitter=lambda: chance)
    schedule.found_work()
    assert 1 - JITTER <= schedule.next_wait() <= 1


def test_a_longest_wait_below_the_shortest_means_the_shortest() -> None:
    schedule = IdleSchedule(1, 0.5, jitter=lambda: 0.0)
    schedule.found_work()
    assert waits(schedule, 2) == [1, 1]
