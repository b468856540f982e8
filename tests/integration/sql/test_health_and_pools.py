"""Health of executors by their progress, measures of pools, and the operational state, as SQL alone."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tasker.errors import InvalidTransition
from tests.sql_kit import Core

STALL_SECONDS = 30
QUEUE = "shop_queue"


def register(core: Core, kind: str = "step_executor", queues: tuple[str, ...] = (QUEUE,), **more: Any) -> str:
    executor = str(uuid.uuid4())
    asked = {"executor": executor, "kind": kind, "worker": "w@host", "queues": list(queues), "pid": 1, **more}
    core.call("register_executor", asked)
    return executor


def beat(core: Core, executor: str, **told: Any) -> dict[str, Any]:
    return dict(core.call("heartbeat", {"executor": executor, "oldest_call_no": 1, **told}))


def age(core: Core, executor: str, seconds: float) -> None:
    core.rows_affected(
        "UPDATE tasker.executors SET registered_at = registered_at - make_interval(secs => %s) WHERE executor = %s",
        seconds,
        executor,
    )


def judge(core: Core, **more: Any) -> list[tuple[str, str, str | None]]:
    kinds = ("step_executor", "task_request_processor", "task_claimer")
    request = {"stall_seconds": dict.fromkeys(kinds, STALL_SECONDS), "heartbeat_seconds": 3, **more}
    return [(each["from"], each["to"], each["reason"]) for each in core.call("judge_executors", request)["changes"]]


def health(core: Core, executor: str) -> tuple[str, str | None]:
    rows = core.rows("SELECT health, health_reason FROM tasker.executors WHERE executor = %s", executor)
    return rows[0][0], rows[0][1]


def send(core: Core, queue: str = QUEUE) -> None:
    core.rows(f"SELECT pgmq.send('{queue}', '{{}}')")


@pytest.fixture
def shop(core: Core) -> Core:
    core.register("order", {"a": []})
    return core


def test_an_executor_that_has_asked_its_queues_is_healthy(shop: Core) -> None:
    executor = register(shop)
    assert judge(shop) == []
    assert health(shop, executor) == ("starting", None)
    assert beat(shop, executor, silence={"poll_seconds": 0, "work_seconds": None})["health"] == "starting"
    assert judge(shop) == [("starting", "healthy", None)]
    assert beat(shop, executor)["health"] == "healthy"
    assert shop.rows("SELECT from_health, to_health FROM tasker.executor_health_transitions") == [
        ("starting", "healthy")
    ]


def test_one_that_lives_and_asks_nothing_while_messages_wait_is_unhealthy(shop: Core) -> None:
    executor = register(shop)
    age(shop, executor, 100)
    beat(shop, executor, silence={"poll_seconds": STALL_SECONDS + 5, "work_seconds": 50})
    assert judge(shop) == [("starting", "degraded", "no poll")]
    send(shop)
    assert judge(shop) == [("degraded", "unhealthy", "no poll while messages wait")]
    assert beat(shop, executor, silence={"poll_seconds": 0.2, "work_seconds": 0.2})["health"] == "unhealthy"
    assert judge(shop) == [("unhealthy", "healthy", None)]


def test_messages_of_a_paused_namespace_and_those_of_others_wait_for_nobody(shop: Core) -> None:
    shop.register("else", {"a": []}, namespace="elsewhere")
    executor = register(shop)
    age(shop, executor, 100)
    beat(shop, executor, silence={"poll_seconds": STALL_SECONDS + 5, "work_seconds": None})
    send(shop, "elsewhere_queue")
    send(shop)
    shop.rows_affected("UPDATE tasker.namespaces SET paused_at = now() WHERE name = 'shop'")
    judge(shop)
    assert health(shop, executor) == ("degraded", "no poll")


def test_one_that_runs_a_long_step_is_healthy(shop: Core) -> None:
    executor = register(shop)
    age(shop, executor, 1000)
    send(shop)
    beat(shop, executor, silence={"poll_seconds": 900, "work_seconds": 0})
    assert judge(shop) == [("starting", "healthy", None)]


def test_silence_that_is_long_enough_needs_no_message_to_be_unhealthy(shop: Core) -> None:
    executor = register(shop)
    age(shop, executor, 1000)
    beat(shop, executor, silence={"poll_seconds": 2 * STALL_SECONDS + 5, "work_seconds": None})
    assert judge(shop) == [("starting", "unhealthy", "no poll")]


def test_while_the_system_starts_or_ends_silence_may_last_longer(shop: Core) -> None:
    executor = register(shop)
    age(shop, executor, 1000)
    send(shop)
    beat(shop, executor, silence={"poll_seconds": 2 * STALL_SECONDS, "work_seconds": None})
    assert judge(shop, multiplier=3) == [("starting", "healthy", None)]
    assert judge(shop) == [("healthy", "unhealthy", "no poll while messages wait")]


def test_one_whose_heartbeat_is_late_is_degraded_and_unhealthy_when_two_sweeps_saw_the_same(shop: Core) -> None:
    executor = register(shop)
    beat(shop, executor, silence={"poll_seconds": 0, "work_seconds": None})
    judge(shop)
    shop.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '20 seconds'")
    send(shop)
    assert judge(shop) == [("healthy", "degraded", "late heartbeat")]
    shop.call("recover_lost_steps", {"lease_seconds": 15})
    assert judge(shop) == []
    shop.rows_affected("UPDATE tasker.executors SET suspected_at = suspected_at - interval '10 seconds'")
    assert judge(shop) == [("degraded", "unhealthy", "no heartbeat")]
    shop.rows_affected("UPDATE tasker.executors SET lost_at = clock_timestamp()")
    assert judge(shop) == []


def test_a_lost_executor_ends_as_unhealthy_once(shop: Core) -> None:
    register(shop)
    shop.rows_affected("UPDATE tasker.executors SET lost_at = clock_timestamp()")
    assert judge(shop) == [("starting", "unhealthy", "lost")]
    assert judge(shop) == []


def test_what_an_executor_says_of_itself_and_a_request_to_stop_are_heeded(shop: Core) -> None:
    executor = register(shop)
    beat(shop, executor, silence={"poll_seconds": 0, "work_seconds": None}, trouble="circuit open")
    assert judge(shop) == [("starting", "degraded", "circuit open")]
    beat(shop, executor, silence={"poll_seconds": 0, "work_seconds": None}, trouble=None)
    assert judge(shop) == [("degraded", "healthy", None)]
    shop.call("request_executor_stop", {"executor": executor})
    assert judge(shop) == [("healthy", "stopping", "asked to stop")]


def test_a_program_that_tells_nothing_of_its_polls_is_judged_by_its_heartbeats(shop: Core) -> None:
    executor = register(shop)
    age(shop, executor, 1000)
    send(shop)
    beat(shop, executor)
    assert judge(shop) == [("starting", "healthy", None)]


# -- pools ----------------------------------------------------------------------------------------------------


def pool(core: Core, kind: str, queue: str = "") -> dict[str, Any]:
    (found,) = [each for each in core.call("pool_measures", {}) if each["kind"] == kind and each["queue"] == queue]
    return dict(found)


def test_every_kind_is_a_pool_and_so_is_each_step_queue(shop: Core) -> None:
    shop.register("else", {"a": []}, namespace="elsewhere")
    found = {(each["kind"], each["queue"]) for each in shop.call("pool_measures", {})}
    assert found == {
        ("step_executor", ""),
        ("step_executor", "shop_queue"),
        ("step_executor", "elsewhere_queue"),
        ("task_request_processor", ""),
        ("task_claimer", ""),
        ("step_enqueuer", ""),
        ("step_result_processor", ""),
        ("task_finalizer", ""),
    }


def test_a_pool_counts_messages_of_all_bands_up_to_a_bound(shop: Core) -> None:
    shop.call("queue_ensure", "shop_queue_high")
    shop.rows_affected("UPDATE tasker.namespaces SET has_high = true")
    for queue in (QUEUE, QUEUE, "shop_queue_high"):
        send(shop, queue)
    assert pool(shop, "step_executor", QUEUE)["backlog"] == 3
    assert pool(shop, "step_executor")["backlog"] == 3
    assert pool(shop, "step_executor", QUEUE)["oldest_seconds"] >= 0
    bounded = [each["backlog"] for each in shop.call("pool_measures", {"most": 1}) if each["queue"] == QUEUE]
    assert bounded == [2]  # one of each band


def test_tasks_that_wait_for_admission_are_the_claimers_backlog_unless_their_namespace_is_closed(shop: Core) -> None:
    shop.create("order", 2, run_at="2999-01-01T00:00:00Z")
    shop.rows_affected("UPDATE tasker.tasks SET scheduled = false, run_at = created_at")
    assert pool(shop, "task_claimer")["backlog"] == 2
    shop.rows_affected("UPDATE tasker.namespaces SET admission = 'soft'")
    assert pool(shop, "task_claimer")["backlog"] == 0


def test_what_executors_did_is_added_to_their_pools_once(shop: Core) -> None:
    first, second = register(shop), register(shop)
    claimer = register(shop, "task_claimer", ("admission",))
    for executor in (first, second, claimer):
        age(shop, executor, 10)
    beat(shop, first, counters={"completed": 5, "failed": 1, "busy_ms": 1000})
    beat(shop, claimer, counters={"taken": 7, "busy_ms": 50})
    assert shop.call("pool_count") == 3
    assert shop.call("pool_count") == 3
    found = pool(shop, "step_executor", QUEUE)
    assert (found["items"], found["busy_ms"]) == (6, 1000)
    assert 20_000 <= found["executor_ms"] < 30_000
    assert pool(shop, "task_claimer")["items"] == 7
    beat(shop, first, counters={"completed": 6, "failed": 1, "busy_ms": 1100})
    shop.call("pool_count")
    assert pool(shop, "step_executor")["items"] == 7


def test_decisions_are_remembered_with_their_reason(shop: Core) -> None:
    row = {"kind": "task_claimer", "queue": "", "target": 3, "state": {"a": 1}, "evaluated": True}
    decision = {
        "kind": "task_claimer",
        "queue": "",
        "direction": "up",
        "from_target": 2,
        "to_target": 3,
        "reason": "backlog",
        "detail": "300 messages wait",
        "measures": {"backlog": 300},
    }
    assert shop.call("record_scaling", {"pools": [row], "decisions": [decision]}) == 1
    found = pool(shop, "task_claimer")
    assert (found["target"], found["state"]) == (3, {"a": 1})
    changed = found["changed_seconds"]
    assert shop.call("record_scaling", {"pools": [row]}) == 0
    assert pool(shop, "task_claimer")["changed_seconds"] >= changed
    assert shop.rows("SELECT reason, measures FROM tasker.scaling_decisions") == [("backlog", {"backlog": 300})]


# -- the operational state ------------------------------------------------------------------------------------

LIVE = ("startup", "normal", "graceful_shutdown")


def set_state(core: Core, state: str) -> dict[str, Any]:
    return dict(core.call("set_operational_state", {"state": state, "by": "anna", "reason": "a test"}))


def judge_state(core: Core, **more: Any) -> str:
    return str(core.call("judge_operational_state", {"within_seconds": 30, **more})["state"])


def add_worker(core: Core, hostname: str = "w@host", **more: Any) -> None:
    told = {"hostname": hostname, "pid": 1, "pool": "prefork", "concurrency": 2, "executor_slots": 1, **more}
    core.call("worker_heartbeat", told)


def test_the_state_goes_its_way_and_leaves_a_history(core: Core) -> None:
    for state in ("normal", "graceful_shutdown", "stopped", "startup"):
        assert set_state(core, state)["changed"]
    assert not set_state(core, "startup")["changed"]
    history = core.rows(
        "SELECT from_state, to_state, actor, reason FROM tasker.operational_state_transitions ORDER BY at"
    )
    assert history == [
        ("startup", "normal", "anna", "a test"),
        ("normal", "graceful_shutdown", "anna", "a test"),
        ("graceful_shutdown", "stopped", "anna", "a test"),
        ("stopped", "startup", "anna", "a test"),
    ]


@pytest.mark.parametrize("state", LIVE)
def test_an_emergency_comes_from_any_live_state(core: Core, state: str) -> None:
    core.rows_affected("UPDATE tasker.operational_state SET state = %s", state)
    assert set_state(core, "emergency") == {"from": state, "state": "emergency", "changed": True}


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("startup", "stopped"),
        ("normal", "startup"),
        ("normal", "stopped"),
        ("graceful_shutdown", "normal"),
        ("stopped", "normal"),
        ("stopped", "emergency"),
        ("emergency", "normal"),
    ],
)
def test_any_other_move_is_refused(core: Core, state: str, wanted: str) -> None:
    core.rows_affected("UPDATE tasker.operational_state SET state = %s", state)
    with pytest.raises(psycopg.Error) as refused:
        set_state(core, wanted)
    assert refused.value.sqlstate == InvalidTransition.sqlstate
    assert core.one("SELECT state FROM tasker.operational_state") == state
    assert core.one("SELECT count(*) FROM tasker.operational_state_transitions") == 0


def test_healthy_executors_make_it_normal(core: Core) -> None:
    assert judge_state(core) == "startup"
    add_worker(core)
    executor = register(core)
    assert judge_state(core) == "startup"
    beat(core, executor, silence={"poll_seconds": 0, "work_seconds": None})
    judge(core)
    assert judge_state(core) == "normal"


def test_the_last_worker_that_leaves_begins_the_shutdown_and_ends_it(core: Core) -> None:
    set_state(core, "normal")
    add_worker(core, "one@host")
    add_worker(core, "two@host")
    executor = register(core)
    core.call("deregister_worker", "one@host", 1)
    assert judge_state(core, leaving=True) == "normal"
    core.call("deregister_worker", "two@host", 1)
    assert judge_state(core, leaving=True) == "graceful_shutdown"
    assert judge_state(core, leaving=True) == "graceful_shutdown"  # an executor still finishes what it holds
    core.call("deregister_executor", {"executor": executor})
    assert judge_state(core, leaving=True) == "stopped"
    add_worker(core)
    assert judge_state(core) == "startup"


def test_workers_that_vanish_without_a_word_are_no_shutdown(core: Core) -> None:
    set_state(core, "normal")
    add_worker(core)
    core.rows_affected("UPDATE tasker.workers SET heartbeat_at = heartbeat_at - interval '1 hour'")
    assert judge_state(core) == "normal"


def test_a_drain_of_all_workers_is_a_shutdown_that_can_be_called_off(core: Core) -> None:
    set_state(core, "normal")
    add_worker(core, "one@host", drained=True)
    add_worker(core, "two@host")
    assert judge_state(core) == "normal"
    add_worker(core, "two@host", drained=True)
    assert judge_state(core) == "graceful_shutdown"
    add_worker(core, "one@host")
    assert judge_state(core) == "startup"


def test_a_shutdown_that_a_person_declared_is_theirs_to_call_off(core: Core) -> None:
    set_state(core, "normal")
    set_state(core, "graceful_shutdown")
    add_worker(core)
    executor = register(core)
    beat(core, executor, silence={"poll_seconds": 0, "work_seconds": None})
    judge(core)
    assert judge_state(core) == "graceful_shutdown"
