from __future__ import annotations

import datetime as dt
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasker.errors import InvalidRequest
from tasker.workflows.slots import MISSED_AFTER, SLOTS_AT_ONCE, Timing

BERLIN = ZoneInfo("Europe/Berlin")


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]


def slots(timing: Timing, after: dt.datetime, count: int) -> list[dt.datetime]:
    found = [timing.after(after)]
    while len(found) < count:
        found.append(timing.after(found[-1]))
    return found


# -- what is due when ---------------------------------------------------------------------------------------------


def test_a_cron_expression_is_read_in_its_time_zone() -> None:
    timing = Timing.checked(cron="30 6 * * 1-5", time_zone="Europe/Berlin")
    # A Friday: the next is on Monday.
    assert slots(timing, utc(2026, 7, 3, 4, 0), 2) == [utc(2026, 7, 3, 4, 30), utc(2026, 7, 6, 4, 30)]
    assert timing.after(utc(2026, 1, 1)) == utc(2026, 1, 1, 5, 30)


def test_a_job_whose_hour_is_left_out_runs_right_after_it_and_one_whose_hour_comes_twice_runs_once() -> None:
    timing = Timing.checked(cron="30 2 * * *", time_zone="Europe/Berlin")
    local = [slot.astimezone(BERLIN) for slot in slots(timing, utc(2026, 3, 27, 12), 3)]
    assert [(slot.day, slot.hour, slot.minute) for slot in local] == [(28, 2, 30), (29, 3, 0), (30, 2, 30)]
    autumn = slots(timing, utc(2026, 10, 24, 12), 2)
    assert autumn == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]


def test_every_hour_goes_on_through_both_changes_of_the_clock() -> None:
    timing = Timing.checked(cron="0 * * * *", time_zone="Europe/Berlin")
    for start in (utc(2026, 3, 28, 20), utc(2026, 10, 24, 20)):
        found = slots(timing, start, 10)
        assert {later - earlier for earlier, later in pairwise(found)} == {dt.timedelta(hours=1)}


def test_an_interval_without_a_start_is_due_on_the_even_times_of_the_clock() -> None:
    timing = Timing.checked(every=900)
    assert slots(timing, utc(2026, 7, 3, 4, 1), 2) == [utc(2026, 7, 3, 4, 15), utc(2026, 7, 3, 4, 30)]
    assert timing.after(utc(2026, 7, 3, 4, 15)) == utc(2026, 7, 3, 4, 30)


def test_an_interval_counts_from_its_start_and_has_no_slot_before_it() -> None:
    timing = Timing.checked(every=dt.timedelta(minutes=10), starts_at=utc(2026, 7, 3, 4, 3))
    assert slots(timing, utc(2026, 7, 1), 2) == [utc(2026, 7, 3, 4, 3), utc(2026, 7, 3, 4, 13)]
    assert timing.latest(utc(2026, 7, 3, 5, 0)) == utc(2026, 7, 3, 4, 53)


def test_a_cron_expression_too_has_no_slot_before_its_start() -> None:
    timing = Timing.checked(cron="@daily", starts_at=utc(2026, 8, 1))
    assert timing.after(utc(2026, 7, 1, 12)) == utc(2026, 8, 1)


TIMINGS = st.one_of(
    st.builds(
        lambda cron, zone: Timing.checked(cron=cron, time_zone=zone),
        st.sampled_from(
            ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 1,2,3 * * *", "15 */5 * * *", "@weekly", "0 0 29 2 *"]
        ),
        st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    ),
    st.builds(lambda seconds: Timing.checked(every=seconds), st.integers(1, 10_000_000)),
)
MOMENTS = st.integers(0, 10 * 365 * 86_400).map(lambda seconds: utc(2020, 1, 1) + dt.timedelta(seconds=seconds))
NEAR_CHANGES = st.builds(
    lambda day, seconds: day + dt.timedelta(seconds=seconds),
    st.sampled_from(
        [utc(2026, 3, 29), utc(2026, 10, 25), utc(2026, 3, 8, 6), utc(2026, 11, 1, 5), utc(2026, 4, 4, 14)]
    ),
    st.integers(0, 4 * 3600),
)


@given(TIMINGS, st.one_of(MOMENTS, NEAR_CHANGES))
def test_slots_lie_where_they_are_said_to_lie(timing: Timing, moment: dt.datetime) -> None:
    following = timing.after(moment)
    assert following > moment
    assert timing.after(following) > following
    assert timing.latest(moment) <= moment


# -- what is done about what was missed ---------------------------------------------------------------------------


HOURLY = Timing.checked(cron="0 * * * *")
FIRST = utc(2026, 7, 1, 0)


@pytest.mark.parametrize("catch_up", ["last", "all", "none"])
def test_a_slot_that_is_just_due_is_fired_whatever_is_made_up_for(catch_up: str) -> None:
    plan = HOURLY.plan(FIRST, FIRST + dt.timedelta(seconds=3), catch_up)
    assert plan.fire == (FIRST,)
    assert plan.next_due_at == FIRST + dt.timedelta(hours=1)


def test_of_slots_that_were_missed_the_last_one_is_fired_or_all_or_none() -> None:
    now = FIRST + dt.timedelta(hours=3, minutes=30)
    last, every, none = (HOURLY.plan(FIRST, now, catch_up) for catch_up in ("last", "all", "none"))
    assert last.fire == (FIRST + dt.timedelta(hours=3),)
    assert every.fire == tuple(FIRST + dt.timedelta(hours=n) for n in range(4))
    assert none.fire == ()
    assert {plan.next_due_at for plan in (last, every, none)} == {FIRST + dt.timedelta(hours=4)}


def test_after_missed_slots_the_one_that_is_just_due_is_fired_even_where_nothing_is_made_up_for() -> None:
    now = FIRST + dt.timedelta(hours=3) + MISSED_AFTER
    assert HOURLY.plan(FIRST, now, "none").fire == (FIRST + dt.timedelta(hours=3),)


def test_many_slots_are_made_up_for_in_turns() -> None:
    timing = Timing.checked(every=1)
    now = FIRST + dt.timedelta(seconds=250)
    fired: list[dt.datetime] = []
    following = FIRST
    while following <= now:
        plan = timing.plan(following, now, "all")
        assert len(plan.fire) <= SLOTS_AT_ONCE
        fired += plan.fire
        following = plan.next_due_at
    assert fired == [FIRST + dt.timedelta(seconds=n) for n in range(251)]


# -- what is no timing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "cron"),
        ({"cron": "* * * * *", "every": 60}, "cron"),
        ({"cron": "every day"}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": ""}, "cron"),
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"every": True}, "every"),
        ({"every": float("nan")}, "every"),
        ({"every": float("inf")}, "every"),
        ({"every": "soon"}, "every"),
        ({"every": dt.timedelta(microseconds=1)}, "every"),
        ({"every": 60, "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"every": 60, "time_zone": ""}, "time_zone"),
        ({"every": 60, "time_zone": "../etc/passwd"}, "time_zone"),
        ({"every": 60, "starts_at": utc(2026, 1, 1).replace(tzinfo=None)}, "starts_at"),
    ],
)
def test_what_has_no_slots_is_refused_by_the_name_of_the_argument(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Timing.checked(**arguments)  # type: ignore[arg-type]
    assert refused.value.field == field
