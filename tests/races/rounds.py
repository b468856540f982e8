"""Two calls at once on one stage, and what they may do to one another.

What is legal is not written down for each pair: it is tried. Before the race, both calls are made one after the other
in both orders, on the very stage, and rolled back. A race is legal if its answers and the state it leaves are those of
one of the orders. A call that leaves out what another holds is made again once the other has ended, as its caller
would; then the state must be that of one of the orders.
"""

from __future__ import annotations

import concurrent.futures
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import psycopg

from tests.races.actor import Actor
from tests.races.stages import Stage, define
from tests.sql_kit import Core

_VERDICT = re.compile(r'"answer":("\w+")')
VOLATILE = frozenset(
    {"next_due_seconds", "queues", "notify", "templates", "template", "msg_id", "context", "results", "call_no"}
    | {"named_task_id", "step_uuid", "read", "finished_tasks", "waited_seconds", "retry_after_seconds"}
)
"""Parts of answers that differ from call to call, or repeat what the state says."""


class Session:
    """A session that makes calls in a thread, so that another may watch it wait."""

    def __init__(self, url: str) -> None:
        self.core = Core(url)
        self.core.connection.execute("SET statement_timeout = '20s'")
        self.pid = self.core.connection.info.backend_pid
        self.thread = concurrent.futures.ThreadPoolExecutor(1)

    def close(self) -> None:
        self.thread.shutdown()
        self.core.close()


SHOW_AGAIN = b"""
UPDATE pgmq.q_task_finalization SET vt = clock_timestamp() WHERE vt < clock_timestamp() + interval '1 second';
UPDATE pgmq.q_orchestration_step_results SET vt = clock_timestamp() WHERE vt < clock_timestamp() + interval '1 second'
"""
"""What a moment does: messages that were left for half a second show again."""


@dataclass
class Result:
    """What a call answered, in words that can be compared, and whether it was refused."""

    said: str
    raw: Any = None
    refused: bool = False
    failed: bool = False


def ask(stage: Stage, actor: Actor, core: Core, turn: int = 0) -> Result:
    """Make a call; a refusal of the engine is an answer, any other error of the server is not."""
    try:
        if core.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            raw = actor.call(stage, core, turn)
        else:
            with core.connection.transaction():
                raw = actor.call(stage, core, turn)
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith("TK"):
            return Result(str(error.sqlstate), refused=True)
        return Result(f"{error.sqlstate}: {error}".strip(), failed=True)
    return Result(stage.named(orjson.dumps(_essence(raw), option=orjson.OPT_SORT_KEYS, default=str).decode()), raw)


def ask_in_vain(stage: Stage, actor: Actor, core: Core) -> Result:
    """Make a call and undo it at once."""
    with core.connection.transaction(force_rollback=True):
        return ask(stage, actor, core)


def record(stage: Stage, actor: Actor, result: Result) -> None:
    """Take note of the effects of a call that was committed."""
    if actor.counts and isinstance(result.raw, dict):
        stage.count_effects(result.raw["outcomes"], result.raw["outcomes"])


@dataclass
class Order:
    """What came of calls, made in some order: their answers, and the state they left."""

    said: list[str]
    state: str

    def swapped(self) -> Order:
        return Order(self.said[::-1], self.state)

    def is_like(self, other: Order) -> bool:
        """The same state and answers; a refusal may be worded by the executor or by each of its steps."""
        return self.state == other.state and all(
            one == two or {is_refusal(one), is_refusal(two)} == {True}
            for one, two in zip(self.said, other.said, strict=True)
        )

    def differs_from(self, other: Order) -> str:
        """Where the two part, in few words."""
        parts = []
        for one, two in zip([*self.said, self.state], [*other.said, other.state], strict=True):
            if one != two:
                start = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
                parts.append(f"{one[max(start - 60, 0) : start + 100]!r} not {two[max(start - 60, 0) : start + 100]!r}")
        return ", ".join(parts)


