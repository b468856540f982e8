"""Counts and durations of executors, as heartbeats carry them."""

from __future__ import annotations

from tasker.executors.counters import Counters, without

BOUNDS = (0.01, 0.1)


def test_durations_are_told_as_buckets_with_their_sum() -> None:
    counters = Counters()
    for seconds in (0.005, 0.01, 0.05, 7.0):
        counters.observe("step_duration_seconds", "shop", seconds, BOUNDS)
    counters.observe("step_duration_seconds", "stock", 0.2, BOUNDS)
    assert counters.durations() == {
        "step_duration_seconds_sum|shop": 7.065,
        "step_duration_seconds_bucket|shop|0.01": 2,
        "step_duration_seconds_bucket|shop|0.1": 1,
        "step_duration_seconds_bucket|shop|+Inf": 1,
        "step_duration_seconds_sum|stock": 0.2,
        "step_duration_seconds_bucket|stock|+Inf": 1,
    }
    assert counters.snapshot() == {}, "they are no part of what a run of a loop tells"


def test_what_was_told_before_is_left_out() -> None:
    assert without({"a": 3, "b": 2, "c": 1.5}, {"a": 3, "c": 1.0}) == {"b": 2, "c": 0.5}
