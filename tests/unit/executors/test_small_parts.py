"""Averages, coalesced notifications, counters, known templates, and what errors mean."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors

from tasker.errors import InvalidRequest, PayloadTooLarge, UnknownTemplate
from tasker.executors.averages import SAMPLES_FOR_A_FIRST_REPORT, DurationAverages
from tasker.executors.counters import Counters
from tasker.executors.link import is_hopeless, is_transient
from tasker.executors.notifier import Notifier
from tasker.executors.submission import is_bad_value
from tasker.executors.templates import KnownTemplates

STEP = (1, 0)


# -- averages --------------------------------------------------------------------------------------------------


def test_an_unknown_average_is_worth_an_early_heartbeat_after_enough_samples() -> None:
    averages = DurationAverages()
    worth = [averages.record(STEP, 10, None)[1] for _ in range(SAMPLES_FOR_A_FIRST_REPORT + 5)]
    assert worth.count(True) == 1
    assert worth[SAMPLES_FOR_A_FIRST_REPORT - 1]
    assert averages.take_report() == {STEP: 10}
    assert averages.take_report() == {}


def test_a_known_average_is_reported_again_only_when_it_changed_much() -> None:
    averages = DurationAverages()
    assert not any(averages.record(STEP, 10, 10.0)[1] for _ in range(50))
    assert averages.take_report() == {}
    for _ in range(50):
        averages.record(STEP, 20, 10.0)
    assert averages.take_report()[STEP] == pytest.approx(20, rel=0.1)


def test_a_report_that_was_lost_is_made_again() -> None:
    averages = DurationAverages()
    for _ in range(SAMPLES_FOR_A_FIRST_REPORT):
        averages.record(STEP, 5, None)
    report = averages.take_report()
    averages.report_lost(report)
    assert averages.take_report() == report


def test_the_oldest_averages_go_when_there_are_too_many() -> None:
    averages = DurationAverages(max_entries=2)
    for position in range(3):
        for _ in range(SAMPLES_FOR_A_FIRST_REPORT):
            averages.record((1, position), 5, None)
    assert set(averages.take_report()) == {(1, 1), (1, 2)}


# -- notifications ---------------------------------------------------------------------------------------------


def test_the_first_notification_goes_at_once_and_the_next_are_gathered() -> None:
    now = 10.0
    notifier = Notifier(0.005, clock=lambda: now)
    assert notifier.due_in() is None
    notifier.add(["a"])
    assert notifier.due_in() == 0
    assert notifier.take() == ["a"]
    notifier.add(["b", "c"])
    notifier.add(["b"])
    assert notifier.take() == []
    assert notifier.due_in() == pytest.approx(0.005)
    now += 0.006
    assert notifier.take() == ["b", "c"]
    assert notifier.take() == []


def test_at_the_end_what_is_left_can_be_taken_at_once() -> None:
    notifier = Notifier(60)
    notifier.add(["a"])
    notifier.take()
    notifier.add(["b"])
    assert notifier.take(force=True) == ["b"]


# -- counters --------------------------------------------------------------------------------------------------


def test_counters_tell_what_was_added_since() -> None:
    counters = Counters()
    counters.add(done=2, failed=0)
    before = counters.snapshot()
    counters.add(done=3, other=1)
    assert before == {"done": 2}
    assert counters.since(before) == {"done": 3, "other": 1}


# -- templates -------------------------------------------------------------------------------------------------


def _described(number: int) -> dict[str, Any]:
    step = {
        "position": 0,
        "name": "s",
        "handler": {"callable": "h"},
        "retryable": True,
        "max_attempts": 1,
        "timeout_seconds": None,
        "result_schema": None,
        "delegated": False,
        "expected_ms": None,
        "depends_on": [],
    }
    return {str(number): {"namespace": "n", "name": f"t{number}", "version": "1.0.0", "steps": [step]}}


def test_only_the_templates_used_last_are_named_and_more_are_kept() -> None:
    known = KnownTemplates(max_named=2, max_kept=3)
    for number in range(4):
        known.learn(_described(number))
    assert known.named() == [3, 2]
    # One that is not named any more may still be meant by the answer to an earlier call.
    assert known.step(1, 0).task_name == "t1"
    assert known.named() == [1, 3]
    with pytest.raises(KeyError):
        known.step(0, 0)


# -- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "bad_value", "transient", "hopeless"),
    [
        (errors.NumericValueOutOfRange(), True, False, False),
        (errors.UntranslatableCharacter(), True, False, False),
        (errors.CheckViolation(), True, False, False),
        (errors.ProgramLimitExceeded(), True, False, False),
        (InvalidRequest("no"), True, False, False),
        (PayloadTooLarge("no"), True, False, False),
        (UnknownTemplate("no"), False, False, False),
        (errors.DeadlockDetected(), False, True, False),
        (errors.LockNotAvailable(), False, True, False),
        (errors.QueryCanceled(), False, True, False),
        (errors.OutOfMemory(), False, True, False),
        (errors.UndefinedFunction(), False, False, False),
        (errors.InvalidPassword(), False, False, True),
        (errors.InvalidCatalogName(), False, False, True),
        (psycopg.OperationalError(), False, False, False),
    ],
)
def test_what_an_error_means(error: Exception, bad_value: bool, transient: bool, hopeless: bool) -> None:
    assert (is_bad_value(error), is_transient(error), is_hopeless(error)) == (bad_value, transient, hopeless)
