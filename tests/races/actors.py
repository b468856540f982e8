"""Those that work on tasks: one entry for every call, made on a stage, whatever the situation.

A function that is new needs one entry here or among the bystanders, and takes part in every race
(tests/races/test_matrix.py fails without it). Names are those of the functions, and what is special about the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tests.races.actor import Actor, Call, registering, settled
from tests.races.stages import SHOP, STOCK, Stage, Step
from tests.sql_kit import Core

ACTORS: dict[str, Actor] = {}
actor = registering(ACTORS)


# -- executors ------------------------------------------------------------------------------------------------------


def _claim(core: Core, uuid: str, call_no: int, queues: Sequence[str]) -> Any:
    asked = {"executor": uuid, "call_no": call_no, "queues": list(queues), "limit": 10, "budget_ms": 1000}
    return core.call("claim_steps", asked)


@actor("claim_steps", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _claim(core, stage.third.uuid, stage.third.next_call(turn), (SHOP, STOCK))


@actor("claim_steps:another", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _claim(core, stage.fourth.uuid, stage.fourth.next_call(turn), (STOCK, SHOP))


@actor("claim_steps:repeated", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _claim(core, stage.first.uuid, max(stage.first.worker.call_no, 1) + turn, [SHOP])


def _complete(stage: Stage, core: Core, steps: Sequence[Step], turn: int, said: dict[str, Any], **more: Any) -> Any:
    holder = stage.second if steps and steps[0] in stage.second.held else stage.first
    keys = ("task_uuid", "step_uuid", "position", "map_index", "fence")
    outcomes = [said | {"may_continue": True} | {key: step[key] for key in keys} for step in steps]
    return core.call(
        "complete_steps",
        {
            "executor": holder.uuid,
            "call_no": holder.next_call(turn),
            "queues": [SHOP, STOCK],
            "outcomes": outcomes,
            "finished": list(range(1, holder.next_call(0))),
            "budget_ms": 1000,
            "continue_limit": 4,
            **more,
        },
    )


def _mine(stage: Stage) -> list[Step]:
    """What the first executor holds, or believes to hold."""
    return stage.first.held or [stage.step(0, 0), stage.step(1, 0)]


def _theirs(stage: Stage) -> list[Step]:
    return stage.second.held or [stage.step(0, 1), stage.step(1, 1)]


COMPLETE = {"status": "complete", "results": {"done": True}}


def _failure(**more: Any) -> dict[str, Any]:
    return {"status": "error", "error": {"message": "boom", "type": "Boom", **more}}


@actor("complete_steps", comes_again=True, counts=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _mine(stage)[::-1], turn, COMPLETE)


@actor("complete_steps:the other parents", comes_again=True, counts=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _theirs(stage), turn, COMPLETE)


@actor("complete_steps:one, waiting", counts=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _mine(stage)[:1], turn, COMPLETE, wait=True)


@actor("complete_steps:failed for good", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _mine(stage), turn, _failure(retryable=False))


@actor("complete_steps:failed", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _mine(stage), turn, _failure())


@actor("complete_steps:delegated", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return _complete(stage, core, _mine(stage), turn, {"status": "delegated", "deadline_seconds": 60})


@actor("release_steps")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("release_steps", {"executor": stage.first.uuid, "steps": _mine(stage), "finished": [1]})


@actor("mark_steps_started")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("mark_steps_started", {"executor": stage.first.uuid, "steps": _mine(stage)[::-1]})


@actor("heartbeat")
def _(stage: Stage, core: Core, turn: int) -> Any:
    measured = {"1:0": 5, "2:0": 5, "1:1": 5}
    return core.call("heartbeat", {"executor": stage.first.uuid, "oldest_call_no": 1, "expected_ms": measured})


@actor("heartbeat:answers lost")
def _(stage: Stage, core: Core, turn: int) -> Any:
    oldest = stage.first.next_call(0)
    return core.call("heartbeat", {"executor": stage.first.uuid, "oldest_call_no": oldest})


@actor("heartbeat:nothing held")
def _(stage: Stage, core: Core, turn: int) -> Any:
    told = {"oldest_call_no": 1, "next_call_no": stage.first.next_call(0), "held_calls": []}
    return core.call("heartbeat", {"executor": stage.first.uuid, **told})


@actor("deregister_executor")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("deregister_executor", {"executor": stage.first.uuid, "finished": [1]})


@actor("register_executor")
def _(stage: Stage, core: Core, turn: int) -> Any:
    known = {"executor": stage.first.uuid, "kind": "step_executor", "worker": "test@host", "queues": [SHOP], "pid": 1}
    return core.call("register_executor", known)


@actor("request_executor_stop")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("request_executor_stop", {"executor": stage.first.uuid})


@actor("set_executor_idle")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("set_executor_idle", {"executor": stage.first.uuid, "idle": True})


# -- orchestration --------------------------------------------------------------------------------------------------


@actor("recover_lost_steps", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("recover_lost_steps", {"lease_seconds": 15, "net_page": 10})


def _twin(stage: Stage) -> dict[str, Any]:
    return {"namespace": "shop", "name": "plain", "identity_key": stage.tag, "context": {"n": 1}}


@actor("create_tasks")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return Core.create_many(core, [_twin(stage), _twin(stage) | {"identity_key": f"{stage.tag} too"}])


@actor("create_task")
def _(stage: Stage, core: Core, turn: int) -> Any:
    create = "SELECT tasker.create_task('shop', 'plain', identity_key => %s, context => '{\"n\": 1}')"
    return core.one(create, f"{stage.tag} too")


def _request(stage: Stage) -> None:
    twins = [_twin(stage) | {"identity_key": f"{stage.tag} too"}, _twin(stage)]
    stage.prepared["requests"] = [
        {"msg_id": stage.send("task_requests_queue", twin, read=True), "request": twin} for twin in twins
    ]


@actor("process_task_requests", prepare=_request)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("process_task_requests", {"messages": stage.prepared["requests"]})


def _results(stage: Stage) -> None:
    outcomes = [stage.result(step) for step in (stage.step(1, 0), stage.step(0, 0))]
    queue = "orchestration_step_results"
    stage.prepared["results"] = [
        {"msg_id": stage.send(queue, outcome, read=True), "outcome": outcome} for outcome in outcomes
    ]


@actor("process_step_results", comes_again=True, prepare=_results, counts=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    # Without deadlines: one that is overdue may fire beside a result that another processor has in hand.
    return core.call("process_step_results", {"messages": stage.prepared["results"], "deadline_limit": 0})


@actor("process_step_results:deadlines", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("process_step_results", {"messages": []})


@actor("enqueue_deferred_steps", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("enqueue_deferred_steps", {"limit": 10})


@actor("claim_ready_tasks", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("claim_ready_tasks", {"processor": "p2", "limit": 10})


@actor("enqueue_ready_steps")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("enqueue_ready_steps", {"processor": "p1", "task_uuids": stage.tasks[::-1]})


@actor("reject_tasks")
def _(stage: Stage, core: Core, turn: int) -> Any:
    bad = [{"task_uuid": task, "reason": "invalid_context", "message": "no"} for task in stage.tasks[::-1]]
    return core.call("reject_tasks", {"processor": "p1", "tasks": bad})


@actor("extend_task_claim")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("extend_task_claim", {"processor": "p1", "task_uuid": stage.tasks[0], "timeout_seconds": 90})


@actor("release_task_claim")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("release_task_claim", {"processor": "p1", "task_uuid": stage.tasks[0]})


# -- finalization ---------------------------------------------------------------------------------------------------


def _claim_finalization(processor: str) -> Call:
    query = """SELECT to_jsonb(c) - 'message' - 'finalization_attempt_uuid'
               FROM tasker.claim_task_for_finalization(%s, %s) AS c"""
    return lambda stage, core, turn: core.one(query, stage.tasks[0], processor)


actor("claim_task_for_finalization")(_claim_finalization("p2"))
actor("claim_task_for_finalization:its holder")(_claim_finalization("p1"))


@actor("claim_tasks_for_finalization", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("claim_tasks_for_finalization", {"processor": "p2", "limit": 10})


def _finalization_messages(stage: Stage) -> None:
    find = "SELECT message->>'task_uuid', msg_id FROM pgmq.q_task_finalization"
    stage.prepared["finalization"] = dict(stage.core.rows(find))


@actor("finalize_task", prepare=_finalization_messages)
def _(stage: Stage, core: Core, turn: int) -> Any:
    claim = {"task_uuid": stage.tasks[0], "processor": "p1", "claim_no": 1}
    return core.call("finalize_task", claim | {"msg_id": stage.prepared["finalization"].get(stage.tasks[0])})


@actor("release_finalization_claim")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("release_finalization_claim", stage.tasks[0], "p1", 1)


@actor("extend_finalization_claim")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("extend_finalization_claim", stage.tasks[0], "p1", 1, 60)


@actor("resend_finalizations", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("resend_finalizations", 10)


# -- an operator ----------------------------------------------------------------------------------------------------


def _act(function: str, *, backwards: bool = False, step: int | None = None) -> Call:
    def call(stage: Stage, core: Core, turn: int) -> Any:
        said: dict[str, Any] = {"by": "somebody", "reason": "a whim"}
        if function.endswith("_tasks"):
            said["task_uuids"] = stage.tasks[:: -1 if backwards else 1]
        else:
            said["task_uuid"] = stage.tasks[0]
        if step is not None:
            said |= {"position": step, "results": {"by": "hand"}}
        return core.call(function, said)

    return call


actor("cancel_tasks")(_act("cancel_tasks", backwards=True))
actor("pause_tasks")(_act("pause_tasks"))
actor("resume_tasks")(_act("resume_tasks", backwards=True))
actor("retry_task")(_act("retry_task"))
actor("reset_step")(_act("reset_step", step=0))
actor("resolve_step")(_act("resolve_step", step=0))
actor("resolve_step:the other parent")(_act("resolve_step", step=1))
actor("resolve_step:the join")(_act("resolve_step", step=2))
actor("resolve_task")(_act("resolve_task"))


@actor("prune_tasks", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    # Those of earlier stages are over, too, and stay.
    before = str(UUID(int=UUID(stage.tasks[0]).int - 1))
    answer = core.call("prune_tasks", {"keep_seconds": 0, "after": before})
    return [answer["tasks"], answer["steps"]]


# -- dead letters ---------------------------------------------------------------------------------------------------


def _earlier_letters(stage: Stage) -> None:
    """Those of earlier stages are none of this one's business."""
    find = "SELECT coalesce(max(id), 0) FROM tasker.dead_letters WHERE task_uuid < %s"
    stage.prepared["earlier"] = stage.core.one(find, stage.tasks[0])


