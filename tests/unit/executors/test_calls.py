"""The ledger of calls obeys the rules of the step protocol."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from tasker.executors.calls import CallLedger


def oldest(ledger: CallLedger) -> int:
    """The oldest number held, or the next to be given."""
    next_call, held = ledger.standing()
    return min([*held, next_call])


def test_numbers_rise_from_one_and_are_never_given_twice() -> None:
    ledger = CallLedger()
    assert [ledger.open()[0] for _ in range(3)] == [1, 2, 3]
    ledger.failed(2, [])
    assert ledger.open()[0] == 4


def test_with_no_call_held_the_heartbeat_carries_the_next_number() -> None:
    ledger = CallLedger()
    assert oldest(ledger) == 1
    number, _ = ledger.open()
    ledger.answered(number, 0)
    assert oldest(ledger) == 2


def test_a_call_whose_outcome_is_unknown_is_held() -> None:
    ledger = CallLedger()
    first, _ = ledger.open()
    second, _ = ledger.open()
    ledger.answered(second, 0)
    assert oldest(ledger) == first


def test_a_call_is_held_until_its_last_step_is_settled_and_then_named_once() -> None:
    ledger = CallLedger()
    number, _ = ledger.open()
    ledger.answered(number, 3)
    ledger.settled(number, 2)
    assert oldest(ledger) == number
    assert ledger.open()[1] == []
    ledger.settled(number)
    assert ledger.open()[1] == [number]
    assert ledger.open()[1] == []


def test_a_call_that_brought_nothing_has_no_receipt_to_name() -> None:
    ledger = CallLedger()
    number, _ = ledger.open()
    ledger.answered(number, 0)
    assert ledger.open()[1] == []


def test_receipts_named_by_a_call_that_was_refused_are_named_by_the_next() -> None:
    ledger = CallLedger()
    number, _ = ledger.open()
    ledger.answered(number, 1)
    ledger.settled(number)
    refused, finished = ledger.open()
    assert finished == [number]
    ledger.failed(refused, finished)
    assert ledger.take_finished() == [number]


def test_settling_more_often_than_a_call_has_steps_changes_nothing() -> None:
    ledger = CallLedger()
    number, _ = ledger.open()
    ledger.answered(number, 1)
    ledger.settled(number)
    ledger.settled(number)
    ledger.settled(99)
    assert ledger.take_finished() == [number]
    assert ledger.held == 0


@given(st.lists(st.tuples(st.sampled_from(["open", "answer", "settle", "fail"]), st.integers(0, 3)), max_size=60))
def test_a_receipt_is_named_only_when_all_its_steps_are_settled(actions: list[tuple[str, int]]) -> None:
    ledger = CallLedger()
    unknown: dict[int, list[int]] = {}
    steps: dict[int, int] = {}
    named: list[int] = []
    for action, choice in actions:
        if action == "open":
            number, finished = ledger.open()
            assert all(steps.get(each, 0) == 0 for each in finished)
            named += finished
            unknown[number] = finished
        elif action == "answer" and unknown:
            number = list(unknown)[choice % len(unknown)]
            del unknown[number]
            ledger.answered(number, choice)
            if choice:
                steps[number] = choice
        elif action == "fail" and unknown:
            number = list(unknown)[choice % len(unknown)]
            finished = unknown.pop(number)
            ledger.failed(number, finished)
            named = [each for each in named if each not in finished]
        elif action == "settle" and any(steps.values()):
            number = next(each for each, left in steps.items() if left)
            ledger.settled(number)
            steps[number] -= 1
        held = [*unknown, *(each for each, left in steps.items() if left)]
        assert oldest(ledger) == min(held, default=oldest(ledger))
        assert sorted(ledger.standing()[1]) == sorted(held)
        assert ledger.held == len(held)
    named += ledger.take_finished()
    assert sorted(named) == sorted(each for each, left in steps.items() if not left)


def test_threads_never_get_the_same_number() -> None:
    ledger = CallLedger()
    numbers: list[int] = []

    def take() -> None:
        for _ in range(500):
            number, _finished = ledger.open()
            numbers.append(number)
            ledger.answered(number, 0)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 2001))
