"""The explorer finds what is wrong, and the shortest way there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.model.explorer import Inevitable, Promise, TooManyStates, explore


@dataclass(frozen=True)
class Roads:
    """Places and the roads between them."""

    roads: dict[str, dict[str, str]]
    forbidden: str = ""
    goal: str = "home"
    promised: Sequence[Promise | Inevitable] = ()
    same: dict[str, str] = field(default_factory=dict)

    def start(self) -> str:
        return "start"

    def moves(self, state: str) -> Iterator[tuple[str, str]]:
        yield from self.roads.get(state, {}).items()

    def wrong(self, state: str) -> str | None:
        return "a forbidden place" if state == self.forbidden else None

    def done(self, state: str) -> bool:
        return state == self.goal

    def promises(self) -> Sequence[Promise | Inevitable]:
        return self.promised

    def canonical(self, state: str) -> str:
        return self.same.get(state, state)


def test_every_state_is_counted_once() -> None:
    found = explore(Roads({"start": {"left": "a", "right": "b"}, "a": {"on": "home"}, "b": {"on": "home"}}))
    assert (found.states, found.moves, found.violation) == (4, 4, None)


def test_the_shortest_way_to_a_wrong_state_is_told() -> None:
    roads = {
        "start": {"left": "a", "right": "b"},
        "a": {"on": "c"},
        "b": {"down": "pit", "on": "home"},
        "c": {"on": "pit"},
    }
    violation = explore(Roads(roads, forbidden="pit")).violation
    assert violation is not None
    assert str(violation) == "right → down: a forbidden place"


def test_the_start_itself_may_be_wrong() -> None:
    violation = explore(Roads({}, forbidden="start")).violation
    assert violation is not None
    assert violation.trace == ()


def test_an_end_that_is_not_the_goal_is_found() -> None:
    violation = explore(Roads({"start": {"on": "home", "off": "swamp"}})).violation
    assert violation is not None
    assert (violation.trace, violation.what) == (("off",), "from here nothing leads to the end")


def test_a_cycle_without_a_way_out_is_found() -> None:
    violation = explore(Roads({"start": {"on": "home", "in": "maze"}, "maze": {"round": "maze"}})).violation
    assert violation is not None
    assert violation.trace == ("in",)


def test_a_promise_goes_without_whole_labels_and_without_kinds_of_moves() -> None:
    roads = {"start": {"walk north": "home", "ride": "home"}}
    for without in ({"walk", "ride"}, {"walk north", "ride"}):
        promise = Promise("on foot", lambda state: state == "home", frozenset(without))
        violation = explore(Roads(roads, promised=(promise,))).violation
        assert violation is not None
        assert violation.what == "broken promise: on foot"
    kept = Promise("not walking south", lambda state: state == "home", frozenset({"walk south", "ride"}))
    assert explore(Roads(roads, promised=(kept,))).violation is None


def test_what_is_inevitable_must_come_whatever_happens() -> None:
    inevitable = Inevitable("home at last", lambda state: state == "home")
    straight = {"start": {"on": "home"}, "home": {"stay": "home"}}
    assert explore(Roads(straight, promised=(inevitable,))).violation is None
    round_about = {"start": {"on": "home", "wait": "inn"}, "inn": {"back": "start"}}
    violation = explore(Roads(round_about, promised=(inevitable,))).violation
    assert violation is not None
    assert violation.trace == ("wait", "back", "and so on")


def test_states_that_are_alike_count_as_one() -> None:
    roads = {"start": {"left": "a", "right": "b"}, "a": {"on": "home"}}
    assert explore(Roads(roads, same={"b": "a"})).states == 3


def test_a_model_that_is_too_large_is_refused() -> None:
    roads = {"start": {"1": "a", "2": "b", "3": "home"}}
    with pytest.raises(TooManyStates):
        explore(Roads(roads), max_states=2)