@actor("retry_dead_letters", prepare=_earlier_letters)
def _(stage: Stage, core: Core, turn: int) -> Any:
    these = {"filter": {"kind": "step"}, "after": stage.prepared["earlier"]}
    return settled(core.call("retry_dead_letters", these | {"by": "somebody"}))


@actor("retry_dead_letters:one")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return settled(core.call("retry_dead_letters", {"ids": [_letter(stage, core)], "by": "somebody"}))


@actor("resolve_dead_letter")
def _(stage: Stage, core: Core, turn: int) -> Any:
    said = {"id": _letter(stage, core), "results": {"by": "hand"}, "by": "somebody"}
    return core.call("resolve_dead_letter", said)["state"]


def _letter(stage: Stage, core: Core) -> int:
    """The last letter of the first task's first step, open or not; 0, which is none, if it never had one."""
    find = "SELECT coalesce(max(id), 0) FROM tasker.dead_letters WHERE task_uuid = %s AND position = 0"
    return int(core.one(find, stage.tasks[0]))


@actor("act_on_stuck_tasks", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    """Two hours later: the workflows of the stage allow one."""
    later = """WITH moved AS MATERIALIZED (SELECT set_config('tasker.clock_offset', '2 hours', true) AS to)
               SELECT tasker.act_on_stuck_tasks('{}') FROM moved WHERE moved.to <> ''"""
    answer = core.one(later)
    core.one("SELECT set_config('tasker.clock_offset', '', true)")
    return [[task["task_uuid"], task["action"], task["steps"]] for task in answer["tasks"]]
