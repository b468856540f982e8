"""A history of calls in which each answer, and the tables after each call, are compared with a model of the engine.

The calls themselves stand in ``calls_of_*.py``, by who makes them.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.races.model import WORKFLOWS, Executor, Hold, Model, Refused, Task
from tests.sql_kit import Core

QUEUE = "shop_queue"
MOST_TASKS = 4
SLOTS = st.integers(0, 1)
PROCESSORS = st.sampled_from(["p1", "p2"])

TABLES = """
SELECT json_build_object(
    'tasks', (SELECT coalesce(json_object_agg(t.task_uuid, json_build_array(
            t.state, t.active, t.admitted_at IS NOT NULL, t.context_checked, t.scheduled, t.claimed_by, t.finish_no,
            t.claim_no, t.finalization_claimed_by, t.finalized_at IS NOT NULL,
            CASE WHEN t.finished_at IS NOT NULL THEN json_build_array(t.open, t.failed) END)), '{}')
        FROM tasker.tasks AS t),
    'steps', (SELECT coalesce(json_object_agg(s.task_uuid || ' ' || s.position, json_build_array(
            s.state, s.fence, s.attempts, s.losses, s.unmet, s.executor, s.start_marked_at IS NOT NULL, w.kind)), '{}')
        FROM tasker.workflow_steps AS s LEFT JOIN tasker.step_timers AS w USING (task_uuid, position, map_index)),
    'receipts', (SELECT coalesce(json_object_agg(c.executor || ' ' || c.call_no, (
            SELECT json_agg(json_build_array(k.task_uuid, k.p, k.fence) ORDER BY k.task_uuid, k.p, k.fence)
            FROM unnest(c.task_uuids, c.positions, c.fences) AS k(task_uuid, p, fence))), '{}')
        FROM tasker.step_claims AS c))
"""
FORGET = b"""
DELETE FROM tasker.tasks; DELETE FROM tasker.task_contexts; DELETE FROM tasker.workflow_steps;
DELETE FROM tasker.step_claims; DELETE FROM tasker.step_timers; DELETE FROM tasker.task_transitions;
DELETE FROM tasker.workflow_step_transitions; DELETE FROM tasker.finalization_attempts; DELETE FROM tasker.executors;
DELETE FROM tasker.dead_letters; DELETE FROM pgmq.q_shop_queue; DELETE FROM pgmq.q_task_finalization;
DELETE FROM pgmq.q_orchestration_step_results; DELETE FROM pgmq.q_step_enqueue;
UPDATE tasker.coordinator SET net_cursor = NULL
"""


class Client:
    """An executor as its own program sees it: what it believes to hold, and the calls it has open."""

    def __init__(self, known: Executor) -> None:
        self.known = known
        self.call_no = 0
        self.held: dict[Hold, int] = {}
        self.seen: list[Hold] = []
        """Whatever it ever held, for reports that come late."""
        self.open: set[int] = set()
        self.told: list[dict[str, Any]] = []
        """Its heartbeats."""

    @property
    def uuid(self) -> str:
        return self.known.uuid

    def next_call(self) -> int:
        self.call_no += 1
        self.open.add(self.call_no)
        return self.call_no

    def finished(self) -> list[int]:
        done = sorted(self.open - set(self.held.values()))
        self.open -= set(done)
        return done

    def oldest(self) -> int:
        return min(self.held.values(), default=self.call_no + 1)


def step_of(hold: Hold) -> dict[str, Any]:
    return {"task_uuid": hold[0], "position": hold[1], "map_index": 0, "fence": hold[2]}


@dataclass(frozen=True)
class Action:
    """Something to do: how often, when it may be done, and what is drawn for it."""

    weight: int
    when: Callable[[Any], bool]
    do: Callable[..., None]
    drawn: Mapping[str, st.SearchStrategy[Any]]


ACTIONS: dict[str, Action] = {}


def action(
    weight: int, when: Callable[[Any], bool] = lambda machine: True, **drawn: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like a rule of Hypothesis; but those are drawn all alike, and a share of them never in one history."""

    def add(do: Callable[..., None]) -> Callable[..., None]:
        ACTIONS[do.__name__] = Action(weight, when, do, drawn)
        return do

    return add


def has_free_task(machine: Machine) -> bool:
    return bool(machine.model.tasks.keys() - machine.model.locked)


def has_seen_steps(machine: Machine) -> bool:
    return any(client.seen for client in machine.clients)


def has_seen_steps_ever(machine: Machine) -> bool:
    return any(client.seen for client in (*machine.clients, *machine.gone))


