"""Random histories of calls, each answer and the tables after each call compared with a model of the engine.

``model.py`` says what must come of every call. Here the calls are drawn: executors that lose answers, repeat, die and
report late, an operator, finalizers, and a second session that holds a transaction open on some tasks meanwhile. Each
history ends with everything run to its end, and with the invariants.
"""

from __future__ import annotations

import copy
import os
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.races.model import (
    CLAIM_SECONDS,
    DEADLINE_SECONDS,
    LIVE,
    MAX_ATTEMPTS,
    MAX_LOSSES,
    RETRY_SECONDS,
    TERMINAL,
    WORKFLOWS,
    Executor,
    Hold,
    Model,
    Refused,
    Task,
)
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


def has_free_task(machine: Engine) -> bool:
    return bool(machine.model.tasks.keys() - machine.model.locked)


def has_seen_steps(machine: Engine) -> bool:
    return any(client.seen for client in machine.clients)


def has_seen_steps_ever(machine: Engine) -> bool:
    return any(client.seen for client in (*machine.clients, *machine.gone))


class Engine(RuleBasedStateMachine):
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

    # -- executors ------------------------------------------------------------------------------------------------

    def send(self, function: str, request: dict[str, Any], fate: str) -> Any:
        """Make a call whose transaction may be lost, or its answer; then it is made again, word for word."""
        if fate == "lost":
            with self.core.connection.transaction(force_rollback=True):
                self.ask(function, request)
        return self.ask(function, request)

    @action(9, slot=SLOTS, limit=st.sampled_from([12, 3, 1]), fate=st.sampled_from(["", "", "lost", "repeated"]))
    def claim(self, slot: int, limit: int, fate: str) -> None:
        client = self.clients[slot]
        finished = client.finished()
        call = client.next_call()
        request = {"executor": client.uuid, "call_no": call, "queues": [QUEUE], "limit": limit, "budget_ms": 1000}
        request["finished"] = finished
        answer = self.send("claim_steps", request, fate)
        if self.both(answer, lambda: self.model.check(client.uuid), lambda said: None) is None and isinstance(
            answer, str
        ):
            return
        self.model.name_finished(client.uuid, finished)
        self.judge_claim(client, call, answer, limit)
        if fate == "repeated" and answer["steps"]:
            again = self.ask("claim_steps", request)
            assert [(s["step_uuid"], s["fence"]) for s in again["steps"]] == [
                (s["step_uuid"], s["fence"]) for s in answer["steps"]
            ]

    def judge_claim(self, client: Client, call: int, answer: dict[str, Any], limit: int) -> None:
        taken = [(step["task_uuid"], step["position"]) for step in answer["steps"]]
        assert len(taken) == len(set(taken)) <= limit
        for step, place in zip(answer["steps"], taken, strict=True):
            assert self.model.is_due(place), f"not to be had: {place}, {self.model.step(place)}"
            assert self.model.step(place).losses == 0 or len(taken) == 1, "a step that lost an executor comes alone"
            self.hand_over(client, call, step, answer)
        if answer["queue_empty"] and len(taken) < limit:
            # Nothing more is due, as the engine says; but a step that lost an executor waits until it comes alone.
            left = [
                (task.uuid, position)
                for task in self.model.tasks.values()
                for position, step in enumerate(task.steps)
                if self.model.is_due((task.uuid, position)) and not (step.losses and taken)
            ]
            assert left == []
        self.counts["claimed"] += len(taken)

    def hand_over(self, client: Client, call: int, step: dict[str, Any], answer: dict[str, Any]) -> None:
        place = (step["task_uuid"], step["position"])
        self.model.take(client.uuid, call, place)
        now = self.model.step(place)
        assert (step["fence"], step["attempt"]) == (now.fence, now.attempts)
        parents = {str(parent) for parent in self.model.tasks[place[0]].workflow.parents[place[1]]}
        assert parents <= answer["results"].get(place[0], {}).keys()
        hold = (*place, now.fence)
        client.held[hold] = call
        client.seen.append(hold)
        client.open.add(call)

    @action(
        12,
        data=st.data(),
        continue_limit=st.sampled_from([0, 0, 2]),
        fate=st.sampled_from(["", "", "lost", "repeated"]),
        when=has_seen_steps_ever,
    )
    def complete(self, data: st.DataObject, continue_limit: int, fate: str) -> None:
        client = data.draw(st.sampled_from([c for c in (*self.clients, *self.gone) if c.seen]), "client")
        outcomes = self.draw_outcomes(data, client)
        finished = client.finished()
        call = client.next_call()
        request = {
            "executor": client.uuid, "call_no": call, "queues": [QUEUE], "outcomes": outcomes, "finished": finished,
            "continue_limit": continue_limit, "budget_ms": 1000,
        }  # fmt: skip
        answer = self.send("complete_steps", request, fate)

        def foretell() -> list[tuple[str, str | None]]:
            self.model.check(client.uuid)
            said, self.ready = self.model.settle(outcomes)
            return said

        if self.both(answer, foretell, verdicts) is None:
            return
        self.note_effects(outcomes, answer["outcomes"])
        for outcome, said in zip(outcomes, answer["outcomes"], strict=True):
            if said["answer"] != "busy":
                client.held.pop((outcome["task_uuid"], outcome["position"], outcome["fence"]), None)
        self.judge_continued(client, call, answer, continue_limit)
        self.model.name_finished(client.uuid, finished)
        if fate == "repeated":
            again = self.ask("complete_steps", request)
            repeated = verdicts(again)
            expected, _ = copy.deepcopy(self.model).settle(outcomes)
            assert repeated == expected
            assert [s["step_uuid"] for s in again["steps"]] == [s["step_uuid"] for s in answer["steps"]]

    def draw_outcomes(self, data: st.DataObject, client: Client) -> list[dict[str, Any]]:
        holds = data.draw(st.lists(st.sampled_from([*client.held] or client.seen), max_size=6, unique=True), "of")
        if client.held and data.draw(st.integers(0, 5), "late") == 5:
            holds.append(data.draw(st.sampled_from(client.seen), "late one"))
        outcomes = []
        for hold in holds:
            delegated = hold[1] in self.model.tasks[hold[0]].workflow.delegated
            status = data.draw(
                st.sampled_from(["complete"] * 4 + ["error"] * 2 + ["delegated"] * 2 * delegated), "status"
            )
            outcome = step_of(hold) | {"status": status, "executor": client.uuid, "may_continue": True}
            if status == "complete":
                outcome["results"] = {"fence": hold[2]}
            elif status == "error":
                outcome["error"] = {"message": "boom", "type": "Boom", "retryable": data.draw(st.booleans(), "again")}
            else:
                outcome["deadline_seconds"] = DEADLINE_SECONDS
            outcomes.append(outcome)
        return outcomes

    def note_effects(self, outcomes: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> None:
        for outcome, said in zip(outcomes, answers, strict=True):
            self.counts[f"outcome {said['answer']}: {said['reason']}"] += 1
            if said["answer"] == "accepted" and said["reason"] is None and outcome["status"] == "complete":
                self.effects[outcome["task_uuid"], outcome["position"]] += 1

    def judge_continued(self, client: Client, call: int, answer: dict[str, Any], limit: int) -> None:
        """Steps that were handed on are some of those that became ready, of tasks that are not paused."""
        taken = [(step["task_uuid"], step["position"]) for step in answer["steps"]]
        possible = [place for place in self.ready if self.model.tasks[place[0]].state == "in_progress"]
        assert set(taken) <= set(possible)
        assert len(taken) == len(set(taken)) <= limit
        assert taken or not (limit and possible)
        for step in answer["steps"]:
            self.hand_over(client, call, step, answer)
        self.counts["continued"] += len(taken)

    @action(2, data=st.data(), fate=st.sampled_from(["", "lost", "repeated"]), when=has_seen_steps)
    def release(self, data: st.DataObject, fate: str) -> None:
        client, holds = self.draw_holds(data)
        request = {"executor": client.uuid, "steps": [step_of(hold) for hold in holds], "finished": []}
        answer = self.send("release_steps", request, fate)
        self.both(answer, lambda: self.model.release(client.uuid, holds), lambda said: said["released"])
        for hold in holds:
            client.held.pop(hold, None)
        if fate == "repeated":
            assert self.ask("release_steps", request)["released"] == 0
        self.counts["released"] += answer["released"]

    @action(2, data=st.data(), when=has_seen_steps)
    def mark_started(self, data: st.DataObject) -> None:
        client, holds = self.draw_holds(data)
        request = {"executor": client.uuid, "steps": [step_of(hold) for hold in holds]}
        answer = self.ask("mark_steps_started", request)
        self.both(answer, lambda: self.model.mark(client.uuid, holds), lambda said: said["started"])

    def draw_holds(self, data: st.DataObject) -> tuple[Client, list[Hold]]:
        """Steps of an executor that no other session has locked; most of them are held."""
        client = data.draw(st.sampled_from([c for c in self.clients if c.seen]), "client")
        free = [hold for hold in [*client.held] or client.seen if hold[:2] not in self.model.locked_steps]
        if not free:
            return client, []
        return client, data.draw(st.lists(st.sampled_from(free), max_size=3, unique=True), "of")

    @action(
        4,
        slot=SLOTS,
        forget=st.sampled_from([False, False, True]),
        exact=st.booleans(),
        late=st.sampled_from([0, 0, 1]),
    )
    def heartbeat(self, slot: int, forget: bool, exact: bool, late: bool) -> None:
        """Tell the oldest call that is held, or exactly which are; or let an earlier heartbeat come once more."""
        client = self.clients[slot]
        if forget:
            client.held.clear()
        told: dict[str, Any] = {"oldest_call_no": client.oldest()}
        if exact:
            told |= {"next_call_no": client.call_no + 1, "held_calls": sorted({*client.held.values()})}
        if late and client.told:
            told = client.told[0]
        client.told.append(told)
        answer = self.ask("heartbeat", {"executor": client.uuid, **told})
        lost = self.both(
            answer,
            lambda: self.model.heartbeat(
                client.uuid, told["oldest_call_no"], told.get("next_call_no"), told.get("held_calls", ())
            ),
            lambda said: {(s["task_uuid"], s["position"], s["fence"]) for s in said["steps_lost"]},
        )
        for hold in lost or ():
            client.held.pop(hold, None)

    @action(2, slot=SLOTS, politely=st.booleans())
    def leave(self, slot: int, politely: bool) -> None:
        """An executor takes its leave, or is not heard of for longer than its lease; another takes its place."""
        client = self.clients[slot]
        if politely:
            finished = client.finished()
            self.ask("deregister_executor", {"executor": client.uuid, "finished": finished})
            self.model.name_finished(client.uuid, finished)
            client.known.gone = True
        elif not client.known.lost:
            self.core.rows_affected(
                """UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour', suspected_heartbeat =
                       heartbeat_at - interval '1 hour', suspected_at = clock_timestamp() - interval '1 hour'
                   WHERE executor = %s""",
                client.uuid,
            )
            client.known.silent = True
        self.gone.append(client)
        self.clients[slot] = self.new_client()

    @action(3, slot=SLOTS)
    def fall_silent(self, slot: int) -> None:
        """An executor is not heard of for longer than its lease, and may yet speak before a sweep sees it."""
        client = self.clients[slot]
        self.leave(slot, politely=False)
        self.clients[slot] = self.gone.pop()
        assert self.clients[slot] is client

    @action(5)
    def sweep(self) -> None:
        answer = self.ask("recover_lost_steps", {"lease_seconds": 15, "net_page": 50, "max_losses": MAX_LOSSES})
        found = self.both(answer, self.model.sweep, lambda said: {key: said[key] for key in found_by_sweep})
        assert answer["netted"] == 0
        for what, count in found.items():
            self.counts[what] += count

    # -- orchestration --------------------------------------------------------------------------------------------

    @action(3, data=st.data(), when=has_seen_steps_ever)
    def report_by_message(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from([c for c in (*self.clients, *self.gone) if c.seen]), "client")
        for outcome in self.draw_outcomes(data, client):
            if outcome["status"] != "delegated":
                msg_id = self.core.one("SELECT pgmq.send('orchestration_step_results', '{}', 3600)")
                self.results.append((msg_id, outcome))

    @action(5, data=st.data())
    def process_results(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(self.results)), "results")
        taken = self.results[:count]
        outcomes = [outcome for _, outcome in taken]
        request = {"messages": [{"msg_id": msg_id, "outcome": outcome} for msg_id, outcome in taken]}
        answer = self.ask("process_step_results", request)
        said = self.both(answer, lambda: self.model.settle(outcomes)[0], verdicts)
        self.note_effects(outcomes, answer["outcomes"])
        self.results = [r for r, (verdict, _) in zip(taken, said, strict=True) if verdict == "busy"] + self.results[
            count:
        ]
        over = self.model.fire_deadlines()
        assert len(answer["revoke"]) == len(over)
        assert self.core.one("SELECT count(*) FROM pgmq.q_orchestration_step_results") == len(self.results)
        self.counts["revoked"] += len(over)

    @action(1, data=st.data(), when=lambda self: any(self.can_defer(task) for task in self.model.tasks.values()))
    def defer(self, data: st.DataObject) -> None:
        """What a burst does: the messages of a task are left to the StepEnqueuer."""
        task = data.draw(st.sampled_from([t for t in self.model.tasks.values() if self.can_defer(t)]), "task")
        self.core.rows_affected("DELETE FROM pgmq.q_shop_queue WHERE message->>'task_uuid' = %s", task.uuid)
        send = """SELECT FROM pgmq.send('step_enqueue', jsonb_build_object('task_uuid', %s::text, 'position', -1,
                                                                          'map_index', 0, 'from_index', 0))"""
        self.core.rows(send, task.uuid)
        task.deferred = True
        for step in task.steps:
            step.message = False

    def can_defer(self, task: Task) -> bool:
        enqueued = any(step.state == "enqueued" and step.message for step in task.steps)
        return enqueued and task.state == "in_progress" and task.uuid not in self.model.locked and not task.deferred

    @action(3)
    def enqueue_deferred(self) -> None:
        self.ask("enqueue_deferred_steps", {"limit": 50})
        self.model.enqueue_deferred()
        waiting = {t.uuid for t in self.model.tasks.values() if t.deferred}
        assert {row[0] for row in self.core.rows("SELECT message->>'task_uuid' FROM pgmq.q_step_enqueue")} == waiting

    @action(3, processor=PROCESSORS)
    def claim_ready(self, processor: str) -> None:
        request = {"processor": processor, "limit": 50, "timeout_seconds": CLAIM_SECONDS}
        answer = self.ask("claim_ready_tasks", request)
        claimed = self.both(
            answer,
            lambda: self.model.claim_ready(processor),
            lambda said: {task["task_uuid"] for task in said["tasks"]},
        )
        self.counts["claimed for admission"] += len(claimed)

    @action(3, data=st.data(), processor=PROCESSORS, when=has_free_task)
    def admit(self, data: st.DataObject, processor: str) -> None:
        uuids = self.some_tasks(data, "pending")
        answer = self.ask("enqueue_ready_steps", {"processor": processor, "task_uuids": uuids})
        self.counts["admitted"] += self.both(
            answer, lambda: self.model.admit(processor, uuids), lambda said: said["admitted"]
        )

    @action(1, data=st.data(), processor=PROCESSORS, when=has_free_task)
    def reject(self, data: st.DataObject, processor: str) -> None:
        uuids = self.some_tasks(data, "pending")
        bad = [{"task_uuid": task, "reason": "invalid_context", "message": "no"} for task in uuids]
        answer = self.ask("reject_tasks", {"processor": processor, "tasks": bad})
        self.counts["rejected"] += self.both(
            answer, lambda: self.model.reject(processor, sorted(uuids)), lambda said: said["rejected"]
        )

    # -- finalization ---------------------------------------------------------------------------------------------

    @action(4, data=st.data(), processor=PROCESSORS, when=has_free_task)
    def claim_finalization(self, data: st.DataObject, processor: str) -> None:
        task = self.any_task(data, *TERMINAL)
        query = "SELECT reason, claim_no FROM tasker.claim_task_for_finalization(%s, %s, %s)"
        (answer,) = self.core.rows(query, task.uuid, processor, int(CLAIM_SECONDS))
        assert answer == self.model.claim_finalization(task.uuid, processor)
        self.counts[f"finalization: {answer[0]}"] += 1

    @action(
        4, data=st.data(), processor=PROCESSORS, back=st.integers(0, 1), give_back=st.booleans(), when=has_free_task
    )
    def end_finalization(self, data: st.DataObject, processor: str, back: int, give_back: bool) -> None:
        """Finalize, or give the claim back; perhaps under an old number."""
        task = self.any_task(data, *TERMINAL)
        number = max(task.claim_no - back, 0)
        if give_back:
            given = self.ask("release_finalization_claim", task.uuid, processor, number)
            assert given is self.model.release_finalization(task.uuid, processor, number)
            return
        answer = self.ask("finalize_task", {"task_uuid": task.uuid, "processor": processor, "claim_no": number})
        said = self.both(answer, lambda: self.model.finalize(task.uuid, processor, number), lambda said: said["answer"])
        self.counts[f"finalization: {said}"] += 1

    # -- an operator ----------------------------------------------------------------------------------------------

    @action(
        6,
        data=st.data(),
        action=st.sampled_from(["pause", "pause", "pause", "resume", "resume", "resume", "resume", "cancel"]),
        when=has_free_task,
    )
    def act_on_tasks(self, data: st.DataObject, action: str) -> None:
        uuids = self.some_tasks(data, "paused" if action == "resume" else "in_progress")
        answer = self.ask(f"{action}_tasks", {"task_uuids": uuids, "by": "somebody", "reason": "a whim"})

        def foretell() -> list[tuple[str, bool, str]]:
            changed = [(uuid, getattr(self.model, action)(uuid)) for uuid in sorted(uuids)]
            return [(uuid, yes, self.model.tasks[uuid].state) for uuid, yes in changed]

        said = self.both(
            answer,
            foretell,
            lambda said: [(t["task_uuid"], t["changed"], t["state"]) for t in said["tasks"]],
        )
        self.counts[f"{action}: changed"] += sum(yes for _, yes, _ in said)

    @action(
        6,
        data=st.data(),
        action=st.sampled_from(["retry", "retry", "reset", "reset", "resolve_step"] * 2 + ["resolve_task"]),
        when=has_free_task,
    )
    def act_on_one(self, data: st.DataObject, action: str) -> None:
        task = self.any_task(data, "error" if action == "retry" else "in_progress")
        request: dict[str, Any] = {"task_uuid": task.uuid, "by": "somebody"}
        place: tuple[Any, ...] = (task.uuid,)
        if action in ("reset", "resolve_step"):
            live = [n for n, step in enumerate(task.steps) if step.state in LIVE | {"error"}]
            position = data.draw(st.sampled_from(live or range(len(task.steps))), "position")
            place = (task.uuid, position)
            request |= {"position": position, "results": {"by": "hand"}}
        name = {"retry": "retry_task", "reset": "reset_step"}.get(action, action)
        answer = self.ask(name, request)
        self.both(answer, lambda: getattr(self.model, action)(*place), lambda said: None)
        self.counts[f"{name}: {'refused' if isinstance(answer, str) else 'done'}"] += 1

    # -- another session ------------------------------------------------------------------------------------------

    @action(
        3,
        data=st.data(),
        action=st.sampled_from(["pause", "cancel", "complete", "complete"]),
        when=lambda self: self.pending is None and bool(self.model.tasks),
    )
    def hold(self, data: st.DataObject, action: str) -> None:
        """Another session makes a call, and leaves its transaction open."""
        self.other.connection.execute("BEGIN")
        if action == "complete":
            self.hold_outcomes(data)
        else:
            uuids = self.some_tasks(data, "in_progress")
            answer = self.ask(f"{action}_tasks", {"task_uuids": uuids, "by": "another"}, core=self.other)
            foretold = copy.deepcopy(self.model)
            assert [t["changed"] for t in answer["tasks"]] == [getattr(foretold, action)(u) for u in sorted(uuids)]
            open_ones = [task for uuid in uuids if (task := self.model.tasks[uuid]).state not in TERMINAL]
            self.model.locked = set(uuids)
            if action == "cancel":
                self.model.locked_steps = {(task.uuid, n) for task in open_ones for n in range(len(task.steps))}
            self.pending = lambda: [getattr(self.model, action)(uuid) for uuid in uuids]
        self.counts[f"held open: {action}"] += 1

    def hold_outcomes(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients), "client")
        outcomes = self.draw_outcomes(data, client) if client.seen else []
        request = {"executor": client.uuid, "call_no": client.next_call(), "queues": [QUEUE], "outcomes": outcomes}
        answer = self.ask("complete_steps", request, core=self.other)
        foretold = copy.deepcopy(self.model)
        try:
            foretold.check(client.uuid)
        except Refused as refusal:
            self.refused(answer, refusal)
            self.other.connection.execute("ROLLBACK")
            return
        said = foretold.settle(outcomes)[0]
        assert verdicts(answer) == said
        self.model.locked = {outcome["task_uuid"] for outcome in outcomes}
        for outcome, verdict in zip(outcomes, said, strict=True):
            place = (outcome["task_uuid"], outcome["position"])
            self.model.locked_steps.add(place)
            if verdict == ("accepted", None) and outcome["status"] == "complete":
                children = self.model.tasks[place[0]].workflow.children(place[1])
                self.model.locked_steps |= {(place[0], child) for child in children}

        def commit() -> None:
            self.model.settle(outcomes)
            self.note_effects(outcomes, answer["outcomes"])
            for outcome in outcomes:
                client.held.pop((outcome["task_uuid"], outcome["position"], outcome["fence"]), None)

        self.pending = commit

    @action(5, commit=st.sampled_from([True, True, False]), when=lambda self: self.pending is not None)
    def let_go(self, commit: bool) -> None:
        assert self.pending is not None
        self.other.connection.execute(b"COMMIT" if commit else b"ROLLBACK")
        self.model.locked, self.model.locked_steps = set(), set()
        if commit:
            self.pending()
        self.pending = None

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

    def teardown(self) -> None:
        self.counts["histories"] += 1
        if self.pending is not None:
            self.let_go(commit=True)
        self.run_to_the_end()
        assert self.core.broken_rules() == []

    def run_to_the_end(self) -> None:
        core = self.core
        core.rows("SELECT tasker.deregister_executor(jsonb_build_object('executor', executor)) FROM tasker.executors")
        paused = [uuid for uuid, task in self.model.tasks.items() if task.state == "paused"]
        core.call("resume_tasks", {"task_uuids": paused})
        worker = core.executor()
        for number in range(1, 21):
            core.move_clock(self.model.now + number * 1000)
            core.call("recover_lost_steps", {"net_page": 50})
            core.call("process_step_results", {})
            core.call("enqueue_deferred_steps", {"limit": 50})
            ready = [task["task_uuid"] for task in core.call("claim_ready_tasks", {"processor": "last"})["tasks"]]
            core.call("enqueue_ready_steps", {"processor": "last", "task_uuids": ready})
            while steps := worker.claim(50):
                outcomes = worker.complete(steps)["outcomes"]
                self.note_effects([step | {"status": "complete"} for step in steps], outcomes)
            if not core.one("SELECT EXISTS (SELECT FROM tasker.tasks WHERE finished_at IS NULL)"):
                break
        else:
            raise AssertionError(f"not everything ended: {core.one(TABLES)}")
        states = core.rows("SELECT task_uuid::text, position, state FROM tasker.workflow_steps")
        completed = {(task, position): 1 for task, position, state in states if state == "complete"}
        assert dict(self.effects) == completed


