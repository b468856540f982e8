"""Sessions that do anything at any moment; whatever the interleaving, the invariants hold and everything ends.

Every session plays all parts: executors that die, forget, repeat and come late; orchestration; an impatient operator.
Calls run in transactions that linger before their commit, or are rolled back. Meanwhile one observer checks the
invariants, each in a snapshot of its own. Then the work is run to its end, and the history is checked.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql_kit import CHAIN, DIAMOND, Core, Graph, Worker, fan, lost_messages, sweep
from tests.waiting import wait_until

T = TypeVar("T")
Step = dict[str, Any]

LEASE_SECONDS = 0.6
SESSIONS = 4
MOST_OPEN_TASKS = 16
REFUSALS = frozenset({"TK004", "TK005"})
"""An operator was late: no such step, or not in a state in which this can be done."""
QUEUES = ("shop_queue", "stock_queue")
LIKELIHOOD = {
    "claim": 30, "complete": 35, "release": 10, "heartbeat": 25, "repeat": 4, "mark": 3, "forget": 1, "die": 2,
    "deregister": 1, "come_late": 2, "create": 12, "sweep": 6, "admit": 6, "enqueue_deferred": 6, "deliver": 10,
    "process_results": 12, "finalize": 8, "pause_or_resume": 16, "cancel": 1, "retry": 6, "reset": 6, "resolve": 4,
    "resolve_task": 1,
}  # fmt: skip
"""What a session does, and how often."""

GRAPHS: dict[str, tuple[Graph, dict[str, Any]]] = {
    "chain": (CHAIN, {"max_attempts": 2}),
    "diamond": (DIAMOND, {"backoff": "fixed", "backoff_base_ms": 100}),
    "join": ({"a": [], "b": [], "c": [], "d": ["a", "b"], "e": ["a", "b", "c"], "f": ["d", "e"]}, {}),
    "once": ({"a": [], "b": ["a"]}, {"retryable": False}),
    "delegated": ({"a": [], "b": [], "c": ["a", "b"]}, {"delegated": True, "timeout_seconds": 1, "max_attempts": 2}),
    "checked": (DIAMOND, {}),
    "hooked": ({"a": [], "b": ["a"]}, {"max_attempts": 1}),
    "wide": (fan(280), {}),
}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "checked": {"input_schema": {"type": "object"}},
    "hooked": {"has_after_work": True},
    "diamond": {"has_after_work": True},
}


class RolledBack(Exception):
    """Thrown into a transaction to undo it."""


class World:
    """What the sessions share: the tasks there are, steps that run elsewhere, and what went wrong."""

    def __init__(self, core: Core) -> None:
        self.url = core.url
        self.tasks: list[str] = []
        self.delegated: list[Step] = []
        self.problems: list[str] = []
        self.calls = 0
        self.stop = threading.Event()
        self.lock = threading.Lock()
        for name, (graph, step) in GRAPHS.items():
            steps = {key: {"namespace": "stock"} for number, key in enumerate(graph) if number % 3 == 1}
            core.register(name, graph, step=step, steps=steps, **DEFINITIONS.get(name, {}))


class Incarnation(Worker):
    """An executor as it should be: it holds steps by the number of the call that gave them."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, QUEUES)
        self.held: dict[tuple[str, int], tuple[int, Step]] = {}
        self.open_calls: set[int] = set()
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def next_call(self) -> int:
        self.call_no += 1
        self.open_calls.add(self.call_no)
        return self.call_no

    def take(self, answer: Mapping[str, Any]) -> None:
        for step in answer["steps"]:
            self.held[step["step_uuid"], step["fence"]] = (answer["call_no"], step)
            self.open_calls.add(answer["call_no"])

    def finished(self) -> list[int]:
        """Calls that hold nothing any more, named once."""
        still = {number for number, _ in self.held.values()}
        done = sorted(self.open_calls - still)
        self.open_calls &= still
        return done

    def oldest(self) -> int:
        return min(self.open_calls, default=self.call_no + 1)


