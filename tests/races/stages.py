"""What two calls fight over: the same two tasks in one of several situations, and how all of it ends afterwards.

A situation is made by calls of the engine alone, except for what only time does (a silent executor, an expired claim).
Before and after it the database holds no unfinished work, so calls that take whatever there is find only this.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from tests.sql_kit import Core, Worker

Step = dict[str, Any]

SHOP, STOCK = "shop_queue", "stock_queue"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_numbers = itertools.count(1)

_GRAPH = {"a": [], "b": [], "c": ["a", "b"]}
"""A join of two. "a" and "c" are of one queue, "b" is of the other: one executor runs each parent."""


def define(core: Core) -> None:
    """Register the workflows of all situations, once for a database."""
    workflows: dict[str, dict[str, Any]] = {
        "plain": {"step": {"max_attempts": 2}},
        "once": {"step": {"retryable": False}},
        "delegated": {"step": {"max_attempts": 2, "delegated": True, "timeout_seconds": 60}},
        "checked": {"step": {"max_attempts": 2}, "input_schema": {"type": "object"}},
    }
    steps: dict[str, dict[str, Any]] = {"b": {"namespace": "stock", "delegated": False}, "c": {"delegated": False}}
    for name, more in workflows.items():
        core.register(name, _GRAPH, steps=steps, has_after_work=True, lifecycle={"max_duration_minutes": 60}, **more)


class Holder:
    """An executor of the stage: what it was given, and by which of its calls."""

    def __init__(self, stage: Stage, label: str, *queues: str) -> None:
        self.worker = Worker(stage.core, queues)
        self.held: list[Step] = []
        stage.labels[self.worker.uuid] = label

    @property
    def uuid(self) -> str:
        return self.worker.uuid

    def without_session(self) -> Holder:
        """A copy that another process may have."""
        there = copy.copy(self)
        there.worker = copy.copy(self.worker)
        there.worker.core = None  # type: ignore[assignment]
        return there

    def claim(self) -> None:
        self.held = self.worker.claim(50)
        assert self.held

    def next_call(self, turn: int) -> int:
        """The number of a call that is made in a race; ``turn`` counts its repeats."""
        return self.worker.call_no + 1 + turn


@dataclass
class Stage:
    """Tasks in one situation (two, or "count"), who holds what of them, and names for all that has an id."""

    core: Core
    situation: str
    count: int = 2
    tag: str = ""
    tasks: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict)
    effects: Counter[tuple[str, int]] = field(default_factory=Counter)
    alone: dict[str, Any] = field(default_factory=dict)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.tag = f"n{next(_numbers)}"
        self.first = Holder(self, "first", SHOP)
        self.second = Holder(self, "second", STOCK)
        self.third = Holder(self, "third", SHOP, STOCK)
        self.fourth = Holder(self, "fourth", STOCK, SHOP)
        SITUATIONS[self.situation](self)
        self.labels |= {uuid: f"task {number}" for number, uuid in enumerate(self.tasks, 1)}

    def create(self, name: str, **request: Any) -> None:
        self.tasks = sorted(self.core.create(name, self.count, **request))

    def step(self, task: int, position: int) -> Step:
        """Where a step is; its fence is that of whoever was given it."""
        uuid = self.tasks[task]
        for held in (*self.first.held, *self.second.held):
            if (held["task_uuid"], held["position"]) == (uuid, position):
                return held
        return {
            "task_uuid": uuid,
            "step_uuid": str(self.core.one("SELECT tasker.step_uuid(%s::uuid, %s, 0)", uuid, position)),
            "position": position,
            "map_index": 0,
            "fence": 1,
        }

    def named(self, text: str) -> str:
        """A text with all ids replaced by what they mean here."""
        return _UUID.sub(lambda found: self.labels.get(found[0], "another"), text)

    def send(self, queue: str, message: dict[str, Any], *, read: bool) -> int:
        """Put a message on a queue; with ``read``, as if somebody had just read it."""
        delay = 60 if read else 0
        return int(self.core.one("SELECT pgmq.send(%s, %s, %s)", queue, Jsonb(message), delay))

    def result(self, step: Step) -> dict[str, Any]:
        """The message by which a step of the first executor reports success from elsewhere."""
        keys = ("task_uuid", "step_uuid", "fence")
        return {"executor": self.first.uuid, "status": "complete", "results": 1} | {key: step[key] for key in keys}

    # -- what there is --------------------------------------------------------------------------------------------

    def digest(self, core: Core | None = None) -> str:
        """The state of everything on the stage, ids replaced by names."""
        about = {"from": self.tasks[0], "executors": list(self.labels)}
        found = (core or self.core).connection.execute(_DIGEST, about).fetchone()
        assert found is not None
        return self.named(found[0])

    def end(self, driver: Worker) -> list[str]:
        """Let time pass and run everything to its end; returns what is wrong then."""
        core = self.core
        self.is_over = True
        core.move_clock(86400)
        core.connection.execute(_TIME_PASSES.encode())
        for _ in range(8):
            read = "SELECT msg_id, message FROM tasker.queue_read('orchestration_step_results', 60, 10)"
            messages = [{"msg_id": msg_id, "outcome": body} for msg_id, body in core.rows(read)]
            core.call("recover_lost_steps", {"lease_seconds": 15, "net_page": 100})
            results = core.call("process_step_results", {"messages": messages})
            self.count_effects(messages, results["outcomes"])
            core.call("enqueue_deferred_steps", {"limit": 10})
            ready = core.call("claim_ready_tasks", {"processor": "driver", "limit": 10})["tasks"]
            if ready:
                uuids = [task["task_uuid"] for task in ready]
                core.call("enqueue_ready_steps", {"processor": "driver", "task_uuids": uuids})
            while steps := driver.claim(50):
                while steps:
                    answer = driver.complete(steps, continue_limit=10, finished=[driver.call_no])
                    self.count_effects(steps, answer["outcomes"])
                    steps = answer["steps"]
            core.call("resend_finalizations", 10)
            claims = core.call("claim_tasks_for_finalization", {"processor": "driver", "limit": 50})["claims"]
            for claim in claims:
                core.call("finalize_task", {"processor": "driver", **claim})
            if core.one(_ALL_DONE, self.tasks[0]):
                break
            core.connection.execute(_TIME_PASSES.encode())
        else:
            return [f"not everything ended: {self.digest()}"]
        core.move_clock(0)
        about = {"from": self.tasks[0]}
        wrong = core.connection.execute(_LEFT_BEHIND, about).fetchall()
        problems = [f"{self.named(str(row[0]))} was left behind" for row in wrong]
        for task, position, completions in core.connection.execute(_COMPLETED, about).fetchall():
            if self.effects[str(task), position] != completions:
                problems.append(
                    f"step {position} of {self.labels.get(str(task), 'another')} took effect"
                    f" {self.effects[str(task), position]} times; the tables say {completions}"
                )
        return problems

    def count_effects(self, steps: list[Any], answers: list[Any]) -> None:
        """Count completions that were accepted, each for its step; ``steps``: the outcomes or their messages."""
        for sent, said in zip(steps, answers, strict=True):
            outcome = sent.get("outcome", sent)
            if said["answer"] == "accepted" and said["reason"] is None and said["state"] == "complete":
                position = outcome.get("position")
                if position is None:
                    key = "SELECT step_position FROM tasker.step_key(%s::uuid, %s::uuid)"
                    position = self.core.one(key, outcome["task_uuid"], outcome["step_uuid"])
                self.effects[outcome["task_uuid"], position] += 1


_DIGEST = """
SELECT json_build_object(
    'tasks', (SELECT json_agg(json_build_array(
            t.task_uuid, t.state, t.active, t.open, t.failed, t.admitted_at IS NOT NULL, t.context_checked, t.scheduled,
            t.claimed_by, t.finished_at IS NOT NULL, t.finalized_at IS NOT NULL, t.finish_no, t.claim_no,
            t.finalization_claimed_by) ORDER BY t.task_uuid)
        FROM tasker.tasks AS t WHERE t.task_uuid >= %(from)s),
    'steps', (SELECT json_agg(json_build_array(
            s.task_uuid, s.position, s.state, s.unmet, s.fence, s.attempts, s.losses,
            CASE WHEN s.state IN ('in_progress', 'complete') THEN s.executor END, s.start_marked_at IS NOT NULL,
            s.error->>'type') ORDER BY s.task_uuid, s.position)
        FROM tasker.workflow_steps AS s WHERE s.task_uuid >= %(from)s),
    'timers', (SELECT json_agg(json_build_array(w.task_uuid, w.position, w.kind, w.fence, w.due_at <= clock_timestamp())
            ORDER BY w.task_uuid, w.position)
        FROM tasker.step_timers AS w),
    'receipts', (SELECT json_agg(json_build_array(c.executor, k.task_uuid, k.p, k.fence)
            ORDER BY array_position(%(executors)s::text[], c.executor::text), k.task_uuid, k.p, k.fence)
        FROM tasker.step_claims AS c
        CROSS JOIN LATERAL unnest(c.task_uuids, c.positions, c.fences) AS k(task_uuid, p, fence)),
    'executors', (SELECT json_agg(json_build_array(
            e.executor, e.lost_at IS NOT NULL, e.stop_requested, e.idle, e.oldest_call_no,
            e.next_call_no, e.held_calls)
            ORDER BY array_position(%(executors)s::text[], e.executor::text))
        FROM tasker.executors AS e WHERE e.executor::text = ANY (%(executors)s)),
    'letters', (SELECT json_agg(json_build_array(d.kind, d.task_uuid, d.position, d.reason, d.resolution)
            ORDER BY d.task_uuid, d.position, d.reason, d.resolution)
        FROM tasker.dead_letters AS d WHERE d.task_uuid >= %(from)s),
    'messages', json_build_array(
        (SELECT count(*) FROM pgmq.q_task_requests_queue), (SELECT count(*) FROM pgmq.q_orchestration_step_results),
        (SELECT count(*) > 0 FROM pgmq.q_task_finalization), (SELECT count(*) > 0 FROM pgmq.q_step_enqueue)),
    'registers', json_build_array(
        (SELECT count(*) FROM tasker.workers), (SELECT count(*) FROM tasker.waiters),
        (SELECT json_agg(json_build_array(x.cron, x.next_due_at, x.paused_at IS NULL, x.fired, x.failure))
         FROM tasker.schedules AS x),
        (SELECT count(*) FROM tasker.namespaces))
)::text
"""

_TIME_PASSES = """
SELECT tasker.deregister_executor(jsonb_build_object('executor', executor)) FROM tasker.executors
WHERE worker <> 'driver';
UPDATE pgmq.q_task_finalization SET vt = clock_timestamp();
UPDATE pgmq.q_orchestration_step_results SET vt = clock_timestamp();
SELECT tasker.resume_tasks(jsonb_build_object('task_uuids', (
    SELECT jsonb_agg(task_uuid) FROM tasker.tasks WHERE finished_at IS NULL AND state = 'paused'))) WHERE EXISTS (
    SELECT FROM tasker.tasks WHERE finished_at IS NULL AND state = 'paused');
