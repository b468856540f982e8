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


# -- what the clock shows, minute by minute -----------------------------------------------------------------------


CHANGES = [
    ("Europe/Berlin", utc(2026, 3, 29)),
    ("Europe/Berlin", utc(2026, 10, 25)),
    ("Australia/Lord_Howe", utc(2026, 4, 4, 15)),  # by half an hour
    ("Australia/Lord_Howe", utc(2026, 10, 3, 15)),
    ("Africa/Cairo", utc(2026, 4, 23, 22)),  # at midnight, which is left out
    ("America/Havana", utc(2026, 11, 1, 5)),
    ("America/Santiago", utc(2026, 4, 5, 3)),
    ("Antarctica/Troll", utc(2026, 10, 25)),  # by two hours
    ("Pacific/Apia", utc(2011, 12, 30, 10)),  # a day that never was
    ("America/Caracas", utc(2016, 5, 1, 7)),
    ("Asia/Kathmandu", utc(1985, 12, 31, 18)),  # by a quarter of an hour
    ("America/St_Johns", utc(2009, 3, 8, 3)),  # at one minute past midnight
    ("America/St_Johns", utc(2009, 11, 1, 3)),
]
CLOCKS = {
    # Minutes and hours; whether at fixed hours.
    "*/10 23 * * *": (set(range(0, 60, 10)), {23}, False),
    "*/20 0 * * *": ({0, 20, 40}, {0}, False),
    "*/15 2 * * *": ({0, 15, 30, 45}, {2}, False),
    "0 */2 * * *": ({0}, set(range(0, 24, 2)), False),
    "0 * * * *": ({0}, set(range(24)), False),
    "30 2 * * *": ({30}, {2}, True),
    "15 1,2,3 * * *": ({15}, {1, 2, 3}, True),
    "10-50/20 0-3 * * *": ({10, 30, 50}, {0, 1, 2, 3}, True),
    "59 23 * * *": ({59}, {23}, True),
}


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_slots_are_those_of_a_clock_that_is_watched_minute_by_minute(zone: str, change: dt.datetime) -> None:
    minute = dt.timedelta(minutes=1)
    moments = [change + n * minute for n in range(-40 * 60, 40 * 60)]
    shown = [(moment, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for moment in moments]
    seen: set[dt.datetime] = set()
    passed: list[tuple[dt.datetime, list[dt.datetime]]] = []
    for (_, before), (moment, clock) in pairwise(shown):
        # What the clock shows now for the first time, and what it has left out since.
        new = [before + n * minute for n in range(1, max(0, (clock - before) // minute) + 1)]
        passed.append((moment, [each for each in new if each not in seen]))
        seen.update(new)
    for cron, (minutes, hours, fixed) in CLOCKS.items():
        if fixed:
            expected = [
                moment for moment, news in passed if any(new.minute in minutes and new.hour in hours for new in news)
            ]
        else:
            expected = [moment for moment, clock in shown[1:] if clock.minute in minutes and clock.hour in hours]
        timing = Timing.checked(cron=cron, time_zone=zone)
        for earlier, later in pairwise(expected):
            told = [timing.after(at) for at in (earlier, earlier + minute / 2, (later - minute / 2))]
            assert told == [later] * 3, cron
            between = earlier + (later - earlier) / 2
            told = [timing.latest(at) for at in (earlier, earlier + minute / 2, between, later - minute / 2)]
            assert told == [earlier] * 4, cron


def test_intervals_pass_by_the_time_that_passes_in_whatever_zone_they_are_given() -> None:
    start = dt.datetime(2026, 1, 5, 8, tzinfo=BERLIN)
    weekly = Timing.checked(every=dt.timedelta(days=7), starts_at=start)
    assert weekly.after(utc(2026, 7, 1)) == utc(2026, 7, 6, 7)
    # As a database tells the time whose clock is set to Berlin's.
    hourly = Timing.checked(every=3600)
    night = [utc(2026, 10, 24, 22).astimezone(BERLIN), utc(2026, 10, 25, 4).astimezone(BERLIN)]
    plan = hourly.plan(night[0], night[1], "all")
    assert plan.fire == tuple(utc(2026, 10, 24, 22) + n * dt.timedelta(hours=1) for n in range(7))
    assert hourly.latest(utc(2026, 10, 25, 1, 30).astimezone(BERLIN)) == utc(2026, 10, 25, 1)
    twice = utc(2026, 10, 25, 1, 45).astimezone(BERLIN)  # the second 2:45
    often = Timing.checked(cron="*/10 * * * *", starts_at=twice, time_zone="Europe/Berlin")
    assert often.after(utc(2026, 1, 1)) == utc(2026, 10, 25, 1, 50)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"cron": f"{'9' * 5000} * * * *"}, "cron"),
        ({"cron": "0 0 29 2 *" + " " * 5000}, "cron"),
        ({"cron": "* * * * *", "time_zone": None}, "time_zone"),
        ({"cron": "* * * * *", "time_zone": 3}, "time_zone"),
        ({"cron": "* * * * *", "starts_at": "2026-01-01"}, "starts_at"),
        ({"cron": "* * * * *", "starts_at": dt.date(2026, 1, 1)}, "starts_at"),
        ({"every": 60, "starts_at": dt.datetime.max.replace(tzinfo=dt.UTC)}, "starts_at"),
        ({"every": 60, "starts_at": dt.datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo"))}, "starts_at"),
    ],
)
def test_what_python_cannot_compute_with_is_refused_like_all_else(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Timing.checked(**arguments)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_slots_beyond_pythons_calendar_are_never_due() -> None:
    with pytest.raises(InvalidRequest, match="never due"):
        Timing(cron="0 0 29 2 *").after(utc(9997, 1, 1))
    with pytest.raises(InvalidRequest):
        Timing(every_seconds=3600).after(utc(9999, 12, 31, 23, 30))
