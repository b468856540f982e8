"""Those that keep registers, or move messages: nothing that holds a task should hold them up."""

from __future__ import annotations

import hashlib
from typing import Any

from psycopg.types.json import Jsonb

from tests.races.actor import Actor, Call, registering, settled
from tests.races.stages import Stage
from tests.sql_kit import Core

BYSTANDERS: dict[str, Actor] = {}
actor = registering(BYSTANDERS)


# -- dead letters ---------------------------------------------------------------------------------------------------


def _letter_of_a_message(stage: Stage) -> None:
    queue, refused = "task_requests_queue", {"reason": "invalid_request", "message": "a test"}
    message = {"msg_id": stage.send(queue, {"no": "request"}, read=True), "rejected": refused}
    stage.core.call("process_task_requests", {"messages": [message]})
    stage.prepared["letter"] = stage.core.one("SELECT max(id) FROM tasker.dead_letters WHERE kind = 'message'")


@actor("retry_dead_letters:of a message", prepare=_letter_of_a_message)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return settled(core.call("retry_dead_letters", {"ids": [stage.prepared["letter"]], "by": "somebody"}))


@actor("dismiss_dead_letters", prepare=_letter_of_a_message)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return settled(core.call("dismiss_dead_letters", {"ids": [stage.prepared["letter"]], "by": "somebody"}))


@actor("add_waiter")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("add_waiter", "tasker_waiter_race", 60)


@actor("remove_waiter")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("remove_waiter", "tasker_waiter_race")


@actor("worker_heartbeat")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return sorted(core.call("worker_heartbeat", {"hostname": "race@host", "pid": 1, "pool": "solo"}))


@actor("deregister_worker")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("deregister_worker", "race@host", 1)


def _events(stage: Stage) -> None:
    """Two events in the queue of the first namespace."""
    stage.core.call("queue_ensure", "shop_domain_events")
    stage.core.rows("DELETE FROM pgmq.q_shop_domain_events RETURNING 1")
    query = "SELECT pgmq.send('shop_domain_events', jsonb_build_object('name', n)) FROM unnest(ARRAY['a', 'b']) AS n"
    stage.prepared["events"] = [msg_id for (msg_id,) in stage.core.rows(query)]


@actor("read_events", comes_again=True, prepare=_events)
def _(stage: Stage, core: Core, turn: int) -> Any:
    core.call("read_events", {"namespace": "shop"})


@actor("settle_events", prepare=_events)
def _(stage: Stage, core: Core, turn: int) -> Any:
    problem = {"reason": "event_not_handled", "message": "no"}
    done, refused = stage.prepared["events"]
    letter = {"msg_id": refused, "rejected": problem}
    return core.call("settle_events", {"namespace": "shop", "done": [done], "refused": [letter]})


@actor("prune_events", comes_again=True, prepare=_events)
def _(stage: Stage, core: Core, turn: int) -> Any:
    core.call("prune_events", {"keep_seconds": 0})


