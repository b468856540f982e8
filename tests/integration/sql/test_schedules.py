"""Schedules: what is stored and refused, and that a slot is fired once, whoever fires it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.sql_kit import CHAIN, Core

TASK = {"namespace": "shop", "name": "order", "context": {"n": 1}}
HOURLY = {"name": "nightly", "task": TASK, "cron": "0 * * * *", "next_due_at": "2026-07-01T00:00:00+00:00"}
AT = [f"2026-07-01T{hour:02}:00:00+00:00" for hour in range(5)]


@pytest.fixture
def core(core: Core) -> Core:
    core.register("order", CHAIN)
    return core


def at(core: Core, moment: str) -> None:
    """Move the clock to ``moment``."""
    core.move_clock(0)
    core.move_clock(
        core.one("SELECT CAST(extract(epoch FROM %s::timestamptz - tasker.now()) AS double precision)", moment)
    )


def fire(core: Core, *slots: str, expected: str, following: str) -> dict[str, Any]:
    request = {"name": "nightly", "expected_due_at": expected, "slots": list(slots), "next_due_at": following}
    answer: dict[str, Any] = core.call("fire_schedule", request)
    return answer


def schedule(core: Core) -> dict[str, Any]:
    found: dict[str, Any] = core.one("SELECT to_jsonb(s) FROM tasker.schedules AS s")
    return found


def test_a_schedule_is_made_once_and_stays_as_it_is_when_the_same_is_said_again(core: Core) -> None:
    outcomes = [core.call("set_schedule", HOURLY)["outcome"] for _ in range(2)]
    assert outcomes == ["new", "unchanged"]
    assert schedule(core)["fired"] == 0


def test_another_definition_needs_to_be_told_to_replace_and_leaves_a_paused_one_paused(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    core.call("change_schedule", {"name": "nightly", "action": "pause", "by": "ann"})
    other = {**HOURLY, "cron": None, "every_seconds": 60, "next_due_at": AT[2]}
    with pytest.raises(psycopg.Error, match="it is another one") as refused:
        core.call("set_schedule", other)
    assert refused.value.sqlstate == "TK001"
    assert core.call("set_schedule", {**other, "replace": True, "by": "bob"})["outcome"] == "replaced"
    row = schedule(core)
    assert (row["cron"], row["every_seconds"], row["changed_by"]) == (None, 60, "bob")
    assert row["paused_at"] is not None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Nightly run"}, "name"),
        ({"name": None}, "name"),
        ({"task": None}, "task"),
        ({"task": {"namespace": "shop"}}, "name"),
        ({"task": {**TASK, "run_at": AT[0]}}, "run_at"),
        ({"task": {**TASK, "identity_key": "k"}}, "identity_key"),
        ({"task": {**TASK, "color": "red"}}, "color"),
        ({"task": {**TASK, "name": "unheard_of"}}, "task"),
        ({"task": {**TASK, "version": "9.9.9"}}, "task"),
        ({"cron": None}, "cron"),
        ({"every_seconds": 60}, "cron"),
        ({"cron": None, "every_seconds": 0}, "every_seconds"),
        ({"cron": None, "every_seconds": "soon"}, "request"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"catch_up": "some"}, "catch_up"),
        ({"next_due_at": None}, "next_due_at"),
        ({"next_due_at": "infinity"}, "next_due_at"),
        ({"next_due_at": "soon"}, "request"),
        ({"starts_at": "-infinity"}, "starts_at"),
        # What Python cannot read would keep everybody from looking at any schedule.
        ({"starts_at": "0500-01-01 BC"}, "starts_at"),
        ({"starts_at": "20000-01-01"}, "starts_at"),
        ({"next_due_at": "0500-01-01 BC"}, "next_due_at"),
        ({"next_due_at": "20000-01-01"}, "next_due_at"),
        ({"cron": 5}, "cron"),
        ({"cron": "0" * 257}, "cron"),
        ({"by": ["ann"]}, "by"),
        ({"by": "a" * 1025}, "by"),
        ({"replace": "maybe"}, "request"),
        ({"task": {**TASK, "tags": ["a"] * 100}}, "tags"),
    ],
)
def test_what_is_no_schedule_is_refused_by_its_field_and_nothing_is_stored(
    core: Core, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        core.call("set_schedule", {**HOURLY, **change})
    assert refused.value.sqlstate in ("TK001", "TK002")
    assert refused.value.diag.column_name == field
    assert core.one("SELECT count(*) FROM tasker.schedules") == 0


def test_a_slot_becomes_a_task_that_says_where_it_comes_from(core: Core) -> None:
    core.call("set_schedule", {**HOURLY, "task": {**TASK, "tags": ["eu"], "priority": 3}})
    at(core, AT[0])
    answer = fire(core, AT[0], expected=AT[0], following=AT[1])
    (task,) = answer["task_uuids"]
    row = core.task(task)
    assert (row["state"], row["priority"], row["tags"], row["initiator"]) == (
        "in_progress",
        3,
        ["eu", "schedule:nightly"],
        "schedule:nightly",
    )
    assert row["run_at"].isoformat() == AT[0]
    now = schedule(core)
    assert (now["fired"], now["last_due_at"], now["last_task_uuid"], now["next_due_at"]) == (1, AT[0], task, AT[1])
    assert core.broken_rules() == []


def test_many_slots_are_made_up_for_at_once_and_none_if_so_wished(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    at(core, AT[3])
    assert len(fire(core, *AT[:2], expected=AT[0], following=AT[2])["task_uuids"]) == 2
    assert fire(core, expected=AT[2], following=AT[4]) == {"fired": True, "task_uuids": []}
    now = schedule(core)
    assert (now["fired"], now["last_due_at"], now["next_due_at"]) == (2, AT[1], AT[4])


def test_of_all_who_fire_a_slot_one_does(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    at(core, AT[0])
    offset = core.one("SELECT current_setting('tasker.clock_offset')")
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        mine = Core(core.url)
        mine.rows_affected("SELECT set_config('tasker.clock_offset', %s, false)", offset)
        barrier.wait()
        try:
            return bool(fire(mine, AT[0], expected=AT[0], following=AT[1])["fired"])
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == [False] * 7 + [True]
    assert core.one("SELECT count(*) FROM tasker.tasks") == 1


def test_a_slot_is_not_fired_before_its_time_nor_while_its_schedule_is_paused_or_gone(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    at(core, "2026-06-30T23:59:59+00:00")
    idle = {"fired": False, "task_uuids": []}
    assert fire(core, AT[0], expected=AT[0], following=AT[1]) == idle
    at(core, AT[0])
    core.call("change_schedule", {"name": "nightly", "action": "pause"})
    assert fire(core, AT[0], expected=AT[0], following=AT[1]) == idle
    core.call("change_schedule", {"name": "nightly", "action": "resume", "next_due_at": AT[1]})
    assert fire(core, AT[0], expected=AT[0], following=AT[1]) == idle
    assert schedule(core)["next_due_at"] == AT[1]
    core.call("change_schedule", {"name": "nightly", "action": "remove"})
    assert fire(core, AT[1], expected=AT[1], following=AT[2]) == idle
    assert core.one("SELECT count(*) FROM tasker.tasks") == 0


def test_a_schedule_removed_and_made_anew_does_not_fire_a_slot_twice(core: Core) -> None:
    at(core, AT[0])
    tasks = []
    for _ in range(2):
        core.call("set_schedule", HOURLY)
        tasks += fire(core, AT[0], expected=AT[0], following=AT[1])["task_uuids"]
        core.call("change_schedule", {"name": "nightly", "action": "remove"})
    assert len(tasks) == 2
    assert len(set(tasks)) == 1


@pytest.mark.parametrize(
    ("slots", "following"),
    [
        ([AT[0]], AT[0]),
        ([AT[2]], AT[3]),
        ([AT[0]], None),
        (["2026-06-30T23:00:00+00:00"], AT[1]),
        ([AT[0], AT[1]], AT[1]),
    ],
)
def test_slots_that_are_not_due_or_not_in_order_are_refused(core: Core, slots: list[str], following: str) -> None:
    core.call("set_schedule", HOURLY)
    at(core, AT[1])
    with pytest.raises(psycopg.Error, match="slots must be due"):
        fire(core, *slots, expected=AT[0], following=following)


def test_what_cannot_be_fired_is_put_off_and_told(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    at(core, AT[0])
    request = {"name": "nightly", "expected_due_at": AT[0], "failure": "no such workflow", "retry_seconds": 60}
    assert core.call("postpone_schedule", request) == {"postponed": True}
    assert core.call("postpone_schedule", {**request, "expected_due_at": AT[1]}) == {"postponed": False}
    row = schedule(core)
    assert (row["failure"], row["next_due_at"]) == ("no such workflow", AT[0])
    answer = core.call("claim_ready_tasks", {"processor": "test"})
    assert 50 < answer["next_schedule_seconds"] <= 60
    fire(core, AT[0], expected=AT[0], following=AT[1])
    assert schedule(core)["failure"] is None


def test_whoever_admits_tasks_hears_when_a_schedule_is_due(core: Core) -> None:
    assert core.call("claim_ready_tasks", {"processor": "test"})["next_schedule_seconds"] is None
    core.call("set_schedule", HOURLY)
    at(core, "2026-06-30T23:59:00+00:00")
    assert 50 < core.call("claim_ready_tasks", {"processor": "test"})["next_schedule_seconds"] <= 60
    at(core, AT[1])
    assert core.call("claim_ready_tasks", {"processor": "test"})["next_schedule_seconds"] == 0
    core.call("change_schedule", {"name": "nightly", "action": "pause"})
    assert core.call("claim_ready_tasks", {"processor": "test"})["next_schedule_seconds"] is None


def test_as_many_tags_as_a_schedule_may_have_fit_its_tasks(core: Core) -> None:
    core.call("set_schedule", {**HOURLY, "task": {**TASK, "tags": [f"t{number}" for number in range(99)]}})
    at(core, AT[0])
    (task,) = fire(core, AT[0], expected=AT[0], following=AT[1])["task_uuids"]
    assert len(core.task(task)["tags"]) == 100


def test_other_tasks_at_the_same_times_leave_slots_due_that_are(core: Core) -> None:
    core.call("set_schedule", HOURLY)
    other = {**HOURLY, "replace": True, "next_due_at": AT[3]}
    assert core.call("set_schedule", {**other, "task": {**TASK, "context": {"n": 2}}})["next_due_at"] == AT[0]
    assert core.call("set_schedule", {**other, "catch_up": "all"})["next_due_at"] == AT[0]
    assert core.call("set_schedule", {**other, "cron": "30 * * * *"})["next_due_at"] == AT[3]
    assert schedule(core)["look_at"] == AT[3]


@pytest.mark.parametrize("due", ["0500-01-01 BC", "20000-01-01", "infinity", None])
def test_none_is_resumed_at_a_time_that_nobody_can_read(core: Core, due: str | None) -> None:
    core.call("set_schedule", HOURLY)
    core.call("change_schedule", {"name": "nightly", "action": "pause"})
    with pytest.raises(psycopg.Error) as refused:
        core.call("change_schedule", {"name": "nightly", "action": "resume", "next_due_at": due})
    assert (refused.value.sqlstate, refused.value.diag.column_name) == ("TK001", "next_due_at")


def test_a_schedule_that_is_not_there_is_told_so(core: Core) -> None:
    for action in ("pause", "resume", "remove"):
        with pytest.raises(psycopg.Error, match="there is no schedule") as refused:
            core.call("change_schedule", {"name": "nightly", "action": action})
        assert refused.value.sqlstate == "TK004"
