"""Explores every state that a model can reach, and says by what shortest way it goes wrong.

A model is a start state, named moves from one state to the next, and what must hold. One move is one transaction, or
one thing that happens outside of the database; whatever lies between two moves may be interrupted there. States are
compared by value; ``canonical`` may map states that differ in names only to one of them.

Three things are checked:

- ``wrong`` says of no reachable state what is wrong with it;
- from every reachable state some state that is ``done`` can be reached, and so can the goal of every ``Promise``, even
  if the moves that the promise goes ``without`` never happen;
- an ``Inevitable`` goal comes whatever happens: no cycle leads past it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Promise:
    """From every state ``goal`` can be reached without the moves in ``without`` (whole labels, or their first word)."""

    name: str
    goal: Callable[[Any], bool]
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Inevitable:
    """Every endless way through the states passes through one where ``goal`` holds."""

    name: str
    goal: Callable[[Any], bool]


class Model(Protocol[S]):
    """What ``explore`` asks of a model."""

    def start(self) -> S:
        """Where everything begins."""
        ...

    def moves(self, state: S) -> Iterator[tuple[str, S]]:
        """What can happen next: a label whose first word is the kind of move, and the state it leads to."""
        ...

    def wrong(self, state: S) -> str | None:
        """What is wrong with this state, if anything."""
        ...

    def done(self, state: S) -> bool:
        """Whether all work is done and nothing is left behind."""
        ...

    def promises(self) -> Sequence[Promise | Inevitable]:
        """What must stay possible, beyond getting done; what must come."""
        ...

    def canonical(self, state: S) -> S:
        """The one of all states like this that stands for them."""
        ...


@dataclass(frozen=True)
class Violation:
    """What went wrong, and the shortest way there."""

    what: str
    trace: tuple[str, ...]
    state: Any

    def __str__(self) -> str:
        return (" → ".join(self.trace) or "at the start") + f": {self.what}"


@dataclass(frozen=True)
class Exploration:
    """How far it went."""

    states: int
    moves: int
    violation: Violation | None


class TooManyStates(Exception):
    """The model is larger than it was said to be."""


class _Graph(Generic[S]):
    """The states found so far, numbered, each with where it was first reached from, and all moves between them."""

    def __init__(self, model: Model[S], max_states: int) -> None:
        start = model.canonical(model.start())
        self.states = [start]
        self.numbers = {start: 0}
        self.reached_from: list[tuple[int, str]] = [(-1, "")]
        self.moves: list[list[tuple[str, int]]] = []
        self._model = model
        self._max_states = max_states

    def grow(self) -> int | None:
        """Add all that can be reached; stops at the first state that is wrong, and returns its number."""
        model, numbers, states = self._model, self.numbers, self.states
        if model.wrong(states[0]):
            return 0
        while len(self.moves) < len(states):
            number = len(self.moves)
            moves: list[tuple[str, int]] = []
            self.moves.append(moves)
            for label, following in model.moves(states[number]):
                following = model.canonical(following)
                known = numbers.get(following)
                if known is None:
                    known = numbers[following] = len(states)
                    states.append(following)
                    self.reached_from.append((number, label))
                    if model.wrong(following):
                        return known
                    if known >= self._max_states:
                        raise TooManyStates(f"more than {self._max_states:,} states")
                moves.append((label, known))
        return None

    def trace(self, number: int) -> tuple[str, ...]:
        labels = []
        while number > 0:
            number, label = self.reached_from[number]
            labels.append(label)
        return tuple(reversed(labels))

    def first_without_way_to(self, goal: Callable[[S], bool], without: frozenset[str]) -> int | None:
        """The state nearest to the start from which ``goal`` cannot be reached by the other moves."""
        backwards: list[list[int]] = [[] for _ in self.states]
        for number, moves in enumerate(self.moves):
            for label, following in moves:
                if not without or (label not in without and label.split(" ", 1)[0] not in without):
                    backwards[following].append(number)
        can = [goal(state) for state in self.states]
        todo = deque(number for number, there in enumerate(can) if there)
        while todo:
            for number in backwards[todo.popleft()]:
                if not can[number]:
                    can[number] = True
                    todo.append(number)
        return next((number for number, there in enumerate(can) if not there), None)

    def first_on_a_cycle_past(self, goal: Callable[[S], bool]) -> tuple[int | None, tuple[str, ...]]:
        """The state nearest to the start from which it can go on for ever past ``goal``, and how."""
        open_ = [not goal(state) for state in self.states]
        backwards: list[list[int]] = [[] for _ in self.states]
        left = [0] * len(self.states)
        for number, moves in enumerate(self.moves):
            if open_[number]:
                for _, following in moves:
                    if open_[following]:
                        backwards[following].append(number)
                        left[number] += 1
        # Whatever cannot go on past the goal is taken away, until only what can for ever is left.
        todo = deque(number for number, is_open in enumerate(open_) if is_open and not left[number])
        while todo:
            number = todo.popleft()
            open_[number] = False
            for before in backwards[number]:
                left[before] -= 1
                if not left[before]:
                    todo.append(before)
        first = next((number for number, is_open in enumerate(open_) if is_open), None)
        way: list[str] = []
        seen: set[int] = set()
        number = -1 if first is None else first
        while first is not None and number not in seen:
            seen.add(number)
            label, number = next((label, following) for label, following in self.moves[number] if open_[following])
            way.append(label)
        return first, (*way, "and so on") if way else ()


def explore(model: Model[S], *, max_states: int = 1_000_000) -> Exploration:
    """Every reachable state of ``model``, and the first violation if there is one.

    Raises:
        TooManyStates: there are more than ``max_states``.
    """
    graph = _Graph(model, max_states)

    def violated(number: int, what: str, further: tuple[str, ...] = ()) -> Exploration:
        violation = Violation(what, graph.trace(number) + further, graph.states[number])
        return Exploration(len(graph.states), sum(map(len, graph.moves)), violation)

    number = graph.grow()
    if number is not None:
        return violated(number, model.wrong(graph.states[number]) or "")
    number = graph.first_without_way_to(model.done, frozenset())
    if number is not None:
        return violated(number, "from here nothing leads to the end")
    for promise in model.promises():
        further: tuple[str, ...] = ()
        if isinstance(promise, Promise):
            number = graph.first_without_way_to(promise.goal, promise.without)
        else:
            number, further = graph.first_on_a_cycle_past(promise.goal)
        if number is not None:
            return violated(number, f"broken promise: {promise.name}", further)
    return Exploration(len(graph.states), sum(map(len, graph.moves)), None)