@dataclass
class Lane:
    """A database of its own, in which one race runs after another."""

    url: str
    races: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    stops: dict[tuple[str, str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = Core(self.url)
        self.core.connection.execute("SET statement_timeout = '20s'")
        define(self.core)
        self.core.call("ensure_namespace", "stock")
        self.driver = self.core.executor("shop_queue", "stock_queue")
        self.core.rows_affected("UPDATE tasker.executors SET worker = 'driver'")
        self.one, self.two, self.holder = (Session(self.url) for _ in range(3))
        self.pids = [self.one.pid, self.two.pid, self.holder.pid]

    def close(self) -> None:
        for session in (self.one, self.two, self.holder):
            session.close()
        self.core.close()

    # -- calls ----------------------------------------------------------------------------------------------------

    def ask_again(self, stage: Stage, actor: Actor, core: Core) -> Result:
        """Make a call once more, when messages that were put back show again."""
        core.connection.execute(SHOW_AGAIN)
        return ask(stage, actor, core, 1)

    def start(
        self, stage: Stage, actor: Actor, session: Session, how: Callable[..., Result] | None = None
    ) -> tuple[concurrent.futures.Future[Result], bool]:
        """Begin a call in its thread, and wait until it ends or waits for a lock; whether it waits."""
        future = session.thread.submit(how or ask, stage, actor, session.core)
        deadline = time.monotonic() + 20
        while not concurrent.futures.wait([future], 0.0005).done:
            # Only for others of this lane: commits that notify wait for one another on the whole server.
            if self.core.one("SELECT pg_blocking_pids(%s) && %s::integer[]", session.pid, self.pids):
                return future, True
            assert time.monotonic() < deadline, f"{actor.name} neither ended nor waits for a lock"
        return future, False

    # -- races ----------------------------------------------------------------------------------------------------

    def set_stage(self, situation: str, *actors: Actor, count: int = 2) -> Stage:
        stage = Stage(self.core, situation, count)
        for prepare in dict.fromkeys(actor.prepare for actor in actors):
            if prepare is not None:
                prepare(stage)
        return stage

    def tried(self, stage: Stage, *actors: Actor) -> Order:
        """What calls answer one after the other, and the state they leave; undone."""
        with undone(self.one) as core:
            return Order([ask(stage, actor, core).said for actor in actors], stage.digest(core))

    def race(self, situation: str, one: Actor, two: Actor, *, thorough: bool = False, gated: bool = True) -> None:
        """All forms of the race of two calls in one situation; ``gated``: also from the middle of a call."""
        stage = self.set_stage(situation, one, two)
        legal = [self.tried(stage, one, two), self.tried(stage, two, one).swapped()]
        pairs = [(one, two, legal)] if one is two else [(one, two, legal), (two, one, [o.swapped() for o in legal])]
        gates = []
        for first, second, _ in pairs:
            self.roll_back(stage, first, second)
            gates += self.stop_halfway(stage, first, second) if gated else []
        for first, second, orders in pairs:
            for gate in [None, *gates] if thorough else [None]:
                if stage.is_over:
                    stage = self.set_stage(situation, one, two)
                self.commit(stage, first, second, orders, gate)
                self.end(stage, f"{situation}: {first.name} | {second.name}")

    def commit(self, stage: Stage, first: Actor, second: Actor, legal: list[Order], gate: str | None) -> None:
        """The first call's transaction stays open until the second call ends or waits; then it commits.

        With a gate, the first is stopped in the middle of its call instead.
        """
        if gate is None:
            with self.one.core.connection.transaction():
                said = ask(stage, first, self.one.core)
                future, waits = self.start(stage, second, self.two)
        else:
            with self.shut(stage, gate):
                earlier, _ = self.start(stage, first, self.one)
                future, waits = self.start(stage, second, self.two)
            said = earlier.result(20)
        answered = future.result(20)
        for actor, result in ((first, said), (second, answered)):
            self.check(f"{stage.situation}: {first.name} | {second.name}", actor, result)
            record(stage, actor, result)
        how = "waited" if waits else "passed"
        found = Order([said.said, answered.said], stage.digest())
        if any(found.is_like(order) for order in legal):
            how = "refused" if said.refused or answered.refused else how
        else:
            for actor, session, needed in ((second, self.two, True), (first, self.one, gate is not None)):
                if needed and actor.comes_again and (how != "came again" or not left(found, legal)):
                    how = "came again"
                    record(stage, actor, self.ask_again(stage, actor, session.core))
                    found.state = stage.digest()
            if not (left_by_row(found, legal) if gate else how == "came again" and left(found, legal)):
                self.blame(stage, f"behind {gate}" if gate else "committed", first, second, found, legal)
        self.races[how if gate is None else f"{how}, in the middle"] += 1

    def roll_back(self, stage: Stage, first: Actor, second: Actor) -> bool:
        """As "commit", but the first call is rolled back: the second must do as if it had never been.

        Leaves the stage as it was. Returns whether the second waited.
        """
        alone = self.alone(stage, second)
        with undone(self.two) as core:
            with undone(self.one):
                ask(stage, first, self.one.core)
                future, waits = self.start(stage, second, self.two)
            found = Order([future.result(20).said], stage.digest(core))
            how = "waited" if waits else "passed"
            if found != alone and second.comes_again:
                how = "came again"
                self.ask_again(stage, second, core)
                found = Order(alone.said, stage.digest(core))
            if found != alone:
                self.blame(stage, "rolled back", first, second, found, [alone])
        self.races[f"{how}, the first was rolled back"] += 1
        return waits

    def alone(self, stage: Stage, actor: Actor) -> Order:
        """What comes of one call; tried once for a stage."""
        if actor.name not in stage.alone:
            stage.alone[actor.name] = self.tried(stage, actor)
        return cast("Order", stage.alone[actor.name])

    def stop_halfway(self, stage: Stage, first: Actor, second: Actor) -> list[str]:
        """Both calls under way at once: they may wait, but not for one another. Returns where the first one stops.

        A third session holds a row that the first call wants, the second call begins, then the row is let go.
        """
        stopping = []
        for gate in GATES:
            if not self.stops.get((stage.situation, first.name, gate), True):
                continue
            with self.shut(stage, gate):
                futures = [self.start(stage, first, self.one, ask_in_vain)]
                self.stops[stage.situation, first.name, gate] = futures[0][1]
                if futures[0][1]:
                    futures.append(self.start(stage, second, self.two, ask_in_vain))
                    self.races[f"{'waited' if futures[1][1] else 'passed'} in the middle"] += 1
                    stopping.append(gate)
            for actor, (future, _) in zip((first, second), futures, strict=False):
                self.check(f"{stage.situation}, behind {gate}: {first.name} | {second.name}", actor, future.result(20))
        return stopping

    def check(self, what: str, actor: Actor, result: Result) -> None:
        """An error that is not the engine's own word is a problem: a deadlock, a broken constraint."""
        if result.failed:
            self.problems.append(f"{what}: {actor.name} failed: {result.said}")

    @contextmanager
    def shut(self, stage: Stage, gate: str) -> Iterator[None]:
        """Hold rows that stop whoever wants to lock them."""
        with undone(self.holder) as core:
            core.connection.execute(GATES[gate], {"task": stage.tasks[1], "executor": stage.first.uuid})
            yield

    def end(self, stage: Stage, what: str) -> None:
        """Run the stage to its end, and note what is wrong."""
        self.driver.heartbeat()
        self.problems += [f"{what}: {problem}" for problem in stage.end(self.driver)]

    def blame(self, stage: Stage, how: str, first: Actor, second: Actor, found: Order, legal: list[Order]) -> None:
        told = "; or ".join(found.differs_from(order) for order in legal)
        self.problems.append(f"{stage.situation}, {how}: {first.name} | {second.name}: {told}")


GATES = {
    "a task": "SELECT FROM tasker.tasks WHERE task_uuid = %(task)s FOR NO KEY UPDATE",
    "a step": """SELECT FROM tasker.workflow_steps WHERE task_uuid = %(task)s AND position = 0 FOR NO KEY UPDATE""",
    "the join": """SELECT FROM tasker.workflow_steps WHERE task_uuid = %(task)s AND position = 2 FOR NO KEY UPDATE""",
    "a timer": "SELECT FROM tasker.step_timers WHERE task_uuid = %(task)s FOR UPDATE",
    "the receipts": "SELECT FROM tasker.step_claims WHERE executor = %(executor)s FOR UPDATE",
    "the executor": "SELECT FROM tasker.executors WHERE executor = %(executor)s FOR UPDATE",
    "the coordinator": "SELECT FROM tasker.coordinator FOR UPDATE",
    "finalization messages": "SELECT FROM pgmq.q_task_finalization FOR UPDATE",
    "result messages": "SELECT FROM pgmq.q_orchestration_step_results FOR UPDATE",
}
"""Rows in the middle of what calls lock; whoever skips locked rows is not stopped by them."""


def is_refusal(said: str) -> bool:
    """Whether an executor is told that nothing of what it spoke of is its own."""
    verdicts = set(_VERDICT.findall(said))
    return said == "TK006" or verdicts == {'"stale"'} or said in ('{"started":[false,false]}', '{"released":0}')


def left(found: Order, legal: list[Order]) -> bool:
    """Whether the state is that of one of the orders."""
    return any(found.state == order.state for order in legal)


def left_by_row(found: Order, legal: list[Order]) -> bool:
    """Whether the state of every task and step is that of one of the orders: halfway, calls on many rows may cross."""
    states = [_by_row(order.state) for order in legal]
    return all(any(row == state.get(key) for state in states) for key, row in _by_row(found.state).items())


def _by_row(state: str) -> dict[str, Any]:
    """Tasks, and steps with their timers, by name; and what is of neither."""
    found = orjson.loads(state)
    timers = {f"{task} {position}": timer for task, position, *timer in found["timers"] or []}
    rows: dict[str, Any] = {task: row for task, *row in found["tasks"] or [] if task.startswith("task")}
    for task, position, *row in found["steps"] or []:
        rows[f"{task} {position}"] = [row, timers.get(f"{task} {position}")]
    return rows | {kind: found[kind] for kind in ("executors", "messages", "registers")}


@contextmanager
def undone(session: Session) -> Iterator[Core]:
    """A transaction that is rolled back."""
    with session.core.connection.transaction(force_rollback=True):
        yield session.core


def _essence(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: _essence(value) for key, value in answer.items() if key not in VOLATILE}
    if isinstance(answer, list):
        return [_essence(value) for value in answer]
    return answer