@actor("judge_executors", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    # Who has which health does not depend on who is first, but how many it finds unlocked does.
    core.call("judge_executors", {})


@actor("judge_operational_state")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("judge_operational_state", {})["state"]


@actor("set_operational_state")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("set_operational_state", {"state": "emergency", "by": "race"})["state"]


@actor("pool_count", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    core.call("pool_count")


@actor("record_scaling")
def _(stage: Stage, core: Core, turn: int) -> Any:
    pool = {"kind": "task_claimer", "queue": "", "target": 2, "state": {}, "evaluated": True}
    return core.call("record_scaling", {"pools": [pool]})


@actor("prune_registrations", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("prune_registrations", {"keep_seconds": 0})


@actor("collect_metrics", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("collect_metrics", {"patience_seconds": 0})["behind"]


@actor("prune_history", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("prune_history", {"keep_letters_seconds": 3600, "keep_history_seconds": 3600})


@actor("prune_archives", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("prune_archives", {"keep_seconds": 0})["messages"]


@actor("record_retention")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("record_retention", {"queue": "shop_queue"})


@actor("begin_tick", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("begin_tick", 0.0)


@actor("record_tick")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("record_tick", "somebody", 1.0)


@actor("ensure_namespace")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("ensure_namespace", "race_namespace")


@actor("queue_ensure")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("queue_ensure", "race_namespace_queue")


@actor("queue_send")
def _(stage: Stage, core: Core, turn: int) -> Any:
    # A duplicate of a step's message, as any queue may hold one.
    step = stage.step(0, 0)
    message = Jsonb({key: step[key] for key in ("task_uuid", "step_uuid", "position", "map_index")})
    return core.one("SELECT tasker.queue_send('shop_queue', ARRAY[%s])", message)


@actor("queue_read", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.one("SELECT count(*) FROM tasker.queue_read('orchestration_step_results', 30, 10)")


def _read_by_another(stage: Stage) -> None:
    outcome = stage.result(stage.step(1, 0))
    stage.prepared["read"] = stage.send("orchestration_step_results", outcome, read=True)


@actor("queue_show_again", prepare=_read_by_another)
def _(stage: Stage, core: Core, turn: int) -> Any:
    show = "SELECT tasker.queue_show_again('orchestration_step_results', ARRAY[%s::bigint], 0)"
    return core.one(show, stage.prepared["read"])


def definition(stage: Stage, shape: str) -> dict[str, Any]:
    """A version of a workflow that no task has used; each shape is another definition of it."""
    steps = [{"name": "a", "handler": {"callable": f"shop.{shape}"}}]
    digest = hashlib.sha256(shape.encode()).hexdigest()
    named = {"namespace": "shop", "name": "fresh", "version": f"1.0.{stage.tag[1:]}"}
    return named | {"digest": digest, "document": {}, "steps": steps}


def _fresh(stage: Stage) -> None:
    stage.core.call("register_template", definition(stage, "one"))


def _register(shape: str) -> Call:
    def call(stage: Stage, core: Core, turn: int) -> Any:
        answer = core.call("register_template", definition(stage, shape))
        return [answer["is_new"], answer["replaced"]]

    return call


actor("register_template", prepare=_fresh)(_register("two"))
actor("register_template:another", prepare=_fresh)(_register("three"))


@actor("create_tasks:of a version that may be replaced", prepare=_fresh)
def _(stage: Stage, core: Core, turn: int) -> Any:
    named = {"namespace": "shop", "name": "fresh", "version": f"1.0.{stage.tag[1:]}"}
    return [answer["state"] for answer in core.create_many([named])]


# -- schedules ------------------------------------------------------------------------------------------------------

_SLOT, _FOLLOWING = "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"


def _named(stage: Stage) -> str:
    """Another one on each stage: a slot of the same schedule would have the same task."""
    return f"race.{stage.tag}"


def _schedule(stage: Stage, cron: str = "0 * * * *") -> dict[str, Any]:
    task = {"namespace": "shop", "name": "fresh", "version": f"1.0.{stage.tag[1:]}"}
    return {"name": _named(stage), "task": task, "cron": cron, "next_due_at": _SLOT, "replace": True}


def _scheduled(stage: Stage) -> None:
    _fresh(stage)
    stage.core.call("set_schedule", _schedule(stage))


@actor("set_schedule", prepare=_scheduled)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("set_schedule", _schedule(stage, "1 * * * *"))["outcome"]


@actor("change_schedule:pause", prepare=_scheduled)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("change_schedule", {"name": _named(stage), "action": "pause"})["changed"]


@actor("change_schedule:remove", prepare=_scheduled)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("change_schedule", {"name": _named(stage), "action": "remove"})["changed"]


@actor("fire_schedule", prepare=_scheduled, comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    slot = {"name": _named(stage), "expected_due_at": _SLOT, "slots": [_SLOT], "next_due_at": _FOLLOWING}
    return core.call("fire_schedule", slot)["fired"]


@actor("postpone_schedule", prepare=_scheduled, comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    failed = {"name": _named(stage), "expected_due_at": _SLOT, "failure": "a test", "retry_seconds": 60}
    return core.call("postpone_schedule", failed)


# -- limits and admission -------------------------------------------------------------------------------------------


@actor("tend_parked", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("tend_parked", {"limit": 10})["queues"]


@actor("measure_admission", comes_again=True)
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("measure_admission", {"soft_queue_depth": 100_000, "every_seconds": 0})["namespaces"]


@actor("set_namespace")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("set_namespace", {"namespace": "shop", "max_concurrency": 1000})["max_concurrency"]


@actor("pause_namespaces")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("pause_namespaces", {"namespaces": ["shop"], "paused": False})["namespaces"]


# -- circuits -------------------------------------------------------------------------------------------------------


def _circuit(stage: Stage, **what: Any) -> dict[str, Any]:
    return {"name": f"bank {stage.tag}", "failure_threshold": 3, **what}


@actor("report_circuit")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("report_circuit", _circuit(stage, failures=3))["state"]


@actor("ask_circuit")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("ask_circuit", _circuit(stage))["is_probe"]


@actor("set_circuit")
def _(stage: Stage, core: Core, turn: int) -> Any:
    return core.call("set_circuit", _circuit(stage, action="open"))["state"]
