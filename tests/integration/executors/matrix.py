"""One step of a graph misbehaves, at every place of every shape: the graphs, what runs them, and what must follow.

A *case* is a shape and the place in it that misbehaves; a *kind* says how, what is done about it, and what must come of
it. All cases of a kind are tasks of one database and of one run. Every result is made of the parents' results, so that
a lost, doubled or foreign input shows at the end.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from tasker.core import OrchestrationCore
from tasker.database import functions
from tasker.database.calls import Call
from tasker.encoding import encode
from tasker.executors.delegation import DelegatedStep
from tasker.executors.executor import ORCHESTRATION_KINDS
from tasker.executors.stop import StopSignal
from tasker.testing.clock import Clock
from tests.integration.executors.engine import DEADLINE_SECONDS, Engine
from tests.sql_kit import Core
from tests.waiting import wait_until

Graph = Mapping[str, Sequence[str]]

SHAPES: Mapping[str, Graph] = {
    "linear": {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]},
    "diamond": {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"]},
    "tree": {
        "root": [],
        "branch_a": ["root"],
        "branch_b": ["root"],
        "leaf_aa": ["branch_a"],
        "leaf_ab": ["branch_a"],
        "leaf_ba": ["branch_b"],
        "leaf_bb": ["branch_b"],
        "gather": ["leaf_aa", "leaf_ab", "leaf_ba", "leaf_bb"],
    },
    "mixed": {
        "init": [],
        "west": ["init"],
        "east": ["init"],
        "validate": ["west", "east"],
        "transform": ["west"],
        "analyze": ["east"],
        "finalize": ["validate", "transform", "analyze"],
    },
    "fan": {
        "first": [],
        **{f"middle_{n}": ["first"] for n in range(6)},
        "last": [f"middle_{n}" for n in range(6)],
    },
    "diamonds": {
        "top": [],
        "left": ["top"],
        "right": ["top"],
        "waist": ["left", "right"],
        "port": ["waist"],
        "starboard": ["waist"],
        "bottom": ["port", "starboard"],
    },
}

NAMESPACE = "matrix"
APART = "apart"
"""Namespace of steps that only some executors serve."""

BY_HAND = {"seen": ["by hand"], "paths": 100}
"""What an operator gives as the result of the step that misbehaves."""


def value(name: str, parents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result of a step: who is above it, and how many ways lead down to it."""
    seen = {name}.union(*(parent["seen"] for parent in parents))
    return {"seen": sorted(seen), "paths": 1 + sum(parent["paths"] for parent in parents)}


def succeed(ctx: Any) -> dict[str, Any]:
    """What every step does that does not misbehave."""
    return value(ctx.step_name, list(ctx.results.values()))


@dataclass(frozen=True)
class Turn:
    """One run of a misbehaving step.

    Attributes:
        ctx: its context.
        run: which run of this step it is, from 1.
        gate: open once the test lets those pass that wait.
    """

    ctx: Any
    run: int
    gate: threading.Event


Act = Callable[[Turn], Any]
"""What the misbehaving step does; plain or async."""


@dataclass(frozen=True)
class Case:
    """One shape with one place that misbehaves; ``task`` once it is created."""

    shape: str
    place: str
    task: str = ""

    def __str__(self) -> str:
        return f"{self.shape}/{self.place}"

    @property
    def graph(self) -> Graph:
        """The whole shape."""
        return SHAPES[self.shape]

    @property
    def position(self) -> int:
        """Where the misbehaving step is."""
        return list(self.graph).index(self.place)

    def below(self) -> set[str]:
        """The steps that need the misbehaving one, directly or not."""
        found = {self.place}
        for step, parents in self.graph.items():
            if found.intersection(parents):
                found.add(step)
        return found - {self.place}

    @property
    def is_last(self) -> bool:
        """Whether nothing needs it."""
        return not self.below()