DELETE FROM pgmq.q_task_requests_queue;
DELETE FROM tasker.workers;
DELETE FROM tasker.waiters;
SELECT pgmq.drop_queue(queue_name) FROM pgmq.meta WHERE queue_name = 'race_namespace_queue';
DELETE FROM tasker.schedules;
DELETE FROM tasker.namespaces WHERE name = 'race_namespace';
"""
"""What is alive falls silent, what was read shows again. Requests and registrations are the test's own: they go."""

_LEFT_BEHIND = """
SELECT 'a timer: ' || to_jsonb(w)::text AS what FROM tasker.step_timers AS w
UNION ALL SELECT 'a step message: ' || message::text FROM pgmq.q_shop_queue
UNION ALL SELECT 'a step message: ' || message::text FROM pgmq.q_stock_queue
UNION ALL SELECT 'a step_enqueue message: ' || message::text FROM pgmq.q_step_enqueue
UNION ALL SELECT 'a result: ' || message::text FROM pgmq.q_orchestration_step_results
UNION ALL SELECT 'a finalization message: ' || message::text FROM pgmq.q_task_finalization
UNION ALL SELECT 'a receipt: ' || to_jsonb(c)::text FROM tasker.step_claims AS c
UNION ALL SELECT 'an open step of a task that is ' || t.state || ': ' || to_jsonb(s)::text
FROM tasker.workflow_steps AS s JOIN tasker.tasks AS t USING (task_uuid)
WHERE s.task_uuid >= %(from)s AND s.finished_at IS NULL AND NOT (t.state = 'error' AND s.state = 'pending')
"""

