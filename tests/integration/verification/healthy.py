"""A database in which tasks and steps are in every state there is, each reached as it is reached in life."""

from __future__ import annotations

import uuid
from typing import Any

from tests.sql_kit import DIAMOND, Core, Graph, Worker, fan, sweep

PAIR: Graph = {"a": [], "b": ["a"]}
HOUR_MS = 3_600_000


class Healthy:
    """The tasks by what became of them. Each kind has a namespace and thus a queue of its own, named like it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.tasks: dict[str, str] = {}
        self.executors: dict[str, Worker] = {}

    def start(self, kind: str, graph: Graph = PAIR, *, request: dict[str, Any] | None = None, **definition: Any) -> str:
        """Register the kind's workflow and create its one task."""
        self.core.register("work", graph, namespace=kind, **definition)
        (self.tasks[kind],) = self.core.create("work", namespace=kind, **(request or {}))
        return self.tasks[kind]

    def worker(self, kind: str) -> Worker:
        """An executor of the kind's queue."""
        self.executors[kind] = self.core.executor(f"{kind}_queue")
        return self.executors[kind]

    def act(self, action: str, kind: str, **more: Any) -> None:
        """An operator's action on the kind's task."""
        task = self.tasks[kind]
        many = {"cancel_tasks", "pause_tasks", "resume_tasks"}
        named = {"task_uuids": [task]} if action in many else {"task_uuid": task}
        self.core.call(action, {**named, "by": "ann", "reason": "she knows", **more})

    # -- work that goes well --------------------------------------------------------------------------------------

    def complete(self) -> None:
        self.start("complete", DIAMOND)
        self.worker("complete").run_all()

    def continued(self) -> None:
        self.start("continued", DIAMOND)
        self.worker("continued").run_all(continue_limit=4)

    def enqueued(self) -> None:
        self.start("enqueued")

    def half_way(self) -> None:
        self.start("half_way", DIAMOND)
        worker = self.worker("half_way")
        worker.complete(worker.claim())

    def running(self) -> None:
        self.start("running")
        self.worker("running").claim()

    def released(self) -> None:
        self.start("released")
        worker = self.worker("released")
        worker.release(worker.claim(), finished=[1])

    def deferred(self) -> None:
        self.start("deferred", fan(600))
        worker = self.worker("deferred")
        worker.complete(worker.claim())

    def many_roots(self) -> None:
        self.start("many_roots", {f"r{index}": [] for index in range(300)})

    def unique(self) -> None:
        self.start("unique", request={"identity_key": "order 7"})
        self.core.create("work", namespace="unique", identity_key="order 7")

    def child(self) -> None:
        self.start("parent")
        self.start("child", request={"parent_task_uuid": self.tasks["parent"]})

    # -- what fails, and what is done about it --------------------------------------------------------------------

    def waiting(self) -> None:
        self.start("waiting", step={"backoff": "fixed", "backoff_base_ms": HOUR_MS})
        worker = self.worker("waiting")
        worker.fail(worker.claim())

    def second_try(self) -> None:
        self.start("second_try", {"a": []})
        worker = self.worker("second_try")
        worker.fail(worker.claim())
        worker.run_all()

    def failed(self, kind: str = "failed") -> None:
        self.start(kind, step={"max_attempts": 1})
        worker = self.worker(kind)
        worker.fail(worker.claim())

    def retried(self) -> None:
        self.failed("retried")
        self.act("retry_task", "retried")
        self.executors["retried"].run_all()

    def reset(self) -> None:
        self.failed("reset")
        self.act("reset_step", "reset", step="a")

    def reset_while_it_ran(self) -> None:
        self.start("reset_running")
        late = self.worker("reset_running")
        steps = late.claim()
        self.act("reset_step", "reset_running", step="a")
        late.complete(steps)

    def reset_while_it_waited(self) -> None:
        self.start("reset_waiting", step={"backoff": "fixed", "backoff_base_ms": HOUR_MS})
        worker = self.worker("reset_waiting")
        worker.fail(worker.claim())
        self.act("reset_step", "reset_waiting", step="a")
        worker.fail(worker.claim())
        self.act("reset_step", "reset_waiting", step="a")
        worker.release(worker.claim(), finished=[worker.call_no])
        self.act("reset_step", "reset_waiting", step="a")

    def resolved(self) -> None:
        self.failed("resolved")
        self.act("resolve_step", "resolved", step="a", results={"by": "hand"})
        self.executors["resolved"].run_all()

    def resolved_before_its_turn(self) -> None:
        self.start("resolved_early")
        self.act("resolve_step", "resolved_early", step="b", results={})

    def task_resolved(self) -> None:
        self.failed("task_resolved")
        self.act("resolve_task", "task_resolved")

    def cancelled(self) -> None:
        self.start("cancelled")
        worker = self.worker("cancelled")
        steps = worker.claim()
        self.act("cancel_tasks", "cancelled")
        worker.complete(steps)

    def cancelled_with_a_failure(self) -> None:
        self.start("cancelled_failing", {"a": [], "b": []}, step={"max_attempts": 1})
        worker = self.worker("cancelled_failing")
        worker.fail(worker.claim(1))
        self.act("cancel_tasks", "cancelled_failing")

    # -- executors that die ---------------------------------------------------------------------------------------

    def lost(self) -> None:
        self.start("lost")
        worker = self.worker("lost")
        worker.claim()
        worker.die()
        sweep(self.core)

    def poison(self) -> None:
        self.start("poison", {"a": []})
        for _ in range(5):
            worker = self.worker("poison")
            worker.claim()
            worker.die()
            sweep(self.core)

    def outcome_unknown(self) -> None:
        self.start("unknown", {"a": []}, step={"retryable": False})
        worker = self.worker("unknown")
        self.core.call("mark_steps_started", {"executor": worker.uuid, "steps": worker.claim()})
        worker.die()
        sweep(self.core)

    def answer_lost(self) -> None:
        self.start("answer_lost")
        worker = self.worker("answer_lost")
        worker.claim()
        worker.heartbeat(oldest_call_no=2)
        sweep(self.core)

    def deregistered(self) -> None:
        self.start("deregistered")
        worker = self.worker("deregistered")
        worker.claim()
        self.core.call("deregister_executor", {"executor": worker.uuid, "finished": []})
        sweep(self.core)

    # -- steps that run elsewhere, or later -----------------------------------------------------------------------

    def delegated(self, kind: str = "delegated", seconds: float = 3600) -> None:
        self.start(kind, step={"delegated": True, "timeout_seconds": 3600, "backoff_base_ms": HOUR_MS})
        worker = self.worker(kind)
        worker.complete(worker.claim(), outcome={"status": "delegated", "deadline_seconds": seconds}, finished=[1])

    def timed_out(self) -> None:
        self.delegated("timed_out", 0)
        self.core.call("process_step_results", {"deadline_limit": 100})

    def delegated_and_cancelled(self) -> None:
        """Its Celery task has not been revoked yet."""
        self.delegated("delegated_cancelled")
        self.act("cancel_tasks", "delegated_cancelled")

    def parked(self) -> None:
        task = self.start("parked")
        self.core.rows_affected("DELETE FROM pgmq.q_parked_queue")
        self.core.rows_affected(
            """INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)
               VALUES (%s, 0, 'retry', 'parked_queue', tasker.now() + interval '1 hour', tasker.now(), 0)""",
            task,
        )

    # -- paused, and not admitted ---------------------------------------------------------------------------------

    def paused(self) -> None:
        self.start("paused", DIAMOND)
        worker = self.worker("paused")
        steps = worker.claim()
        self.act("pause_tasks", "paused")
        worker.complete(steps)

    def paused_while_it_waited(self) -> None:
        self.start("paused_waiting")
        worker = self.worker("paused_waiting")
        worker.fail(worker.claim())
        self.act("pause_tasks", "paused_waiting")
        assert worker.claim() == []

    def resumed(self) -> None:
        self.start("resumed", DIAMOND)
        worker = self.worker("resumed")
        steps = worker.claim()
        for _ in range(2):
            self.act("pause_tasks", "resumed")
            self.act("resume_tasks", "resumed")
        worker.complete(steps)

    def scheduled(self) -> None:
        self.start("scheduled", request={"run_at": "2100-01-01T00:00:00Z"})
        self.act("resolve_step", "scheduled", step="a", results={})

    def scheduled_and_paused(self) -> None:
        self.start("scheduled_paused", request={"run_at": "2100-01-01T00:00:00Z"})
        self.act("pause_tasks", "scheduled_paused")

    def scheduled_and_cancelled(self) -> None:
        self.start("scheduled_cancelled", request={"run_at": "2100-01-01T00:00:00Z"})
        self.act("cancel_tasks", "scheduled_cancelled")

    def unchecked(self, kind: str = "unchecked") -> None:
        self.start(kind, request={"context": {"n": "one"}}, input_schema={"type": "object"})

    def admission(self) -> None:
        """All that waits is claimed: one is refused, one refused and retried, one admitted, one stays claimed."""
        for kind in ("refused", "refused_retried", "admitted", "empty"):
            self.unchecked(kind)
        for step in PAIR:
            self.act("resolve_step", "empty", step=step, results={})
        self.unchecked("claimed")
        self.core.call("claim_ready_tasks", {"processor": "p", "limit": 100, "timeout_seconds": 36_000})
        bad = [{"task_uuid": self.tasks[kind], "reason": "bad"} for kind in ("refused", "refused_retried")]
        self.core.call("reject_tasks", {"processor": "p", "tasks": bad})
        self.act("retry_task", "refused_retried")
        good = [self.tasks[kind] for kind in ("admitted", "empty")]
        self.core.call("enqueue_ready_steps", {"processor": "p", "task_uuids": good})

    # -- after-work -----------------------------------------------------------------------------------------------

    def hooked(self, kind: str = "hooked") -> None:
        self.start(kind, {"a": []}, has_after_work=True, step={"max_attempts": 1})
        self.worker(kind).run_all()

    def finalizing(self) -> None:
        self.hooked("finalizing")
        self._claim_finalization("finalizing", "f1")

    def finalized(self) -> None:
        self.hooked("finalized")
        self._claim_finalization("finalized", "f1")
        self.core.call("release_finalization_claim", self.tasks["finalized"], "f1", 1)
        self._finalize("finalized", "f2")

    def finalized_twice(self) -> None:
        self.start("finalized_twice", {"a": []}, has_after_work=True, step={"max_attempts": 1})
        worker = self.worker("finalized_twice")
        worker.fail(worker.claim())
        self._finalize("finalized_twice", "f1")
        self.act("retry_task", "finalized_twice")
        worker.run_all()
        self._finalize("finalized_twice", "f2")

    def _claim_finalization(self, kind: str, processor: str) -> int:
        return int(
            self.core.one(
                "SELECT claim_no FROM tasker.claim_task_for_finalization(CAST(%s AS uuid), %s, 36000)",
                self.tasks[kind],
                processor,
            )
        )

    def _finalize(self, kind: str, processor: str) -> None:
        task = self.tasks[kind]
        request = {"task_uuid": task, "processor": processor, "claim_no": self._claim_finalization(kind, processor)}
        assert self.core.call("finalize_task", request)["answer"] == "finalized"
        self.core.rows_affected("DELETE FROM pgmq.q_task_finalization WHERE message->>'task_uuid' = %s", task)

    # -- messages -------------------------------------------------------------------------------------------------

    def odd_messages(self) -> None:
        """One that nobody understands, one of a task that is gone, and one that came twice; after a claim."""
        self.start("messages")
        self.core.rows_affected(
            "INSERT INTO pgmq.q_messages_queue (vt, message) SELECT vt, message FROM pgmq.q_messages_queue"
        )
        for message in ('{"odd": true}', f'{{"task_uuid": "{uuid.uuid4()}", "position": 0, "map_index": 0}}'):
            self.core.rows_affected(
                "INSERT INTO pgmq.q_messages_queue (vt, message) VALUES (clock_timestamp(), CAST(%s AS jsonb))", message
            )
        self.worker("messages").claim()


SCENARIOS = [
    name
    for name, made in vars(Healthy).items()
    if callable(made) and name not in ("__init__", "start", "worker", "act") and not name.startswith("_")
]
"""In the order in which they stand above."""


def build(core: Core) -> Healthy:
    """All scenarios in one database, and executors that live."""
    made = Healthy(core)
    for name in SCENARIOS:
        getattr(made, name)()
    return made
