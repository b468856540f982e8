"""Whether an executor gets on, and its circuit, with a clock that is moved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tasker.config.settings import Settings
from tasker.executors.counters import Counters
from tasker.executors.idle import IdleSchedule
from tasker.executors.loop import CIRCUIT_OPEN_SECONDS, LONGEST_PAUSE_SECONDS, Slot
from tasker.executors.progress import Progress, stall_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_silence_counts_from_the_last_poll_or_work(clock: Clock) -> None:
    progress = Progress(clock)
    assert progress.silence() == {"poll_seconds": None, "work_seconds": None}
    clock.now += 5
    assert progress.silent_seconds() == 5
    progress.polled()
    clock.now += 3
    progress.worked()
    clock.now += 1
    assert progress.silence() == {"poll_seconds": 4, "work_seconds": 1}
    assert progress.silent_seconds() == 1


def test_only_drains_that_found_something_are_work(clock: Clock) -> None:
    progress = Progress(clock)
    for taken, seconds in ((0, 10), (3, 2)):
        progress.began()
        clock.now += seconds
        progress.ended(taken)
    assert progress.busy_ms(works=False) == 2000
    progress.began()
    clock.now += 1
    assert (progress.busy_ms(works=False), progress.busy_ms(works=True)) == (2000, 3000)


def test_an_unfit_executor_that_asks_its_queues_after_all_is_fit_again(clock: Clock) -> None:
    progress = Progress(clock)
    progress.is_unfit = True
    progress.polled()
    assert not progress.is_unfit


def test_a_drain_may_take_its_time_before_it_counts_as_stuck() -> None:
    settings = Settings()
    assert stall_seconds(settings, "step_executor") == 30
    assert stall_seconds(settings, "task_claimer") == 45


def slot_of(threshold: int | None) -> Any:
    executor = SimpleNamespace(kind="task_claimer", incarnation=None, trouble=None, counters=Counters())
    schedule = IdleSchedule(0.05, 5)
    return Slot(executor, batch_size=1, schedule=schedule, failure_threshold=threshold)  # type: ignore[arg-type]


def test_a_circuit_opens_after_so_many_failures_and_closes_with_the_first_success() -> None:
    slot = slot_of(2)
    slot.failed(0.0)
    assert (slot.due_at, slot.executor.trouble) == (0.5, "drains fail")
    slot.failed(1.0)
    assert (slot.due_at, slot.executor.trouble) == (1.0 + CIRCUIT_OPEN_SECONDS, "circuit open")
    slot.poke()
    assert not slot.take_due(2.0)  # messages do not open it
    assert slot.take_due(1.0 + CIRCUIT_OPEN_SECONDS)
    slot.failed(40.0)
    assert slot.due_at == 40.0 + CIRCUIT_OPEN_SECONDS
    assert slot.executor.counters.snapshot() == {"circuit_opened": 1}
    slot.succeeded()
    assert (slot.failures, slot.executor.trouble) == (0, None)


def test_without_a_circuit_failures_are_only_ever_further_apart() -> None:
    slot = slot_of(None)
    pauses = []
    for _ in range(9):
        slot.failed(0.0)
        pauses.append(slot.due_at)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert slot.executor.trouble == "drains fail"
