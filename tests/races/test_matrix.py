"""Every function that writes against every other, on the same tasks, really at once.

Who takes part is in ``actors.py``, in which situations in ``stages.py``, and what is legal in ``rounds.py``.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import orjson
import pytest

from tasker.database.roles import GRANTED_FUNCTIONS
from tasker.database.scratch import ScratchDatabases
from tests.races.cast import ACTORS, BYSTANDERS, EVERYBODY, Actor
from tests.races.rounds import Lane
from tests.races.stages import SITUATIONS

NOT_HERE = {
    "uuid7": "draws a number",
    "notify": "writes nothing: it wakes listeners",
}
"""Functions that are not stable, and yet take no part."""
T = TypeVar("T")
Race = tuple[str, Actor, Actor]


class Chart:
    """Which calls change something in which situation, and so which races are worth running."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.changing: dict[str, list[Actor]] = {}
        self.moving: dict[str, set[str]] = {}
        """Those that change tasks or steps, not only receipts and registers."""
        in_lanes(lanes, list(SITUATIONS), self._try_all)

    def _try_all(self, lane: Lane, situation: str) -> None:
        stage = lane.set_stage(situation, *ACTORS.values())
        before = stage.digest()
        after = {name: lane.alone(stage, actor).state for name, actor in ACTORS.items()}
        self.changing[situation] = [ACTORS[name] for name, state in after.items() if state != before]
        self.moving[situation] = {name for name, state in after.items() if tasks_of(state) != tasks_of(before)}
        lane.end(stage, situation)

    def races(self, situation: str) -> list[Race]:
        """All pairs of calls that both change something here."""
        pairs = itertools.combinations_with_replacement(self.changing[situation], 2)
        return [(situation, one, two) for one, two in pairs]

    def chosen(self) -> dict[str, list[Race]]:
        """Each such pair in one of its situations, by situation: where most of the two move a task, if it matters."""
        places: dict[tuple[str, str], list[Race]] = {}
        for situation in SITUATIONS:
            for race in self.races(situation):
                places.setdefault((race[1].name, race[2].name), []).append(race)
        chosen: dict[str, list[Race]] = {situation: [] for situation in SITUATIONS}
        for names, races in places.items():
            most = max(self._moved(race) for race in races)
            races = [race for race in races if self._moved(race) == most]
            race = races[zlib.crc32(" | ".join(names).encode()) % len(races)]
            chosen[race[0]].append(race)
        return chosen

    def _moved(self, race: Race) -> int:
        situation, one, two = race
        return (one.name in self.moving[situation]) + (two.name in self.moving[situation])


def tasks_of(state: str) -> list[Any]:
    """What a state says of tasks, steps and their timers."""
    parts = orjson.loads(state)
    return [parts["tasks"], parts["steps"], parts["timers"]]


def in_lanes(lanes: Sequence[Lane], work: Sequence[T], do: Callable[[Lane, T], object]) -> None:
    """Share work out among the lanes, each of which does one piece at a time."""
    left = iter(work)

    def run(lane: Lane) -> None:
        while not lane.problems:
            piece = next(left, None)  # one thread at a time holds the interpreter
            if piece is None:
                return
            do(lane, piece)

    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        for future in [pool.submit(run, lane) for lane in lanes]:
            future.result()


@pytest.fixture(scope="module")
def lanes(tasker_server: ScratchDatabases) -> Iterator[list[Lane]]:
    made = [Lane(tasker_server.create()) for _ in range(2)]
    yield made
    races: Counter[str] = sum((lane.races for lane in made), Counter())
    print(f"\n{sum(races.values())} races, the second call:")
    for how, count in sorted(races.items()):
        print(f"{count:8} {how}")
    for lane in made:
        lane.close()
        tasker_server.drop(lane.url)


@pytest.fixture(scope="module")
def chart(lanes: list[Lane]) -> Chart:
    return Chart(lanes)


@pytest.fixture(autouse=True)
def sound(lanes: list[Lane]) -> Iterator[None]:
    """After each test nothing was found, and the invariants hold."""
    for lane in lanes:
        lane.problems.clear()
    yield
    problems = [problem for lane in lanes for problem in (*lane.problems, *lane.core.broken_rules())]
    assert problems == [], "\n".join(problems[:20])


def test_every_function_that_writes_takes_part(lanes: list[Lane]) -> None:
    granted = {name for names in GRANTED_FUNCTIONS.values() for name in names}
    query = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace AND provolatile = 'v'"
    writing = {name for (name,) in lanes[0].core.rows(query)} & granted
    assert {actor.function for actor in EVERYBODY.values()} == writing - NOT_HERE.keys()


def test_every_call_that_works_on_tasks_changes_something_in_some_situation(chart: Chart) -> None:
    changing = {actor.name for actors in chart.changing.values() for actor in actors}
    assert ACTORS.keys() - changing == UNSEEN


UNSEEN = {"register_executor", "extend_task_claim", "extend_finalization_claim", "heartbeat"}
"""What these change, the time of a lease, is no part of what is compared."""


