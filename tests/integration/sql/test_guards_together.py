"""Several guards at once, and what else keeps steps back: no limit is exceeded, and nothing stands still."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.sql.test_guards import bank_user, create_for, keyed, lose_the_prober, open_bank, parked
from tests.sql_kit import Core


def test_a_step_that_is_passed_over_lets_none_behind_it_slip_past_a_limit(core: Core) -> None:
    keyed(core, max_steps=1)
    core.register("free", {"a": []})
    core.create("free")
    (lost_once,) = core.create("free")
    core.excuse("attempts-as-in-history")
    core.rows_affected("UPDATE tasker.workflow_steps SET losses = 1 WHERE task_uuid = %s", lost_once)
    create_for(core, "acme", 3)
    worker = core.executor("shop_queue")
    for limit in (3, 10):
        worker.claim(limit)
        assert core.one("SELECT count(*) FROM tasker.limit_holders") <= 1
        running = core.one(
            "SELECT count(*) FROM tasker.workflow_steps AS s JOIN tasker.tasks AS t USING (task_uuid) "
            "WHERE s.state = 'in_progress' AND t.concurrency_key = 'acme'"
        )
        assert running <= 1


def test_what_a_claim_has_no_time_for_does_not_try_a_circuit(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay")
    core.register("stock", {"a": []}, namespace="store")
    open_bank(core)
    worker.run_all()
    core.move_clock(31)
    core.rows_affected("UPDATE tasker.named_steps SET expected_ms = NULL")
    core.create("stock", namespace="store")
    both = core.executor("shop_queue", "store_queue")
    probes = {}
    for _ in range(2):
        assert len(both.claim(10)) == 1
        probes |= both.last["probes"]
    assert list(probes.values()) == ["bank"]


def test_what_a_claim_has_no_time_for_does_not_pay_for_a_rate(core: Core) -> None:
    for namespace in ("shop", "store"):
        core.register("order", {"a": []}, namespace=namespace, expected_ms=None)
        core.call("set_namespace", {"namespace": namespace, "rate_count": 1, "rate_seconds": 300})
        core.create("order", namespace=namespace)
    both = core.executor("shop_queue", "store_queue")
    assert len(both.claim(10)) == 1
    assert len(both.claim(10)) == 1


def test_a_limit_with_room_does_not_stand_still_behind_those_whose_key_is_full(core: Core) -> None:
    keyed(core, max_steps=1)
    core.call("set_namespace", {"namespace": "shop", "max_concurrency": 2})
    worker = core.executor("shop_queue")
    for tenant in ("x", "y"):
        create_for(core, tenant)
    first = worker.claim(10)
    create_for(core, "big", 5)
    create_for(core, "small", 1)
    assert worker.claim(10) == []
    assert parked(core) == {"ns:shop": 6}
    worker.complete(first)
    keys = set()
    for _ in range(4):
        keys |= {core.task(step["task_uuid"])["concurrency_key"] for step in worker.claim(10)}
    assert keys == {"big", "small"}
    assert parked(core) == {"key:shop:big": 4}


def test_who_was_woken_for_nothing_keeps_its_place(core: Core) -> None:
    keyed(core, max_steps=1)
    worker = core.executor("shop_queue")
    tasks = create_for(core, "acme", 4)
    (running,) = worker.claim(1)
    assert worker.claim(10) == []
    core.one("SELECT tasker.unpark_steps('key:shop:acme', 1, false)")
    assert worker.claim(10) == []
    ran = [running["task_uuid"]]
    while True:
        worker.complete([running])
        steps = worker.claim(10)
        if not steps:
            break
        (running,) = steps
        ran.append(running["task_uuid"])
    assert ran == tasks


def test_a_paused_task_does_not_take_the_turn_of_those_behind_it(core: Core) -> None:
    keyed(core, max_steps=1)
    worker = core.executor("shop_queue")
    tasks = create_for(core, "acme", 4)
    running = worker.claim(1)
    assert worker.claim(10) == []
    core.call("pause_tasks", {"task_uuids": tasks[1:3]})
    worker.complete(running)
    (step,) = worker.claim(10)
    assert step["task_uuid"] == tasks[3]
    worker.complete([step])
    core.call("resume_tasks", {"task_uuids": tasks[1:3]})
    assert worker.run_all() == 2


def test_a_changed_rate_is_not_held_to_moments_of_the_old_one(core: Core) -> None:
    core.register("order", {"a": []})
    core.call("set_namespace", {"namespace": "shop", "rate_count": 1, "rate_seconds": 86400})
    core.create("order", 5)
    worker = core.executor("shop_queue")
    assert len(worker.claim(10)) == 1
    core.call("set_namespace", {"namespace": "shop", "rate_count": 100, "rate_seconds": 1})
    assert len(worker.claim(10)) == 4


def test_a_rate_of_a_key_that_is_far_ahead_comes_back_within_the_time_that_moments_are_kept(core: Core) -> None:
    keyed(core, rate_count=1, rate_seconds=1)
    core.rows_affected("INSERT INTO tasker.rate_limits VALUES ('key:shop:acme', tasker.now() + interval '1 day')")
    create_for(core, "acme")
    worker = core.executor("shop_queue")
    assert worker.claim() == []
    core.move_clock(602)
    worker.claim()
    core.move_clock(1204)
    worker.claim()
    assert core.one("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'") == 1


def test_a_second_message_does_not_start_a_step_before_its_moment(core: Core) -> None:
    keyed(core, rate_count=1, rate_seconds=60)
    create_for(core, "acme", 2)
    core.rows_affected("INSERT INTO pgmq.q_shop_queue (vt, message) SELECT vt, message FROM pgmq.q_shop_queue")
    worker = core.executor("shop_queue")
    worker.claim(1)
    worker.claim(1)
    worker.claim(10)
    assert core.one("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'in_progress'") == 1


def test_many_keys_that_wait_are_tended_in_a_bounded_number_of_locks(core: Core) -> None:
    keyed(core, max_steps=1)
    core.create_many(
        [{"namespace": "shop", "name": "order", "context": {"tenant": f"t{n}"}} for n in range(600) for _ in (1, 2)]
    )
    worker = core.executor("shop_queue")
    while worker.claim(500):
        pass
    assert len(parked(core)) == 600
    with psycopg.connect(core.url) as other:
        other.execute("SELECT tasker.tend_parked('{}')")
        locks = other.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ).fetchone()
        assert locks == (0,), "nothing has room"
        other.rollback()
        seen, after = 0, None
        while True:
            answer = other.execute(
                "SELECT tasker.tend_parked(jsonb_build_object('keys', 250, 'after', %s::text))", [after]
            )
            after = answer.fetchone()[0]["after"]  # type: ignore[index]
            seen += 1
            if after is None:
                break
        assert seen == 3


def test_the_right_to_try_a_circuit_does_not_go_with_an_executor_that_is_lost(core: Core) -> None:
    lose_the_prober(core)
    core.call("tend_parked", {})
    other = core.executor("shop_queue")
    assert len(other.claim()) == 1


def test_a_circuit_does_not_stay_open_because_the_clock_was_set_back(core: Core) -> None:
    core.move_clock(7200)
    worker = bank_user(core)
    core.create("pay")
    open_bank(core)
    worker.run_all()
    core.move_clock(0)
    core.call("tend_parked", {})
    core.move_clock(31)
    assert len(worker.claim()) == 1


def test_a_parked_outcome_names_a_circuit_that_can_be_one(core: Core) -> None:
    worker = bank_user(core)
    core.create("pay")
    (step,) = worker.claim()
    for name in ("", "b" * 201, "b" * 9000):
        with pytest.raises(psycopg.Error) as refused:
            worker.complete([step], outcome={"status": "parked", "circuit": name})
        assert refused.value.sqlstate == "TK001"
    worker.complete([step])
    worker.run_all()


def test_a_little_shared_room_is_used_however_many_namespaces_wait_for_it(core: Core) -> None:
    for namespace in ("shop", "store", "stock"):
        core.register("order", {"a": []}, namespace=namespace)
    core.create("order", 2, namespace="shop")
    limits = {"every_seconds": 0, "max_concurrent_tasks": 2}
    core.call("measure_admission", limits)
    for namespace in ("shop", "store", "stock"):
        core.create("order", 3, namespace=namespace)
    core.executor("shop_queue").run_all()
    core.call("measure_admission", limits)
    claimed = core.call("claim_ready_tasks", {"processor": "p", "limit": 100})["tasks"]
    assert len(claimed) == 2
