"""What keeps steps back: priority bands, limits and rates of namespaces and keys, circuits; and how they go on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

from tests.sql_kit import CHAIN, Core, Worker, sweep


def parked(core: Core) -> dict[str, int]:
    return dict(core.rows("SELECT key, count(*) FROM tasker.step_timers WHERE key IS NOT NULL GROUP BY key"))


def keyed(core: Core, name: str = "order", **concurrency: Any) -> None:
    core.register(name, {"a": []}, concurrency={"path": ["tenant"], **concurrency})


def create_for(core: Core, tenant: str, count: int = 1, name: str = "order") -> list[str]:
    return core.create(name, count, context={"tenant": tenant})


def tenants(core: Core, steps: list[dict[str, Any]]) -> Counter[str]:
    return Counter(core.task(step["task_uuid"])["concurrency_key"] for step in steps)


# -- bands ----------------------------------------------------------------------------------------------------------


def test_urgent_and_patient_steps_have_queues_of_their_own_made_on_first_use(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    assert core.rows("SELECT has_high, has_low FROM tasker.namespaces") == [(False, False)]
    core.create("order", 2, priority=7)
    core.create("order", 3, priority=-1)
    counts = [core.one(f"SELECT count(*) FROM pgmq.q_shop_queue{band}") for band in ("_high", "", "_low")]
    assert counts == [2, 1, 3]
    assert core.executor("shop_queue").run_all() == 6 * 4


def test_bands_are_popped_by_six_to_three_to_one_and_none_starves(core: Core) -> None:
    core.register("order", {"a": []})
    for priority in (5, 0, -5):
        core.create("order", 200, priority=priority)
    worker = core.executor("shop_queue")
    taken: Counter[int] = Counter()
    for _ in range(100):  # one at a time: the band is drawn
        steps = worker.claim(1)
        taken.update(core.task(step["task_uuid"])["priority"] for step in steps)
        worker.complete(steps)
    assert taken[5] > taken[0] > taken[-5] > 0
    worker = core.executor("shop_queue")
    batch = worker.claim(50)  # many at once: each has its share
    assert Counter(core.task(step["task_uuid"])["priority"] for step in batch) == {5: 30, 0: 15, -5: 5}
    worker.complete(batch)
    worker.run_all()


def test_a_namespace_with_bands_takes_no_more_than_its_turn_beside_one_without(core: Core) -> None:
    core.register("order", {"a": []})
    core.register("stock", {"a": []}, namespace="store")
    for priority in (5, 0, -5):
        core.create("order", 100, priority=priority)
    core.create("stock", 100, namespace="store")
    worker = core.executor("shop_queue", "store_queue")
    batch = worker.claim(40)
    assert Counter(step["queue"] for step in batch) == {"shop_queue": 20, "store_queue": 20}
    worker.complete(batch)
    worker.run_all()


# -- limits ---------------------------------------------------------------------------------------------------------


def test_no_more_steps_of_a_namespace_run_at_once_than_its_limit_says_and_the_rest_follow(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order", 10)
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": 3})
    one, two = core.executor("shop_queue"), core.executor("shop_queue")
    first = one.claim(2)
    second = two.claim(10)
    assert (len(first), len(second)) == (2, 1)
    assert parked(core) == {"ns:shop": 7}
    one.complete(first, continue_limit=8)  # nothing is continued under a limit
    third = two.claim(10)
    assert len(third) == 2
    two.complete(second + third)
    assert one.run_all() + 5 == 40
    assert parked(core) == {}
    assert core.one("SELECT count(*) FROM tasker.limit_holders") == 0


def test_tasks_of_one_key_share_a_limit_and_leave_the_others_alone(core: Core) -> None:
    keyed(core, max_steps=2)
    create_for(core, "big", 50)
    create_for(core, "small", 3)
    worker = core.executor("shop_queue")
    taken = worker.claim(100)
    assert tenants(core, taken) == {"big": 2, "small": 2}
    assert parked(core) == {"key:shop:big": 48, "key:shop:small": 1}
    worker.complete(taken)
    assert worker.run_all() == 49


def test_tasks_without_the_key_share_one_limit(core: Core) -> None:
    keyed(core, max_steps=1)
    core.create("order", 2)
    assert len(core.executor("shop_queue").claim(10)) == 1


@pytest.mark.parametrize("way", ["released", "lost", "cancelled", "reset"])
def test_a_limit_does_not_leak_however_a_step_stops_running(core: Core, way: str) -> None:
    keyed(core, max_steps=1)
    tasks = create_for(core, "acme", 3)
    worker = core.executor("shop_queue")
    (step,) = worker.claim(10)
    match way:
        case "released":
            worker.release([step])
        case "lost":
            worker.die()
            sweep(core)
        case "cancelled":
            core.call("cancel_tasks", {"task_uuids": [step["task_uuid"]], "by": "ann"})
        case "reset":
            core.call("reset_step", {"task_uuid": step["task_uuid"], "position": 0, "by": "ann"})
    core.call("tend_parked", {"limit": 100})
    other = core.executor("shop_queue")
    ran = other.run_all()
    assert ran == (2 if way == "cancelled" else 3)
    assert len(tasks) == 3


def test_a_delegated_step_holds_its_place_until_its_result_comes(core: Core) -> None:
    core.register(
        "order",
        {"a": []},
        concurrency={"path": ["tenant"], "max_steps": 1},
        step={"delegated": True, "timeout_seconds": 60},
    )
    create_for(core, "acme", 2)
    worker = core.executor("shop_queue")
    (step,) = worker.claim(10)
    worker.complete([step], outcome={"status": "delegated", "deadline_seconds": 60})
    core.call("tend_parked", {"limit": 100})
    assert worker.claim(10) == []
    worker.complete([step])
    assert len(worker.claim(10)) == 1


def test_who_finds_a_limit_being_decided_by_another_leaves_the_step_and_comes_again_soon(core: Core) -> None:
    keyed(core, max_steps=1)
    create_for(core, "acme", 2)
    with psycopg.connect(core.url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('tasker.limit:key:shop:acme', 0))")
        worker = core.executor("shop_queue")
        assert worker.claim(10) == []
        assert worker.last["next_due_seconds"] < 0.1
        assert core.depth("shop_queue") == 2
        assert parked(core) == {}
        other.rollback()
    assert len(worker.claim(10)) == 1


def test_a_wider_limit_lets_what_waits_go_on_at_once(core: Core) -> None:
    core.register("order", {"a": []})
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": 1})
    core.create("order", 5)
    worker = core.executor("shop_queue")
    assert len(worker.claim(10)) == 1
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": 4})
    assert len(worker.claim(10)) == 3
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": None})
    assert len(worker.claim(10)) == 1


# -- rates ----------------------------------------------------------------------------------------------------------


def test_no_more_steps_start_in_a_time_than_the_rate_says_and_each_has_its_moment(core: Core) -> None:
    core.register("order", {"a": []})
    core.call("set_namespace", {"namespace": "shop", "rate_count": 5, "rate_seconds": 10})
    core.create("order", 20)
    worker = core.executor("shop_queue")
    assert len(worker.claim(100)) == 5
    moments = [
        float(due)
        for (due,) in core.rows("SELECT extract(epoch FROM due_at - tasker.now()) FROM tasker.step_timers ORDER BY 1")
    ]
    assert moments == [pytest.approx(2 * n, abs=0.5) for n in range(1, 16)]
    core.move_clock(10.5)
    assert len(worker.claim(100)) == 5
    core.move_clock(31)
    assert len(worker.claim(100)) == 10


def test_a_rate_of_a_key_holds_for_that_key(core: Core) -> None:
    keyed(core, rate_count=1, rate_seconds=60)
    create_for(core, "big", 3)
    create_for(core, "small", 1)
    assert tenants(core, core.executor("shop_queue").claim(100)) == {"big": 1, "small": 1}


def test_moments_are_kept_for_ten_minutes_ahead_and_no_further(core: Core) -> None:
    core.register("order", {"a": []})
    core.call("set_namespace", {"namespace": "shop", "rate_count": 1, "rate_seconds": 3600})
    core.create("order", 300)
    assert len(core.executor("shop_queue").claim(1000)) == 1
    assert core.one("SELECT max(due_at - tasker.now()) <= interval '10 minutes' FROM tasker.step_timers")


# -- circuits -------------------------------------------------------------------------------------------------------


def open_bank(core: Core, **more: Any) -> None:
    core.call("report_circuit", {"name": "bank", "failures": 3, "failure_threshold": 3, "timeout_seconds": 30, **more})


def bank_user(core: Core) -> Worker:
    core.register("pay", CHAIN, steps={"b": {"system_dependency": "bank"}})
    return core.executor("shop_queue")


def lose_the_prober(core: Core) -> None:
    """An executor dies that was let through to try the bank, and the sweep finds it."""
    worker = bank_user(core)
    core.create("pay")
    open_bank(core)
    worker.run_all()
    core.move_clock(31)
    assert len(worker.claim()) == 1
    worker.die()
    sweep(core)


def test_steps_that_need_an_open_circuit_are_parked_without_an_attempt_and_the_others_run(core: Core) -> None:
    worker = bank_user(core)
    tasks = core.create("pay", 5)
    open_bank(core)
    assert worker.run_all(continue_limit=10) == 5  # "a", and none is continued into "b"
    assert parked(core) == {"circuit:bank": 5}
    assert {core.steps(task)["b"]["state"] for task in tasks} == {"enqueued"}
    assert {core.steps(task)["b"]["attempts"] for task in tasks} == {0}
    assert worker.last["circuits"]["bank"]["state"] == "open"
    assert 0 < worker.last["next_due_seconds"] <= 30
    core.call("set_circuit", {"name": "bank", "action": "close", "by": "ann"})
    assert worker.run_all() == 15


def test_one_step_is_the_probe_of_an_open_circuit_whose_time_is_up(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay", 5)
    open_bank(core)
    worker.run_all()
    core.move_clock(31)
    (probe,) = worker.claim(10)
    assert worker.last["probes"] == {probe["step_uuid"]: "bank"}
    assert worker.last["circuits"]["bank"]["state"] == "half_open"
    assert worker.claim(10) == []
    assert core.executor("shop_queue").claim(10) == []
    core.call("report_circuit", {"name": "bank", "failures": 1, "is_probe": True})
    worker.fail([probe])
    core.move_clock(62)
    for _ in range(2):
        (probe,) = worker.claim(1)
        core.call("report_circuit", {"name": "bank", "successes": 1, "is_probe": True})
        worker.complete([probe])
    core.move_clock(70)
    worker.run_all()
    assert core.one("SELECT count(*) FROM tasker.tasks WHERE state = 'complete'") == 5


def test_what_a_closed_circuit_held_back_goes_on_with_a_ramp(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay", 70)
    open_bank(core)
    worker.run_all()
    core.call("set_circuit", {"name": "bank", "action": "reset"})
    due = core.rows(
        "SELECT ceil(extract(epoch FROM due_at - tasker.now())), count(*) FROM tasker.step_timers GROUP BY 1 ORDER BY 1"
    )
    assert [int(count) for _, count in due] == [10, 10, 20, 30]
    core.move_clock(10)
    worker.run_all()


def test_a_step_that_found_its_circuit_open_is_parked_and_gets_its_attempt_back(core: Core) -> None:
    worker = bank_user(core)
    (task,) = core.create("pay")
    worker.complete(worker.claim())
    (step,) = worker.claim()
    open_bank(core)
    answer = worker.complete([step], outcome={"status": "parked", "circuit": "bank"})
    assert answer["outcomes"][0]["answer"] == "accepted"
    assert (core.steps(task)["b"]["state"], core.steps(task)["b"]["attempts"]) == ("enqueued", 0)
    assert parked(core) == {"circuit:bank": 1}
    assert (
        worker.complete([step], outcome={"status": "parked", "circuit": "bank"})["outcomes"][0]["reason"] == "repeated"
    )
    core.call("set_circuit", {"name": "bank", "action": "close"})
    assert worker.run_all() == 3


def test_a_step_is_not_parked_for_long_when_its_circuit_has_closed_meanwhile(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay")
    worker.complete(worker.claim())
    (step,) = worker.claim()
    worker.complete([step], outcome={"status": "parked", "circuit": "bank"})
    assert worker.run_all() == 3


def test_the_tick_wakes_what_a_closing_circuit_missed(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay")
    open_bank(core)
    worker.run_all()
    core.rows_affected("DELETE FROM tasker.circuit_breakers")
    assert worker.claim() == []
    assert core.call("tend_parked", {})["queues"] == ["shop_queue"]
    assert worker.run_all() == 3


def test_a_parked_step_of_a_paused_task_waits_for_its_resumption(core: Core) -> None:
    worker = bank_user(core)
    (task,) = core.create("pay")
    open_bank(core)
    worker.run_all()
    core.call("pause_tasks", {"task_uuids": [task]})
    core.call("set_circuit", {"name": "bank", "action": "close"})
    assert worker.claim() == []
    core.call("resume_tasks", {"task_uuids": [task]})
    assert worker.run_all() == 3


@pytest.mark.parametrize("action", ["cancel", "resolve", "reset"])
def test_an_operator_ends_the_waiting_of_a_parked_step(core: Core, action: str) -> None:
    worker = bank_user(core)
    (task,) = core.create("pay")
    open_bank(core)
    worker.run_all()
    match action:
        case "cancel":
            core.call("cancel_tasks", {"task_uuids": [task]})
        case "resolve":
            core.call("resolve_step", {"task_uuid": task, "step": "b", "results": {}})
            assert worker.run_all() == 2
        case "reset":
            core.call("reset_step", {"task_uuid": task, "step": "b"})
            assert worker.claim() == []
            assert parked(core) == {"circuit:bank": 1}


def test_a_lost_executor_gives_back_the_right_to_try_a_circuit(core: Core) -> None:
    lose_the_prober(core)
    other = core.executor("shop_queue")
    assert other.claim() == []
    core.move_clock(31 + 3700)
    assert len(other.claim()) == 1


def test_a_paused_namespace_starts_nothing_until_it_is_resumed(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 2)
    worker = core.executor("shop_queue")
    told = core.call("pause_namespaces", {"namespaces": ["shop"], "by": "ann", "reason": "stocktaking"})
    assert told["namespaces"] == [{"namespace": "shop", "changed": True, "paused": True}]
    assert worker.claim() == []
    core.call("pause_namespaces", {"namespaces": ["shop"], "paused": False})
    assert worker.run_all() == 2


@pytest.mark.parametrize(
    ("function", "request_", "sqlstate"),
    [
        ("set_namespace", {"namespace": "none"}, "TK004"),
        ("set_namespace", {"namespace": "shop", "max_concurrency": 0}, "TK001"),
        ("set_namespace", {"namespace": "shop", "rate_count": 5}, "TK001"),
        ("set_namespace", {"namespace": "shop", "max_concurrency": "many"}, "TK001"),
        ("pause_namespaces", {"namespaces": ["shop", "none"]}, "TK004"),
        ("set_circuit", {"name": "bank", "action": "explode"}, "TK001"),
        ("report_circuit", {"name": ""}, "TK001"),
        ("report_circuit", {"name": "bank", "failure_threshold": 0}, "TK001"),
    ],
)
def test_a_bad_request_is_refused_and_changes_nothing(
    core: Core, function: str, request_: dict[str, Any], sqlstate: str
) -> None:
    core.register("order", {"a": []})
    before = core.rows("SELECT * FROM tasker.namespaces"), core.rows("SELECT * FROM tasker.circuit_breakers")
    with pytest.raises(psycopg.Error) as refused:
        core.call(function, request_)
    assert refused.value.sqlstate == sqlstate
    assert (core.rows("SELECT * FROM tasker.namespaces"), core.rows("SELECT * FROM tasker.circuit_breakers")) == before