def all_cases() -> list[Case]:
    """Every place of every shape."""
    return [Case(shape, place) for shape, graph in SHAPES.items() for place in graph]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What must have come of a case.

    Attributes:
        task: state of the task.
        place: state of the step that misbehaves.
        below: state of the steps that need it.
        below_ready: state of those of them that need nothing else; as ``below`` if ``None``.
        others: state of all the rest.
        runs: how often the misbehaving step was started.
        runs_below: how often each one below was; by default once if it is complete, else never.
        runs_others: how often each of the rest was; likewise.
        attempts: attempts that the misbehaving step has spent.
        losses: executors that it has seen die.
        dead_letters: reason and resolution of each of its dead letters.
        finishes: the states in which the task ended, one after the other.
        given: the result of the misbehaving step where somebody else made it; always so where an operator resolved it.
        error: type of its error, where it shows one.
    """

    task: str = "complete"
    place: str = "complete"
    below: str = "complete"
    below_ready: str | None = None
    others: str = "complete"
    runs: int = 1
    runs_below: int | None = None
    runs_others: int | None = None
    attempts: int = 1
    losses: int = 0
    dead_letters: tuple[tuple[str, str | None], ...] = ()
    finishes: tuple[str, ...] = ("complete",)
    given: Mapping[str, Any] | None = None
    error: str | None = None

    def of(self, case: Case) -> dict[str, Any]:
        """The same in the words of ``Bench.observe``."""
        below = case.below()
        states: dict[str, str] = {}
        for step, parents in case.graph.items():
            ready = all(states[parent] in ("complete", "resolved_manually") for parent in parents)
            if step == case.place:
                states[step] = self.place
            elif step in below:
                states[step] = self.below_ready if ready and self.below_ready else self.below
            else:
                states[step] = self.others
        runs = {}
        for step in case.graph:
            once = int(states[step] == "complete")
            if step == case.place:
                runs[step] = self.runs
            elif step in below:
                runs[step] = once if self.runs_below is None else self.runs_below
            else:
                runs[step] = once if self.runs_others is None else self.runs_others
        results: dict[str, Any] = {}
        for step, parents in case.graph.items():
            if states[step] == "resolved_manually":
                results[step] = BY_HAND
            elif states[step] == "complete":
                made = value(step, [results[parent] for parent in parents])
                results[step] = self.given if step == case.place and self.given else made
        live = sum(state in ("enqueued", "in_progress", "waiting_for_retry") for state in states.values())
        ended = bool(self.finishes)
        return {
            "task": self.task,
            "states": states,
            "runs": runs,
            "results": results,
            "error": self.error,
            "attempts": self.attempts,
            "losses": self.losses,
            "counters": {
                "total": len(case.graph),
                "active": live,
                "open": list(states.values()).count("pending") if ended else None,
                "failed": list(states.values()).count("error") if ended else None,
                "skipped": 0 if ended else None,
            },
            "dead_letters": list(self.dead_letters),
            "finalized": list(range(1, len(self.finishes) + 1)),
            "hooks": [(n, state) for n, state in enumerate(self.finishes, 1) if state in ("complete", "error")],
        }


class Bench:
    """An engine with one task for every case of a kind.

    Args:
        engine: the database and the step executors.
        core: the other executors, on the same database.
        clock: the clock of both.
        acts: what the misbehaving steps do.
        step: their settings, where those are not the usual ones.
        revoked: ids of the Celery tasks that the core revoked.
    """

    def __init__(
        self,
        engine: Engine,
        core: OrchestrationCore,
        clock: Clock,
        *,
        acts: Act | None,
        step: Mapping[str, Any],
        revoked: list[str],
    ) -> None:
        self.engine = engine
        self.core = core
        self.clock = clock
        self.revoked = revoked
        self.sent: list[DelegatedStep] = []
        self.runs: Counter[tuple[str, str]] = Counter()
        self.hooks: list[tuple[str, int, str]] = []
        self.gate = threading.Event()
        """Steps that wait for something to happen wait for this."""
        self._lock = threading.Lock()
        self._acting = 0
        # A database may have seen other kinds before.
        self._number = engine.value("SELECT count(*) FROM tasker.named_tasks")
        self._acts = acts
        for database in (engine.database, core.database):
            clock.attach(database)
        core.handlers = engine.handlers
        self._register_handlers()
        self.cases = self._create(step)

    # -- what runs ------------------------------------------------------------------------------------------------

    def _register_handlers(self) -> None:
        def plain(ctx: Any) -> Any:
            self._count(ctx)
            return succeed(ctx)

        async def asynchronous(ctx: Any) -> Any:
            self._count(ctx)
            await asyncio.sleep(0)
            return succeed(ctx)

        def misbehaves(ctx: Any) -> Any:
            with self._act(ctx) as turn:
                return self._acts(turn) if self._acts else succeed(ctx)

        async def misbehaves_asynchronously(ctx: Any) -> Any:
            with self._act(ctx) as turn:
                assert self._acts is not None
                return await self._acts(turn)

        def hook(outcome: Any) -> None:
            with self._lock:
                self.hooks.append((outcome.task_uuid, outcome.finish_no, outcome.state))

        is_async = self._acts is not None and inspect.iscoroutinefunction(self._acts)
        register = self.engine.handlers.register
        register("plain", plain)
        register("asynchronous", asynchronous)
        register("misbehaves", misbehaves_asynchronously if is_async else misbehaves)
        register("hook", hook)

    def _count(self, ctx: Any) -> int:
        with self._lock:
            self.runs[ctx.task_uuid, ctx.step_name] += 1
            return self.runs[ctx.task_uuid, ctx.step_name]

    @contextmanager
    def _act(self, ctx: Any) -> Iterator[Turn]:
        run = self._count(ctx)
        with self._lock:
            self._acting += 1
        try:
            yield Turn(ctx, run, self.gate)
        finally:
            with self._lock:
                self._acting -= 1

    def send(self, step: DelegatedStep) -> None:
        """As Celery would take it."""
        with self._lock:
            self.sent.append(step)
            case = next(case for case in self.cases if case.task == step.task_uuid)
            self.runs[step.task_uuid, case.place] += 1

    def _create(self, settings: Mapping[str, Any]) -> list[Case]:
        created = []
        for case in all_cases():
            name = f"{case.shape}_{case.place}_{self._number}"
            steps = []
            for position, (step, parents) in enumerate(case.graph.items()):
                usual = {
                    "name": step,
                    "depends_on": list(parents),
                    "handler": _handler("asynchronous" if position % 2 else "plain"),
                    "namespace": NAMESPACE,
                }
                steps.append({**usual, "handler": _handler("misbehaves"), **settings} if step == case.place else usual)
            document = {"hooks": {"on_complete": ["hook"], "on_error": ["hook"]}}
            self.engine.workflow(*steps, name=name, namespace=NAMESPACE, document=document, has_after_work=True)
            created.append((case, name))
        # Otherwise what is unknown is claimed one at a time.
        self.engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.01")
        functions.run(self.engine.connection, functions.ensure_namespace(APART))
        requests = [{"namespace": NAMESPACE, "name": name} for _, name in created]
        answers = functions.run(self.engine.connection, functions.create_tasks(requests))
        return [replace(case, task=answer["task_uuid"]) for (case, _), answer in zip(created, answers, strict=True)]

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, *, apart: bool = True) -> None:
        """Run steps and everything else until nothing is left to do now.

        Args:
            apart: also serve the queue of the steps that are set apart.
        """
        while self._run_steps(apart) + self.run_orchestration():
            pass

    def _run_steps(self, apart: bool) -> int:
        executor = self.engine.executor(queues=_queues(apart), send=self.send)
        with self.engine.loop(executor) as loop:
            return sum(loop.run_until_idle(DEADLINE_SECONDS).taken.values())

    def run_orchestration(self) -> int:
        """Run everything but steps until nothing is left to do now; how much there was."""
        stop = StopSignal()
        with self.core.build_loop(ORCHESTRATION_KINDS, (), stop=stop, worker="test") as loop:
            taken = sum(loop.run_until_idle(DEADLINE_SECONDS).taken.values())
        stop.close()
        return taken

    def wait_and_run(self, seconds: float) -> None:
        """Move the clock on and run what became due."""
        self.clock.advance(seconds=seconds)
        self.run()

    @contextmanager
    def working(self, *, heartbeat_seconds: float = 0.1, grace_seconds: float = 30.0) -> Iterator[None]:
        """Meanwhile an executor works on a thread; at the end it is told to stop and waited for."""
        stop = StopSignal()
        executor = self.engine.executor(queues=_queues(True), stop=stop, grace_seconds=grace_seconds, send=self.send)
        loop = self.engine.loop(executor, heartbeat_seconds=heartbeat_seconds, stop=stop)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                loop.run()
                loop.close(grace_seconds)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        except BaseException:
            self.gate.set()
            raise
        finally:
            stop.set()
            thread.join(DEADLINE_SECONDS)
            stop.close()
        assert not thread.is_alive()
        assert failures == []

    def wait_until_held(self) -> None:
        """Every misbehaving step runs, and whatever can run beside it has."""
        wait_until(
            lambda: self._acting == len(self.cases) and self._live() == {"in_progress": len(self.cases)},
            "every misbehaving step to run, alone",
        )

    def wait_until_left(self) -> None:
        """No misbehaving step runs any more."""
        wait_until(lambda: self._acting == 0, "every misbehaving step to end")

    def wait_until_settled(self) -> None:
        """No step runs any more, so far as the database knows."""
        wait_until(lambda: "in_progress" not in self._live(), "every step to be reported")

    def _live(self) -> dict[str, int]:
        return dict(
            self.engine.rows(
                "SELECT state, count(*) FROM tasker.workflow_steps"
                " WHERE state IN ('enqueued', 'in_progress', 'waiting_for_retry') GROUP BY state"
            )
        )

    # -- those who interfere --------------------------------------------------------------------------------------

    def call(self, call: Call[Any]) -> Any:
        """A call on a connection with the present clock."""
        with self.engine.database.connect() as connection:
            return functions.run(connection, call)

    def on_all(self, function: Callable[[Any], Call[Any]], *, changed: bool | None = True) -> None:
        """Cancel, pause or resume all tasks; each must, or must not, be changed by it."""
        request = {"task_uuids": [case.task for case in self.cases], "by": "operator", "reason": "test"}
        answer = self.call(function(request))
        if changed is not None:
            assert {task["changed"] for task in answer["tasks"]} == {changed}

    def on_each(self, function: Callable[[Any], Call[Any]], **request: Any) -> None:
        """Have an operator act on the misbehaving step of each task."""
        for case in self.cases:
            self.call(
                function({"task_uuid": case.task, "step": case.place, "by": "operator", "reason": "test", **request})
            )

    def lose_executors(self, **sweep: Any) -> None:
        """Two sweeps see the same heartbeat a lease apart: whoever lives is lost, and its steps are given back."""
        alive = "SELECT count(*) FROM tasker.executors WHERE lost_at IS NULL"

        def swept() -> bool:
            for column in ("heartbeat_at", "suspected_at"):
                older = f"UPDATE tasker.executors SET {column} = {column} - interval '1 hour' WHERE lost_at IS NULL"
                self.engine.connection.execute(older.encode())
                self.call(functions.recover_lost_steps({"lease_seconds": 15, "limit": 1000, **sweep}))
            return not self.engine.value(alive)

        wait_until(swept, "the executors to be lost")

    def answer(self, step: DelegatedStep, **outcome: Any) -> None:
        """What the callbacks of a Celery task send."""
        message = {key: getattr(step, key) for key in ("task_uuid", "step_uuid", "fence", "executor")}
        self.engine.connection.execute(
            "SELECT pgmq.send('orchestration_step_results', CAST(%s AS jsonb))",
            (encode({**message, **outcome}, what="the outcome").decode(),),
        )

    # -- what came of it ------------------------------------------------------------------------------------------

    def observe(self) -> dict[str, dict[str, Any]]:
        """All that a test wants to know of each case."""
        tasks = [case.task for case in self.cases]
        rows: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
        for name, query in _OBSERVED.items():
            rows[name] = {task: [] for task in tasks}
            for task, *row in self.engine.rows(query, tasks):
                rows[name][str(task)].append(tuple(row))
        return {str(case): self._observe(case, {name: rows[name][case.task] for name in rows}) for case in self.cases}

    def _observe(self, case: Case, rows: Mapping[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
        names = list(case.graph)
        (task,), steps, letters = rows["task"], rows["steps"], rows["dead letters"]
        assert {position for position, _, _ in letters} <= {case.position}
        return {
            "task": task[0],
            "states": {names[position]: state for position, state, *_ in steps},
            "runs": {name: self.runs[case.task, name] for name in names},
            "results": {names[position]: results for position, _, results, *_ in steps if results is not None},
            "error": steps[case.position][5],
            "attempts": steps[case.position][3],
            "losses": steps[case.position][4],
            "counters": dict(zip(("total", "active", "open", "failed", "skipped"), task[1:], strict=True)),
            "dead_letters": [(reason, resolution) for _, reason, resolution in letters],
            "finalized": [number for (number,) in rows["finalized"]],
            "hooks": [(number, state) for uuid, number, state in self.hooks if uuid == case.task],
        }

    def check(self, expected: Expected | Callable[[Case], Expected]) -> None:
        """Compare all cases with what is expected of them, and the whole database with its rules."""
        found = self.observe()
        wanted = {
            str(case): (expected if isinstance(expected, Expected) else expected(case)).of(case) for case in self.cases
        }
        differing = {
            case: {
                key: (found[case][key], wanted[case][key])
                for key in wanted[case]
                if found[case][key] != wanted[case][key]
            }
            for case in wanted
            if found[case] != wanted[case]
        }
        assert differing == {}, f"found and expected, by case and by what differs: {differing}"
        core = Core(self.engine.database.url)
        try:
            core.move_clock(self.clock.offset.total_seconds())
            assert core.broken_rules() == []
        finally:
            core.close()

    def check_end(self, expected: Expected | Callable[[Case], Expected]) -> None:
        """As ``check``; and nothing moves any more, whatever time passes, nor is anything left behind."""
        self.check(expected)
        self.wait_and_run(3600)
        self.check(expected)
        left = {
            "receipts": "SELECT count(*) FROM tasker.step_claims",
            "timers": "SELECT count(*) FROM tasker.step_timers",
            "living executors": "SELECT count(*) FROM tasker.executors WHERE lost_at IS NULL",
            "dead messages": "SELECT count(*) FROM tasker.dead_letters WHERE kind = 'message'",
            **{
                queue: f"SELECT count(*) FROM pgmq.q_{queue}"
                for (queue,) in self.engine.rows("SELECT queue_name FROM pgmq.list_queues()")
            },
        }
        found: dict[str, int] = {}

        def nothing() -> bool:
            found.update({name: self.engine.value(query) for name, query in left.items()})
            if any(found.values()):
                self.run()
            return not any(found.values())

        # What was read and not settled, because the machine was slow, is hidden for a while.
        with suppress(AssertionError):
            wait_until(nothing, "nothing to be left")
        assert found == dict.fromkeys(left, 0)


_OBSERVED = {
    "task": "SELECT task_uuid, state, total, active, open, failed, skipped FROM tasker.tasks"
    " WHERE task_uuid = ANY (CAST(%s AS uuid[]))",
    "steps": "SELECT task_uuid, position, state, results, attempts, losses, error->>'type' FROM tasker.workflow_steps"
    " WHERE task_uuid = ANY (CAST(%s AS uuid[])) ORDER BY position",
    "dead letters": "SELECT task_uuid, position, reason, resolution FROM tasker.dead_letters"
    " WHERE task_uuid = ANY (CAST(%s AS uuid[])) ORDER BY id",
    "finalized": "SELECT task_uuid, finish_no FROM tasker.finalization_attempts"
    " WHERE task_uuid = ANY (CAST(%s AS uuid[])) AND action = 'finalize' AND outcome = 'finalized' ORDER BY finish_no",
}


def _handler(name: str) -> dict[str, Any]:
    return {"callable": name, "method": None, "initialization": {}}


def _queues(apart: bool) -> tuple[str, ...]:
    return (f"{NAMESPACE}_queue", f"{APART}_queue") if apart else (f"{NAMESPACE}_queue",)