found_by_sweep = ("requeued", "poisoned", "unknown", "skipped")


def verdicts(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(said["answer"], said["reason"]) for said in answer["outcomes"]]


def define(core: Core) -> None:
    for name, workflow in WORKFLOWS.items():
        graph = {f"s{n}": [f"s{parent}" for parent in parents] for n, parents in enumerate(workflow.parents)}
        common: dict[str, Any] = {"max_attempts": MAX_ATTEMPTS, "retryable": workflow.retryable}
        common |= {"backoff": "fixed", "backoff_base_ms": int(RETRY_SECONDS * 1000), "backoff_max_ms": 10**6}
        steps = {f"s{n}": {"delegated": True, "timeout_seconds": DEADLINE_SECONDS} for n in workflow.delegated}
        schema: dict[str, Any] = {"input_schema": {"type": "object"}} if workflow.checked else {}
        core.register(name, graph, step=common, steps=steps, has_after_work=workflow.hooks, **schema)


@pytest.mark.parametrize(
    ("histories", "length"),
    [
        pytest.param(100, 60, marks=pytest.mark.timeout(300)),
        pytest.param(4000, 80, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
    ids=["short", "long"],
)
def test_whatever_is_called_the_engine_answers_as_its_model(
    tasker_database_url: str, histories: int, length: int
) -> None:
    given = os.environ.get("TASKER_TEST_SEED")
    number = int(given) if given else 1 if length == 60 else random.SystemRandom().randint(0, 2**32)
    print(f"TASKER_TEST_SEED={number}")

    class Machine(Engine):
        counts: ClassVar[Counter[str]] = Counter()
        core = Core(tasker_database_url)
        other = Core(tasker_database_url)

    for core in (Machine.core, Machine.other):
        core.connection.execute("SET statement_timeout = '20s'")
    define(Machine.core)
    seeded(number)(Machine)
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=histories,
                stateful_step_count=length,
                deadline=None,
                database=None,
                # Making a failing history shorter takes minutes: the long form does.
                phases=[Phase.generate, *([Phase.shrink] if length > 60 else [])],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        for what, count in sorted(Machine.counts.items()):
            print(f"{count:8} {what}")
        Machine.core.close()
        Machine.other.close()
