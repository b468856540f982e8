"""What orchestration executors and finalizers call."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.races.calls_of_executors import ExecutorCalls
from tests.races.comparing import PROCESSORS, action, has_free_task, has_seen_steps_ever, verdicts
from tests.races.model import CLAIM_SECONDS, TERMINAL, Task


class OrchestrationCalls(ExecutorCalls):
    """Results by message, deferred messages, admission, finalization."""

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