class Machine(RuleBasedStateMachine):
    """The engine and its model, side by side."""

    counts: ClassVar[Counter[str]]
    core: ClassVar[Core]
    other: ClassVar[Core]

    def __init__(self) -> None:
        super().__init__()
        self.core.connection.execute(FORGET)
        self.model = Model()
        self.clients = [self.new_client(), self.new_client()]
        self.gone: list[Client] = []
        self.results: list[tuple[int, dict[str, Any]]] = []
        self.effects: Counter[tuple[str, int]] = Counter()
        self.pending: Callable[[], object] | None = None
        """What the other session's open transaction does to the model when it commits."""
        self.move_clock()

    def new_client(self) -> Client:
        known = Executor(str(uuid.uuid4()))
        self.core.call(
            "register_executor",
            {"executor": known.uuid, "kind": "step_executor", "worker": "model", "queues": [QUEUE], "pid": 1},
        )
        self.model.executors[known.uuid] = known
        return Client(known)

    # -- asking both ----------------------------------------------------------------------------------------------

    def ask(self, function: str, *arguments: Any, core: Core | None = None) -> Any:
        """Make a call of the engine; an SQLSTATE if it is refused."""
        try:
            return (core or self.core).call(function, *arguments)
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith("TK"):
                raise
            self.counts[f"{function}: {error.sqlstate}"] += 1
            return error.sqlstate

    def both(self, answer: Any, foretell: Callable[[], Any], judge: Callable[[Any], Any] = lambda said: said) -> Any:
        """Compare an answer with the model's; returns the latter, or None if the call was refused."""
        try:
            expected = foretell()
        except Refused as refusal:
            return self.refused(answer, refusal)
        assert not isinstance(answer, str), f"refused: {answer}"
        assert judge(answer) == expected
        return expected

    def refused(self, answer: Any, refusal: Refused) -> None:
        assert answer == str(refusal)

    def some_tasks(self, data: st.DataObject, *states: str) -> list[str]:
        """Tasks that no other session has locked; those in these states, if there are any."""
        free = [uuid for uuid in self.model.tasks if uuid not in self.model.locked]
        fitting = [uuid for uuid in free if self.model.tasks[uuid].state in states]
        if fitting and data.draw(st.integers(0, 7), "any") > 0:
            free = fitting
        return data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True), "tasks")

    def any_task(self, data: st.DataObject, *states: str) -> Task:
        return self.model.tasks[self.some_tasks(data, *states)[0]]

    def move_clock(self) -> None:
        for core in (self.core, self.other):
            core.move_clock(self.model.now)

    # -- tasks ----------------------------------------------------------------------------------------------------

    @initialize(names=st.lists(st.sampled_from(sorted(WORKFLOWS)), min_size=2, max_size=3))
    def begin(self, names: list[str]) -> None:
        for name in names:
            self.create_one(name, later=False)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        possible = {name: action for name, action in ACTIONS.items() if action.when(self)}
        # Hypothesis likes what stands first.
        likely = sorted(possible, key=lambda name: -possible[name].weight)
        names = [name for name in likely for _ in range(possible[name].weight)]
        name = data.draw(st.sampled_from(names), "action")
        chosen = possible[name]
        drawn = {key: data if key == "data" else data.draw(what, key) for key, what in chosen.drawn.items()}
        self.counts[f"action {name}"] += 1
        chosen.do(self, **drawn)

    @action(
        3,
        name=st.sampled_from(sorted(WORKFLOWS)),
        later=st.sampled_from([False, False, True]),
        when=lambda self: len(self.model.tasks) < MOST_TASKS,
    )
    def create(self, name: str, later: bool) -> None:
        self.create_one(name, later)

    def create_one(self, name: str, later: bool) -> None:
        workflow = WORKFLOWS[name]
        at = "SELECT (clock_timestamp() + make_interval(secs => %s))::text"
        more = {"run_at": self.core.one(at, self.model.now + 100)} if later else {}
        (answer,) = self.core.create_many([{"namespace": "shop", "name": name, **more}])
        task = self.model.create(answer["task_uuid"], workflow, 100 if later else 0)
        assert (answer["state"], answer["is_new"]) == (task.state, True)

    @action(4, seconds=st.sampled_from([70.0, 140.0]), when=lambda self: self.pending is None)
    def pass_time(self, seconds: float) -> None:
        self.model.now += seconds
        self.move_clock()

    # -- what must be so ------------------------------------------------------------------------------------------

    @invariant()
    def tables_are_as_foretold(self) -> None:
        self.counts["calls compared"] += 1
        found = self.core.one(TABLES)
        for task in self.model.tasks.values():
            for position, step in enumerate(task.steps):
                # A claim that meets a due timer of a paused task drops it; resuming sets it again.
                kept = found["steps"][f"{task.uuid} {position}"][-1]
                due = step.timer is not None and step.timer[0] == "retry" and step.timer[1] <= self.model.now
                if task.state == "paused" and due and kept is None:
                    step.timer = None
        expected = self.model.tables()
        for part, rows in expected.items():
            wrong = {key for key in rows.keys() | found[part].keys() if rows.get(key) != found[part].get(key)}
            assert not wrong, f"{part}: " + "; ".join(
                f"{key} is {found[part].get(key)}, not {rows.get(key)}" for key in sorted(wrong)
            )


found_by_sweep = ("requeued", "poisoned", "unknown", "skipped")


def verdicts(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(said["answer"], said["reason"]) for said in answer["outcomes"]]