@pytest.mark.parametrize("situation", SITUATIONS)
def test_two_calls_at_once_do_what_they_do_one_after_the_other(lanes: list[Lane], chart: Chart, situation: str) -> None:
    in_lanes(lanes, chart.chosen()[situation], lambda lane, race: lane.race(*race))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_in_every_situation_two_calls_at_once_do_what_they_do_one_after_the_other(
    lanes: list[Lane], chart: Chart, situation: str
) -> None:
    in_lanes(lanes, chart.races(situation), lambda lane, race: lane.race(*race, thorough=True))


BEATS = ("heartbeat", "heartbeat:answers lost", "heartbeat:nothing held")
OF_EXECUTORS = ("register_executor", "deregister_executor", "set_executor_idle", "request_executor_stop")
WAITS = {
    *(frozenset({call, "recover_lost_steps"}) for call in ("record_tick", "record_retention")),
    *(frozenset({call, tick}) for call in (*BEATS, *OF_EXECUTORS) for tick in ("judge_executors", "pool_count")),
}
"""Sweep, tick and retention keep their places in the coordinator's row. A tick writes what it found of an executor into
that one's row, in a transaction of one short statement that itself waits for nobody."""


def drawn(one: Actor, two: Actor, of: int) -> int:
    """The same number below ``of`` for this pair, whenever it is asked for."""
    return zlib.crc32(f"{one.name} | {two.name}".encode()) % of


def test_whoever_only_keeps_registers_holds_nobody_up(lanes: list[Lane]) -> None:
    """A half of the pairs; in a half of them either is first."""

    def order(actor: Actor, bystander: Actor) -> list[tuple[Actor, Actor]]:
        return [[(actor, bystander)], [(bystander, actor)], [], []][drawn(actor, bystander, 4)]

    keep_apart(lanes, order)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_whoever_only_keeps_registers_holds_nobody_up_whoever_is_first(lanes: list[Lane]) -> None:
    keep_apart(lanes, lambda one, two: [(one, two), (two, one)])


def keep_apart(lanes: list[Lane], orders: Callable[[Actor, Actor], list[tuple[Actor, Actor]]]) -> None:
    def meet(lane: Lane, actor: Actor) -> None:
        stage = lane.set_stage("running", *EVERYBODY.values())
        for bystander in BYSTANDERS.values():
            for first, second in orders(actor, bystander):
                if lane.roll_back(stage, first, second) and frozenset({first.name, second.name}) not in WAITS:
                    lane.problems.append(f"{second.name} waited for {first.name}")
        lane.end(stage, actor.name)

    in_lanes(lanes, list(ACTORS.values()), meet)


def test_two_calls_that_only_keep_registers_do_what_they_do_one_after_the_other(lanes: list[Lane]) -> None:
    """A half of the pairs. Raced are those that wait for one another, or differ in what they leave by who is first."""

    def meet(lane: Lane, one: Actor) -> None:
        stage = lane.set_stage("ready", *BYSTANDERS.values())
        others = list(BYSTANDERS.values())
        meeting = []
        for two in others[others.index(one) :]:
            if drawn(one, two, 2):
                continue
            waits = lane.roll_back(stage, one, two) or lane.roll_back(stage, two, one)
            if waits or not lane.tried(stage, one, two).is_like(lane.tried(stage, two, one).swapped()):
                meeting.append(two)
        lane.end(stage, one.name)
        for two in meeting:
            lane.race("ready", one, two, gated=False)

    in_lanes(lanes, list(BYSTANDERS.values()), meet)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_any_two_calls_that_only_keep_registers_do_what_they_do_one_after_the_other(lanes: list[Lane]) -> None:
    pairs = list(itertools.combinations_with_replacement(BYSTANDERS.values(), 2))
    in_lanes(lanes, pairs, lambda lane, pair: lane.race("ready", *pair, gated=False))


def test_calls_that_change_nothing_disturb_nobody(lanes: list[Lane], chart: Chart) -> None:
    """The pairs that are left: in no situation do both change something."""
    raced = {frozenset((one.name, two.name)) for races in chart.chosen().values() for _, one, two in races}
    left = [
        (one, two)
        for one, two in itertools.combinations_with_replacement(ACTORS.values(), 2)
        if frozenset((one.name, two.name)) not in raced
    ]
    places: dict[str, list[tuple[Actor, Actor]]] = {}
    for one, two in left:
        # Where one of them changes something, if there is such a situation.
        fitting = [s for s, actors in chart.changing.items() if one in actors or two in actors] or ["running"]
        situation = fitting[drawn(one, two, len(fitting))]
        places.setdefault(situation, []).append((one, two))

    def meet(lane: Lane, situation: str) -> None:
        pairs = places[situation]
        stage = lane.set_stage(situation, *(actor for pair in pairs for actor in pair))
        for one, two in pairs:
            lane.roll_back(stage, one, two)
            lane.roll_back(stage, two, one)
        lane.end(stage, situation)

    in_lanes(lanes, list(places), meet)