_ALL_DONE = """
SELECT NOT EXISTS (SELECT FROM tasker.tasks WHERE task_uuid >= %s AND finalized_at IS NULL)
   AND NOT EXISTS (SELECT FROM pgmq.q_shop_queue) AND NOT EXISTS (SELECT FROM pgmq.q_stock_queue)
"""
"""Of a step's superfluous messages each claim may use up one, so that it takes several to empty a queue."""

_COMPLETED = """
SELECT s.task_uuid, s.position, (s.state = 'complete')::integer FROM tasker.workflow_steps AS s
WHERE s.task_uuid >= %(from)s ORDER BY s.task_uuid, s.position
"""


# -- situations -----------------------------------------------------------------------------------------------------


def _ready(stage: Stage) -> None:
    """Two roots of each task lie on their queues."""
    stage.create("plain")


def _running(stage: Stage) -> None:
    """The last two parents of each join run, each on its executor."""
    stage.create("plain")
    stage.first.claim()
    stage.second.claim()


def _orphaned(stage: Stage) -> None:
    """As "running", but the first executor has been silent for longer than its lease."""
    _running(stage)
    _fall_silent(stage)


def _unknown(stage: Stage) -> None:
    """As "orphaned", with steps that may not run twice; one of them has started."""
    stage.create("once")
    stage.first.claim()
    stage.second.claim()
    mark = {"executor": stage.first.uuid, "steps": stage.first.held[:1]}
    stage.core.call("mark_steps_started", mark)
    _fall_silent(stage)


