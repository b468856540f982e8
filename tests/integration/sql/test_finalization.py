"""Finalization claims: one winner, everybody else told why, and rules 21 and 22 of the step protocol."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql_kit import Core


@pytest.fixture
def finished(core: Core) -> str:
    """A finished task with after-work."""
    core.register("order", {"a": []}, has_after_work=True, step={"max_attempts": 1})
    (task,) = core.create("order")
    core.executor().run_all()
    return task


def claim(core: Core, task: str, processor: str, seconds: int = 30) -> dict[str, Any]:
    cursor = core.connection.execute(
        "SELECT * FROM tasker.claim_task_for_finalization(%s, %s, %s)", [task, processor, seconds]
    )
    assert cursor.description is not None
    row = cursor.fetchone()
    assert row is not None
    return dict(zip([column.name for column in cursor.description], row, strict=True))


def claim_batch(core: Core, processor: str, **more: Any) -> list[dict[str, Any]]:
    return list(core.call("claim_tasks_for_finalization", {"processor": processor, "limit": 10, **more})["claims"])


def finalize(core: Core, task: str, processor: str, claim_no: int, msg_id: int | None = None) -> str:
    request = {"task_uuid": task, "processor": processor, "claim_no": claim_no, "msg_id": msg_id}
    return str(core.call("finalize_task", request)["answer"])


def test_a_task_with_after_work_is_finished_but_not_final(core: Core, finished: str) -> None:
    row = core.task(finished)
    assert row["finished_at"] is not None
    assert row["finalized_at"] is None
    assert core.rows("SELECT message FROM pgmq.q_task_finalization") == [({"task_uuid": finished},)]


def test_one_processor_wins_and_the_other_is_told_who_holds_the_claim(core: Core, finished: str) -> None:
    won, lost = claim(core, finished, "f1"), claim(core, finished, "f2")
    assert (won["claimed"], won["reason"], won["claim_no"]) == (True, "claimed", 1)
    assert (lost["claimed"], lost["reason"], lost["already_claimed_by"]) == (False, "already_claimed", "f1")
    assert "f1 holds the claim until" in lost["message"]
    assert core.rows("SELECT processor, claim_no, expired FROM tasker.finalization_claims") == [("f1", 1, False)]


def test_the_holders_own_repeat_extends_its_claim_under_the_same_number(core: Core, finished: str) -> None:
    claim(core, finished, "f1", 30)
    core.move_clock(20)
    assert claim(core, finished, "f1", 30)["claim_no"] == 1
    core.move_clock(45)
    assert claim(core, finished, "f2")["claimed"] is False
    core.move_clock(51)
    taken = claim(core, finished, "f2")
    assert (taken["claimed"], taken["claim_no"]) == (True, 2)


def test_an_overtaken_finalizer_ends_nothing(core: Core, finished: str) -> None:
    claim(core, finished, "f1", 30)
    core.move_clock(31)
    claim(core, finished, "f2")
    assert finalize(core, finished, "f1", 1) == "claim_lost"
    assert core.task(finished)["finalized_at"] is None
    assert finalize(core, finished, "f2", 2) == "finalized"
    assert finalize(core, finished, "f2", 2) == "already_finalized"


@pytest.mark.parametrize("state", ["not_found", "not_finished", "already_finalized"])
def test_a_claim_that_makes_no_sense_says_why(core: Core, finished: str, state: str) -> None:
    if state == "not_found":
        task = "01a20f35-8eea-7347-85bd-881dc2145300"
    elif state == "not_finished":
        (task,) = core.create("order")
    else:
        task = finished
        finalize(core, task, "f1", claim(core, task, "f1")["claim_no"])
    answer = claim(core, task, "f2")
    assert (answer["claimed"], answer["reason"]) == (False, state)
    assert answer["running"] == {"not_found": None, "not_finished": 1, "already_finalized": 0}[state]


def test_a_claim_needs_a_processor_and_a_timeout(core: Core, finished: str) -> None:
    for processor, seconds, field in (("", 30, "processor_id"), ("f1", 0, "timeout_seconds")):
        with pytest.raises(psycopg.Error) as caught:
            claim(core, finished, processor, seconds)
        assert caught.value.diag.column_name == field


def test_a_released_claim_is_anybodys(core: Core, finished: str) -> None:
    claim(core, finished, "f1")
    assert core.call("release_finalization_claim", finished, "f2", 1) is False
    assert core.call("release_finalization_claim", finished, "f1", 1) is True
    assert claim(core, finished, "f2")["claim_no"] == 2


def test_a_claim_is_extended_by_its_holder_alone(core: Core, finished: str) -> None:
    claim(core, finished, "f1", 30)
    assert core.call("extend_finalization_claim", finished, "f2", 1, 300) is False
    assert core.call("extend_finalization_claim", finished, "f1", 1, 300) is True
    core.move_clock(200)
    assert claim(core, finished, "f2")["claimed"] is False


def test_rule_21_after_a_retry_the_first_finish_can_no_longer_be_finalized(core: Core) -> None:
    core.register("order", {"a": []}, has_after_work=True, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    first = claim(core, task, "f0")
    core.call("retry_task", {"task_uuid": task, "by": "me"})
    assert finalize(core, task, "f0", first["claim_no"]) == "not_finished"
    worker.run_all()
    assert finalize(core, task, "f0", first["claim_no"]) == "claim_lost"
    second = claim(core, task, "f0")
    assert second["claim_no"] == first["claim_no"] + 1
    assert second["finish_no"] == first["finish_no"] + 1
    assert finalize(core, task, "f0", second["claim_no"]) == "finalized"


def test_rule_22_a_message_goes_only_when_nothing_is_left_to_do_for_it(core: Core, finished: str) -> None:
    (mine,) = claim_batch(core, "f1")
    assert mine["task_uuid"] == finished
    assert core.depth("task_finalization") == 1
    core.rows_affected("UPDATE pgmq.q_task_finalization SET vt = clock_timestamp()")
    assert claim_batch(core, "f2") == []
    assert core.depth("task_finalization") == 1
    core.move_clock(60)
    core.rows_affected("UPDATE pgmq.q_task_finalization SET vt = clock_timestamp()")
    (taken,) = claim_batch(core, "f2")
    assert finalize(core, finished, "f1", mine["claim_no"], mine["msg_id"]) == "claim_lost"
    assert core.depth("task_finalization") == 1
    assert finalize(core, finished, "f2", taken["claim_no"], taken["msg_id"]) == "finalized"
    assert core.depth("task_finalization") == 0


def test_rule_22_messages_of_unknown_and_reopened_tasks_are_used_up(core: Core) -> None:
    core.register("order", {"a": []}, has_after_work=True, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    core.call("retry_task", {"task_uuid": task, "by": "me"})
    core.rows_affected(
        """INSERT INTO pgmq.q_task_finalization (vt, message)
           VALUES (now(), jsonb_build_object('task_uuid', tasker.uuid7()))"""
    )
    assert claim_batch(core, "f1") == []
    assert core.depth("task_finalization") == 0


def test_a_finalization_message_that_is_none_goes_to_dead_letters(core: Core) -> None:
    core.rows_affected("INSERT INTO pgmq.q_task_finalization (vt, message) VALUES (now(), '{\"task\": 1}')")
    assert claim_batch(core, "f1") == []
    assert core.rows("SELECT queue, reason FROM tasker.dead_letters") == [
        ("task_finalization", "not_a_finalization_message")
    ]


def test_a_lost_finalization_message_is_sent_again(core: Core, finished: str) -> None:
    assert core.call("resend_finalizations", 10) == 0
    core.rows_affected("DELETE FROM pgmq.q_task_finalization")
    core.excuse("task-dates")
    core.rows_affected("UPDATE tasker.tasks SET finished_at = finished_at - interval '1 minute'")
    assert core.call("resend_finalizations", 10) == 1
    assert [c["task_uuid"] for c in claim_batch(core, "f1")] == [finished]


def test_every_attempt_is_recorded_with_its_outcome_and_duration(core: Core, finished: str) -> None:
    claim(core, finished, "f1")
    claim(core, finished, "f2")
    core.call("extend_finalization_claim", finished, "f1", 1, 60)
    core.call("release_finalization_claim", finished, "f1", 1)
    core.move_clock(2)
    number = claim(core, finished, "f2")["claim_no"]
    core.move_clock(5)
    finalize(core, finished, "f2", number)
    rows = core.rows(
        """SELECT processor, action, outcome, duration_ms >= 0, round(held_ms / 1000)
           FROM tasker.finalization_attempts ORDER BY at"""
    )
    assert rows == [
        ("f1", "claim", "claimed", True, None),
        ("f2", "claim", "already_claimed", True, None),
        ("f1", "extend", "extended", True, None),
        ("f1", "release", "released", True, 0),
        ("f2", "claim", "claimed", True, None),
        ("f2", "finalize", "finalized", True, 3),
    ]
