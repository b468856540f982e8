"""Circuits in SQL: counted across processes, opened and closed once, half open for one call at a time."""

from __future__ import annotations

import pytest

from tests.sql_kit import Core


def report(core: Core, **what: object) -> dict[str, object]:
    asked = {"name": "bank", "failure_threshold": 3, "success_threshold": 2, "timeout_seconds": 30, **what}
    answer: dict[str, object] = core.call("report_circuit", asked)
    return answer


def open_up(core: Core) -> None:
    assert report(core, failures=3)["state"] == "open"


def test_failures_in_a_row_open_a_circuit_and_a_success_forgets_them(core: Core) -> None:
    assert report(core, failures=2)["state"] == "closed"
    assert report(core, successes=1)["failures"] == 0
    assert report(core, failures=2)["state"] == "closed"
    opened = report(core, failures=1)
    assert opened["state"] == "open"
    assert opened["retry_after_seconds"] == pytest.approx(30, abs=0.1)


def test_an_open_circuit_lets_one_call_through_when_its_time_is_up(core: Core) -> None:
    open_up(core)
    assert core.call("ask_circuit", {"name": "bank"})["allowed"] is False
    core.move_clock(31)
    assert core.call("ask_circuit", {"name": "bank"})["is_probe"] is True
    assert core.call("ask_circuit", {"name": "bank"})["allowed"] is False
    core.move_clock(31 + 61)  # that call did not come back
    assert core.call("ask_circuit", {"name": "bank"})["is_probe"] is True


def test_probes_that_succeed_close_a_circuit_and_one_that_fails_opens_it_again(core: Core) -> None:
    open_up(core)
    core.move_clock(31)
    assert core.call("ask_circuit", {"name": "bank"})["is_probe"]
    assert report(core, failures=1, is_probe=True)["state"] == "open"
    core.move_clock(62)
    assert core.call("ask_circuit", {"name": "bank"})["is_probe"]
    assert report(core, successes=1)["state"] == "half_open", "a call that began before it opened says nothing"
    assert report(core, successes=1, is_probe=True)["state"] == "half_open"
    assert core.call("ask_circuit", {"name": "bank"})["is_probe"], "the next one may try at once"
    assert report(core, successes=1, is_probe=True)["state"] == "closed"
    states = core.rows("SELECT from_state, to_state FROM tasker.circuit_transitions ORDER BY at")
    assert states == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]


def test_a_circuit_opened_by_hand_stays_open_until_it_is_closed_by_hand(core: Core) -> None:
    core.call("set_circuit", {"name": "bank", "action": "open", "by": "ann", "reason": "maintenance"})
    core.move_clock(10_000)
    assert core.call("ask_circuit", {"name": "bank"})["allowed"] is False
    assert core.call("set_circuit", {"name": "bank", "action": "open"})["changed"] is False
    closed = core.call("set_circuit", {"name": "bank", "action": "close", "by": "ann"})
    assert (closed["state"], closed["changed"]) == ("closed", True)
    assert core.call("set_circuit", {"name": "bank", "action": "close"})["changed"] is False
    assert core.call("set_circuit", {"name": "never used", "action": "reset"})["changed"] is False


def test_only_a_circuit_that_will_be_tried_again_says_when(core: Core) -> None:
    assert report(core, failures=1)["retry_after_seconds"] is None
    core.call("set_circuit", {"name": "bank", "action": "open"})
    assert report(core)["retry_after_seconds"] is None