def _waiting(stage: Stage) -> None:
    """One parent of each join waits for its retry, which is due; the other runs."""
    _running(stage)
    answer = stage.first.worker.fail(stage.first.held)
    assert {said["state"] for said in answer["outcomes"]} == {"waiting_for_retry"}


def _last(stage: Stage) -> None:
    """The last step of each task runs."""
    _running(stage)
    stage.count_effects(stage.second.held, stage.second.worker.complete(stage.second.held)["outcomes"])
    stage.count_effects(stage.first.held, stage.first.worker.complete(stage.first.held)["outcomes"])
    stage.second.held = []
    stage.first.claim()


def _failed(stage: Stage) -> None:
    """Both tasks ended in error, and wait for a finalizer; one is claimed by "p1"."""
    _running(stage)
    stage.count_effects(stage.second.held, stage.second.worker.complete(stage.second.held)["outcomes"])
    stage.first.worker.fail(stage.first.held, retryable=False)
    stage.core.rows("SELECT * FROM tasker.claim_task_for_finalization(%s, 'p1')", stage.tasks[0])


def _finished(stage: Stage) -> None:
    """Both tasks are complete, and wait for a finalizer; one is claimed by "p1"."""
    _last(stage)
    stage.count_effects(stage.first.held, stage.first.worker.complete(stage.first.held)["outcomes"])
    stage.core.rows("SELECT * FROM tasker.claim_task_for_finalization(%s, 'p1')", stage.tasks[0])


def _over(stage: Stage) -> None:
    """Both tasks ended in error and are final; whoever asks for the same again gets them."""
    keys = [stage.tag, f"{stage.tag} too", *(f"{stage.tag} {number}" for number in range(2, stage.count))]
    requests = [{"namespace": "shop", "name": "plain", "identity_key": key, "context": {"n": 1}} for key in keys]
    stage.tasks = sorted(answer["task_uuid"] for answer in stage.core.create_many(requests[: stage.count]))
    stage.first.claim()
    stage.second.claim()
    stage.count_effects(stage.second.held, stage.second.worker.complete(stage.second.held)["outcomes"])
    stage.first.worker.fail(stage.first.held, retryable=False)
    claims = stage.core.call("claim_tasks_for_finalization", {"processor": "p1", "limit": 50})["claims"]
    for claim in claims:
        stage.core.call("finalize_task", {"processor": "p1", **claim})