class Session:
    """One connection that draws one thing to do after another."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.core = Core(world.url)
        self.core.connection.execute("SET lock_timeout = '20s'")
        self.me = Incarnation(self.core)
        self.ghosts: list[Incarnation] = []
        self.name = seed

    def run(self) -> None:
        # Every session has its own leanings: rare meetings of two actions are common in some runs.
        names = list(LIKELIHOOD)
        weights = [LIKELIHOOD[name] * self.random.choice([0.3, 1, 1, 4]) for name in names]
        while not self.world.stop.is_set():
            (action,) = self.random.choices(names, weights)
            try:
                getattr(self, action)()
            except psycopg.Error as error:
                if error.sqlstate == "TK006":
                    self.me = Incarnation(self.core)
                elif error.sqlstate not in REFUSALS:
                    self.world.problems.append(f"{self.name}: {action}: {error.sqlstate} {error}")
            except Exception as error:
                self.world.problems.append(f"{self.name}: {action}: {error!r}")

    def atomically(self, call: Callable[[], T]) -> T | None:
        """The call in a transaction that may linger before its commit, or be rolled back (then: None)."""
        self.world.calls += 1
        chance = self.random.random()
        if chance < 0.6:
            return call()
        try:
            with self.core.connection.transaction():
                answer = call()
                time.sleep(self.random.random() * 0.03)
                if chance > 0.96:
                    raise RolledBack
        except RolledBack:
            return None
        return answer

    # -- an executor ------------------------------------------------------------------------------------------

    def ask(self, worker: Incarnation, function: str, request: dict[str, Any]) -> Any:
        """Make a call whose answer may be lost: then it is made again, word for word."""
        worker.sent = [*worker.sent[-4:], (function, request)]
        answer = self.atomically(lambda: worker.core.call(function, request))
        while answer is None or self.random.random() < 0.1:
            answer = self.atomically(lambda: worker.core.call(function, request))
        return answer

    def claim(self) -> None:
        queues = self.random.sample(QUEUES, self.random.randint(1, 2))
        request: dict[str, Any] = {
            "executor": self.me.uuid,
            "queues": queues,
            "limit": self.random.randint(1, 8),
            "budget_ms": 1000,
        }
        finished = self.me.finished()
        request |= {"call_no": self.me.next_call(), "finished": finished}
        answer = self.ask(self.me, "claim_steps", request)
        self.receive(self.me, answer)

    def receive(self, worker: Incarnation, answer: Mapping[str, Any]) -> None:
        """Take the steps of an answer; each must come with the results of all its parents."""
        for step in answer["steps"]:
            steps = answer["templates"][str(step["template"])]["steps"]
            (about,) = (entry for entry in steps if entry["position"] == step["position"])
            missing = {str(p) for p in about["depends_on"]} - set(answer["results"].get(step["task_uuid"], {}))
            if missing:
                self.world.problems.append(f"{self.name}: {step} came without the results of {missing}")
            step["delegated"] = about["delegated"]
        worker.take(answer)

    def complete(self) -> None:
        self._complete(self.me)

    def _complete(self, worker: Incarnation) -> None:
        mine = [step for _, step in worker.held.values()]
        chosen = self.random.sample(mine, self.random.randint(0, min(len(mine), 8)))
        wait = len(chosen) == 1 and self.random.random() < 0.5
        finished = worker.finished()
        request: dict[str, Any] = {
            "executor": worker.uuid,
            "call_no": worker.next_call(),
            "queues": list(QUEUES),
            "budget_ms": 1000,
        }
        request |= {"outcomes": [self.outcome(step) for step in chosen], "finished": finished, "wait": wait}
        request |= {"continue_limit": self.random.choice([0, 1, 4])}
        answer = self.ask(worker, "complete_steps", request)
        for sent, said in zip(request["outcomes"], answer["outcomes"], strict=True):
            if said["answer"] != "busy":
                worker.held.pop((sent["step_uuid"], sent["fence"]), None)
            if said["answer"] == "accepted" and sent["status"] == "delegated":
                with self.world.lock:
                    self.world.delegated.append({**sent, "executor": worker.uuid})
        self.receive(worker, answer)

    def outcome(self, step: Step) -> dict[str, Any]:
        keys = ("task_uuid", "step_uuid", "position", "map_index", "fence")
        said: dict[str, Any] = {key: step[key] for key in keys} | {"may_continue": self.random.random() < 0.7}
        if step.get("delegated") and self.random.random() < 0.8:
            return said | {"status": "delegated", "deadline_seconds": self.random.choice([0, 0.3, 1])}
        if self.random.random() < 0.8:
            return said | {"status": "complete", "results": {"position": step["position"]}}
        return said | {"status": "error", "error": {"message": "boom", "retryable": self.random.random() < 0.7}}

    def release(self) -> None:
        chosen = self.random.sample(sorted(self.me.held), self.random.randint(0, min(len(self.me.held), 4)))
        steps = [self.me.held[key][1] for key in chosen]
        self.ask(self.me, "release_steps", {"executor": self.me.uuid, "steps": steps, "finished": []})
        for key in chosen:
            del self.me.held[key]

    def repeat(self) -> None:
        """An old call arrives once more, whatever has happened since."""
        if self.me.sent:
            function, request = self.random.choice(self.me.sent)
            if request.get("call_no", self.me.oldest()) >= self.me.oldest():
                answer = self.atomically(lambda: self.core.call(function, request))
                if answer and "steps" in answer:
                    self.receive(self.me, answer)

    def heartbeat(self) -> None:
        answer = self.atomically(lambda: self.me.heartbeat(self.me.oldest()))
        for lost in (answer or {}).get("steps_lost", []):
            self.me.held.pop((lost["step_uuid"], lost["fence"]), None)

    def mark(self) -> None:
        steps = [step for _, step in self.me.held.values()][:3]
        answer = self.atomically(
            lambda: self.core.call("mark_steps_started", {"executor": self.me.uuid, "steps": steps})
        )
        for step, started in zip(steps, (answer or {}).get("started", []), strict=False):
            if not started:
                self.me.held.pop((step["step_uuid"], step["fence"]))

    def forget(self) -> None:
        """Its answers never arrived, and it goes on without them."""
        self.me.held.clear()
        self.me.open_calls.clear()
        self.heartbeat()

    def die(self) -> None:
        self.ghosts = [*self.ghosts[-2:], self.me]
        self.me = Incarnation(self.core)

    def come_late(self) -> None:
        """An executor that was thought dead reports."""
        if self.ghosts:
            self._complete(self.random.choice(self.ghosts))

    def deregister(self) -> None:
        self.ask(self.me, "deregister_executor", {"executor": self.me.uuid, "finished": self.me.finished()})
        self.me = Incarnation(self.core)

    # -- orchestration ----------------------------------------------------------------------------------------

    def create(self) -> None:
        if self.core.one("SELECT count(*) FROM tasker.tasks WHERE finished_at IS NULL") >= MOST_OPEN_TASKS:
            return
        name = self.random.choices(list(GRAPHS), [4, 4, 4, 3, 4, 3, 4, 0.3])[0]
        more: dict[str, Any] = {"priority": self.random.randint(-5, 5)}
        if self.random.random() < 0.2:
            more["run_at"] = str(self.core.one("SELECT clock_timestamp() + interval '200 milliseconds'"))
        self.world.tasks += self.atomically(lambda: self.core.create(name, self.random.randint(1, 4), **more)) or []

    def sweep(self) -> None:
        more = {
            "lease_seconds": LEASE_SECONDS,
            "limit": self.random.randint(1, 20),
            "net_page": self.random.choice([0, 5]),
        }
        self.atomically(lambda: sweep(self.core, **more))

    def admit(self) -> None:
        by = {"processor": self.name}
        answer = self.atomically(lambda: self.core.call("claim_ready_tasks", {**by, "limit": 10, "timeout_seconds": 1}))
        ids = [task["task_uuid"] for task in (answer or {}).get("tasks", [])]
        if ids and self.random.random() < 0.15:
            bad = [{"task_uuid": ids.pop(), "reason": "invalid_context", "message": "no"}]
            self.atomically(lambda: self.core.call("reject_tasks", {**by, "tasks": bad}))
        if self.random.random() < 0.9:
            self.atomically(lambda: self.core.call("enqueue_ready_steps", {**by, "task_uuids": ids}))

    def enqueue_deferred(self) -> None:
        self.atomically(lambda: self.core.call("enqueue_deferred_steps", {"limit": self.random.randint(1, 5)}))

    def deliver(self) -> None:
        """Steps that run elsewhere answer, some of them twice, some never."""
        while self.random.random() < 0.7:
            with self.world.lock:
                if not self.world.delegated:
                    return
                place = self.random.randrange(len(self.world.delegated))
                step = self.world.delegated[place]
                if self.random.random() < 0.8:
                    del self.world.delegated[place]
            message = {key: step[key] for key in ("task_uuid", "step_uuid", "fence", "executor")}
            message |= self.random.choice(
                [
                    {"status": "complete", "results": 1},
                    {"status": "error", "error": {"message": "boom", "type": "Boom"}},
                ]
            )
            send = "SELECT FROM pgmq.send('orchestration_step_results', %s)"
            self.core.rows(send, Jsonb(message))

    def process_results(self) -> None:
        def process() -> None:
            read = "SELECT msg_id, message FROM tasker.queue_read('orchestration_step_results', 1, 10)"
            messages = [{"msg_id": msg_id, "outcome": body} for msg_id, body in self.core.rows(read)]
            self.core.call("process_step_results", {"messages": messages, "deadline_limit": 5})

        self.atomically(process)

    def finalize(self) -> None:
        request = {"processor": self.name, "limit": self.random.randint(1, 5), "timeout_seconds": 1}
        answer = self.atomically(lambda: self.core.call("claim_tasks_for_finalization", request))
        for claim in (answer or {}).get("claims", []):
            time.sleep(self.random.choice([0, 0, 0, 0.01]))
            done = {"processor": self.name, **{key: claim[key] for key in ("task_uuid", "claim_no", "msg_id")}}
            if self.random.random() < 0.8:
                self.atomically(lambda done=done: self.core.call("finalize_task", done))  # type: ignore[misc]
        self.core.call("resend_finalizations", 10)

    # -- an operator ------------------------------------------------------------------------------------------

    def some(self, count: int = 1) -> list[str]:
        """Tasks that are open, or were until a moment ago."""
        recent = self.world.tasks[-2 * MOST_OPEN_TASKS :]
        chosen = self.random.sample(recent, min(4 * count, len(recent)))
        query = "SELECT task_uuid FROM tasker.tasks WHERE task_uuid = ANY (%s) ORDER BY finished_at IS NOT NULL"
        return [str(row[0]) for row in self.core.rows(query, chosen)][:count]

    def act(self, action: str, request: dict[str, Any]) -> None:
        self.atomically(lambda: self.core.call(action, {**request, "by": self.name, "reason": "a whim"}))

    def pause_or_resume(self) -> None:
        action = self.random.choice(["pause_tasks", "resume_tasks", "resume_tasks"])
        paused = [str(row[0]) for row in self.core.rows("SELECT task_uuid FROM tasker.tasks WHERE state = 'paused'")]
        self.act(action, {"task_uuids": paused[:5] if action == "resume_tasks" else self.some(3)})

    def cancel(self) -> None:
        self.act("cancel_tasks", {"task_uuids": self.some(2)})

    def retry(self) -> None:
        for (task,) in self.core.rows(
            "SELECT task_uuid FROM tasker.tasks WHERE state = 'error' ORDER BY random() LIMIT 1"
        ):
            self.act("retry_task", {"task_uuid": str(task)})

    def reset(self) -> None:
        for task in self.some():
            self.act("reset_step", {"task_uuid": task, "position": self.random.randint(0, 3)})

    def resolve(self) -> None:
        for task in self.some():
            self.act(
                "resolve_step", {"task_uuid": task, "position": self.random.randint(0, 5), "results": {"by": "hand"}}
            )

    def resolve_task(self) -> None:
        for task in self.some():
            self.act("resolve_task", {"task_uuid": task})


def observe(world: World) -> None:
    """Check the invariants again and again, from outside."""
    core = Core(world.url)
    core.move_clock(5)  # a cancelled deadline is due at the time of its canceller, which may have begun after this look
    while not world.stop.wait(0.5):
        world.problems += core.broken_rules()
        world.problems += [f"lost message: {row}" for row in lost_messages(core)]
    core.close()


def run_to_the_end(core: Core) -> None:
    """Resume what is paused, recover what is lost, run everything that is left, and finalize it."""
    core.rows("SELECT tasker.deregister_executor(jsonb_build_object('executor', executor)) FROM tasker.executors")
    paused = [str(row[0]) for row in core.rows("SELECT task_uuid FROM tasker.tasks WHERE state = 'paused'")]
    core.call("resume_tasks", {"task_uuids": paused})
    worker = core.executor(*QUEUES)

    def all_done() -> bool:
        worker.heartbeat()
        sweep(core)
        core.call("process_step_results", {"deadline_limit": 100})
        while core.call("enqueue_deferred_steps", {"limit": 100})["taken"]:
            pass
        ready = core.call("claim_ready_tasks", {"processor": "last", "limit": 100})["tasks"]
        core.call("enqueue_ready_steps", {"processor": "last", "task_uuids": [task["task_uuid"] for task in ready]})
        worker.run_all(continue_limit=4)
        core.call("resend_finalizations", 100)
        claims = core.call("claim_tasks_for_finalization", {"processor": "last", "limit": 200})["claims"]
        for claim in claims:
            core.call("finalize_task", {"processor": "last", **claim})
        # Of a step's superfluous messages each claim uses up one.
        empty = core.depth("shop_queue") + core.depth("stock_queue") == 0
        return empty and bool(core.one("SELECT NOT EXISTS (SELECT FROM tasker.tasks WHERE finalized_at IS NULL)"))

    wait_until(all_done, "all tasks to end")


HISTORY: dict[str, str] = {
    "a step completed twice": """
        SELECT task_uuid, position FROM tasker.workflow_step_transitions WHERE to_state = 'complete'
        GROUP BY 1, 2 HAVING count(*) > 1""",
    "a step's history has a gap": """
        SELECT * FROM (
            SELECT task_uuid, position, from_state, to_state, fence, at,
                   lag(to_state, 1, 'pending') OVER (PARTITION BY task_uuid, position ORDER BY at) AS before
            FROM tasker.workflow_step_transitions) AS t
        WHERE from_state <> before""",
    "a step's state is not where its history ends": """
        SELECT s.task_uuid, s.position, s.state, h.to_state FROM tasker.workflow_steps AS s
        JOIN (SELECT DISTINCT ON (task_uuid, position) task_uuid, position, to_state
              FROM tasker.workflow_step_transitions
              ORDER BY task_uuid, position, at DESC) AS h USING (task_uuid, position)
        WHERE s.state <> h.to_state""",
    "a fence was used twice, or none": """
        SELECT s.task_uuid, s.position, s.fence, h.claims, h.fences FROM tasker.workflow_steps AS s
        JOIN (SELECT task_uuid, position, count(*) AS claims, count(DISTINCT fence) AS fences
              FROM tasker.workflow_step_transitions WHERE to_state = 'in_progress'
              GROUP BY 1, 2) AS h USING (task_uuid, position)
        WHERE h.claims <> s.fence OR h.fences <> s.fence""",
    "a task was reopened without a new finish_no": """
        SELECT t.task_uuid, t.finish_no, h.n FROM tasker.tasks AS t
        JOIN (SELECT task_uuid, count(*) FILTER (WHERE from_state = 'error') AS n
              FROM tasker.task_transitions GROUP BY 1) AS h USING (task_uuid)
        WHERE t.finish_no <> h.n + 1""",
    "a finish was finalized twice": """
        SELECT task_uuid, finish_no FROM tasker.finalization_attempts WHERE outcome = 'finalized'
        GROUP BY 1, 2 HAVING count(*) > 1""",
    "a counter of the end is wrong": """
        SELECT t.task_uuid, t.state, t.open, t.failed FROM tasker.tasks AS t
        JOIN (SELECT task_uuid, count(*) FILTER (WHERE finished_at IS NULL) AS open,
                     count(*) FILTER (WHERE state = 'error') AS failed
              FROM tasker.workflow_steps GROUP BY 1) AS s USING (task_uuid)
        WHERE t.open <> s.open OR t.failed <> s.failed
           OR t.state = 'complete' AND s.open + s.failed > 0 OR t.state = 'error' AND s.open + s.failed = 0""",
    "something was left behind": """
        SELECT 'timer', to_jsonb(w) FROM tasker.step_timers AS w
        UNION ALL SELECT 'message', message FROM pgmq.q_shop_queue
        UNION ALL SELECT 'message', message FROM pgmq.q_stock_queue
        UNION ALL SELECT 'message', message FROM pgmq.q_step_enqueue
        UNION ALL SELECT 'receipt', to_jsonb(c) FROM tasker.step_claims AS c
        UNION ALL SELECT 'message', snapshot FROM tasker.dead_letters WHERE kind = 'message'""",
}


def broken_history(core: Core) -> Sequence[str]:
    return [f"{rule}: {row}" for rule, query in HISTORY.items() for row in core.rows(query)]


@pytest.mark.parametrize(
    "seconds", [20, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(900)])], ids=["short", "long"]
)
def test_whatever_sessions_do_at_once_nothing_is_lost_doubled_or_stuck(core: Core, seconds: float) -> None:
    seed = os.environ.get("TASKER_TEST_SEED") or str(random.SystemRandom().randint(0, 2**32))
    print(f"TASKER_TEST_SEED={seed}")
    world = World(core)
    sessions = [Session(world, f"{seed}-{number}") for number in range(SESSIONS)]
    threads = [threading.Thread(target=session.run) for session in sessions]
    threads.append(threading.Thread(target=observe, args=[world]))
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not world.problems:
        time.sleep(0.05)
    world.stop.set()
    for thread in threads:
        thread.join(60)
    for session in sessions:
        session.core.close()
    assert world.problems[:10] == []
    run_to_the_end(core)
    assert broken_history(core) == []
    ends = core.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY 1 ORDER BY 1")
    print(f"{world.calls} calls, tasks by end: {dict(ends)}")
    assert dict(ends).get("complete", 0) > 0
