"""A slot and who fills it: restarted at once, but not in a spin."""

from __future__ import annotations

import pytest

from tasker.hosting import slot as slots
from tasker.hosting.roles import Role
from tasker.hosting.slot import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, RESTART_SECONDS, Slot


class _Time:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Time:
    clock = _Time()
    monkeypatch.setattr(slots, "time", clock)
    return clock


def test_an_executor_that_ends_in_order_is_followed_at_once(clock: _Time) -> None:
    ended: list[Slot] = []
    slot = Slot(Role("orchestration"))
    slot.occupy(ended.append)()
    assert ended == [slot]
    assert slot.occupant is None
    assert slot.not_before == clock.now + RESTART_SECONDS


def test_executors_that_fail_at_once_are_followed_ever_more_slowly(clock: _Time) -> None:
    slot = Slot(Role("orchestration"))
    pauses = []
    for _ in range(12):
        occupant = slot.occupy(lambda _: None)
        occupant.failed = True
        occupant()
        pauses.append(slot.not_before - clock.now)
    assert pauses[0] == pytest.approx(FIRST_PAUSE_SECONDS)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_SECONDS)


def test_an_executor_that_fails_after_a_long_time_is_followed_at_once(clock: _Time) -> None:
    slot = Slot(Role("orchestration"))
    occupant = slot.occupy(lambda _: None)
    clock.now += LONGEST_PAUSE_SECONDS
    occupant.failed = True
    occupant()
    assert slot.not_before == clock.now + RESTART_SECONDS


def test_the_late_end_of_an_executor_that_was_given_up_does_not_empty_the_slot(clock: _Time) -> None:
    ended: list[Slot] = []
    slot = Slot(Role("orchestration"))
    lost = slot.occupy(ended.append)
    assert slot.vacate(lost)
    successor = slot.occupy(ended.append)
    lost()
    assert slot.occupant is successor
    assert ended == []