def _expired(stage: Stage) -> None:
    """As "finished", but the claim has expired, and the queue is empty."""
    _finished(stage)
    stage.core.connection.execute(
        b"DELETE FROM pgmq.q_task_finalization;"
        b" UPDATE tasker.tasks SET created_at = created_at - interval '1 minute',"
        b" admitted_at = admitted_at - interval '1 minute', finished_at = finished_at - interval '1 minute',"
        b" finalization_claim_expires_at = finalization_claimed_at WHERE finalized_at IS NULL"
    )


def _paused(stage: Stage) -> None:
    """Both tasks are paused: one root runs, the other's message was dropped by a claim."""
    stage.create("plain")
    stage.first.claim()
    stage.core.call("pause_tasks", {"task_uuids": stage.tasks})
    assert stage.second.worker.claim(10) == []


def _paused_waiting(stage: Stage) -> None:
    """Both tasks are paused: one root waits for its retry without a timer, the other runs."""
    _waiting(stage)
    stage.core.call("pause_tasks", {"task_uuids": stage.tasks})
    assert stage.first.worker.claim(10) == []


def _pending(stage: Stage) -> None:
    """Both tasks wait for admission, one of them claimed by "p1"."""
    stage.create("checked")
    claimed = stage.core.call("claim_ready_tasks", {"processor": "p1", "limit": 1})["tasks"]
    assert [task["task_uuid"] for task in claimed] == stage.tasks[:1]


def _scheduled(stage: Stage) -> None:
    """Both tasks were scheduled for a moment that has come."""
    soon = stage.core.one("SELECT (clock_timestamp() + interval '1 hour')::text")
    stage.create("plain", run_at=soon)
    stage.core.rows_affected("UPDATE tasker.tasks SET run_at = created_at WHERE task_uuid = ANY (%s)", stage.tasks)


def _delegated(stage: Stage) -> None:
    """Parents that are to run elsewhere: one does, and is overdue; of the other the result comes before the report."""
    stage.create("delegated")
    stage.first.claim()
    stage.second.claim()
    elsewhere = {"status": "delegated", "deadline_seconds": 0}
    answer = stage.first.worker.complete(stage.first.held[:1], outcome=elsewhere)
    assert {said["answer"] for said in answer["outcomes"]} == {"accepted"}
    stage.send("orchestration_step_results", stage.result(stage.first.held[1]), read=False)


def _deferred(stage: Stage) -> None:
    """Both tasks' roots are enqueued, and their messages left to the StepEnqueuer, as beyond the burst limit."""
    stage.create("plain")
    stage.core.connection.execute(b"DELETE FROM pgmq.q_shop_queue; DELETE FROM pgmq.q_stock_queue")
    for task in stage.tasks:
        stage.send("step_enqueue", {"task_uuid": task, "position": -1, "map_index": 0, "from_index": 0}, read=False)


def _cancelled(stage: Stage) -> None:
    """Both tasks were cancelled under running and delegated steps."""
    _delegated(stage)
    stage.core.call("cancel_tasks", {"task_uuids": stage.tasks, "by": "somebody"})


SITUATIONS: dict[str, Callable[[Stage], None]] = {
    "running": _running,
    "ready": _ready,
    "orphaned": _orphaned,
    "unknown": _unknown,
    "waiting": _waiting,
    "last": _last,
    "failed": _failed,
    "finished": _finished,
    "over": _over,
    "expired": _expired,
    "paused": _paused,
    "paused_waiting": _paused_waiting,
    "pending": _pending,
    "scheduled": _scheduled,
    "delegated": _delegated,
    "deferred": _deferred,
    "cancelled": _cancelled,
}


def _fall_silent(stage: Stage) -> None:
    """The first executor was seen silent one lease ago."""
    stage.core.rows_affected(
        """UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour', suspected_heartbeat =
               heartbeat_at - interval '1 hour', suspected_at = clock_timestamp() - interval '1 hour'
           WHERE executor = %s""",
        stage.first.uuid,
    )
