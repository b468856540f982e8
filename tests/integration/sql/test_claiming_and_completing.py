"""The hot path: claim, complete, continue; what follows from each outcome."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_kit import CHAIN, DIAMOND, Core, fan, lost_messages, sweep


@pytest.mark.parametrize("continue_limit", [0, 50])
@pytest.mark.parametrize(("graph", "steps"), [(CHAIN, 4), (DIAMOND, 4), (fan(7), 9)])
def test_a_workflow_runs_to_its_end(core: Core, graph: dict[str, list[str]], steps: int, continue_limit: int) -> None:
    core.register("order", graph)
    tasks = core.create("order", 3)
    assert core.executor().run_all(continue_limit=continue_limit) == 3 * steps
    for task in tasks:
        row = core.task(task)
        assert (row["state"], row["active"], row["open"], row["failed"]) == ("complete", 0, 0, 0)
        assert row["finished_at"] == row["finalized_at"]
        assert set(core.states(task).values()) == {"complete"}
    assert core.depth("shop_queue") == 0
    assert core.one("SELECT count(*) FROM tasker.step_timers") == 0


def test_a_claim_hands_over_all_that_handlers_need(core: Core) -> None:
    template = core.register("order", DIAMOND, steps={"d": {"timeout_seconds": 5}})
    (task,) = core.create("order", context={"n": 1}, correlation_id="c", tags=["t"])
    worker = core.executor()
    (a,) = worker.claim()
    assert worker.last["tasks"] == {task: {"context": {"n": 1}, "correlation_id": "c", "priority": 0, "tags": ["t"]}}
    assert worker.last["results"] == {}
    described = worker.last["templates"][str(template)]
    assert [step["name"] for step in described["steps"]] == ["a", "b", "c", "d"]
    assert described["steps"][3]["timeout_seconds"] == 5
    assert (a["fence"], a["attempt"], a["losses"], a["template"]) == (1, 1, 0, template)
    worker.complete([a])
    both = worker.claim(known_templates=[template])
    assert worker.last["templates"] == {}
    assert worker.last["results"] == {task: {"0": {"step": 0}}}
    worker.complete(both)
    worker.claim()
    assert worker.last["results"] == {task: {"1": {"step": 1}, "2": {"step": 2}}}
    worker.complete(worker.last["steps"])


def test_a_chain_is_continued_by_its_executor_without_touching_a_queue(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    for _ in range(3):
        steps = worker.complete(steps, continue_limit=10)["steps"]
        assert core.depth("shop_queue") == 0
        assert len(steps) == 1
    worker.complete(steps, continue_limit=10)
    assert core.history(task, "b") == ["pending>in_progress", "in_progress>complete"]
    assert core.one("SELECT count(*) FROM tasker.step_claims") == 0


def test_a_chain_leaves_the_task_row_alone_until_its_end(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    worker = core.executor()
    steps = worker.claim()
    before = core.one("SELECT ctid::text FROM tasker.tasks WHERE task_uuid = %s", task)
    steps = worker.complete(steps, continue_limit=10)["steps"]
    assert core.one("SELECT ctid::text FROM tasker.tasks WHERE task_uuid = %s", task) == before
    worker.complete(steps)


def test_a_fan_out_keeps_one_branch_and_publishes_the_others(core: Core) -> None:
    core.register("order", fan(5))
    core.create("order")
    worker = core.executor()
    answer = worker.complete(worker.claim(), continue_limit=10)
    assert len(answer["steps"]) == 1
    assert core.depth("shop_queue") == 4


def test_nothing_is_continued_on_a_queue_that_the_executor_does_not_serve(core: Core) -> None:
    core.register("order", CHAIN, steps={"b": {"namespace": "payments"}})
    core.create("order")
    worker = core.executor("shop_queue")
    assert worker.complete(worker.claim(), continue_limit=10)["steps"] == []
    assert core.depth("payments_queue") == 1


def test_nothing_is_continued_beyond_the_budget_but_one_step_always_is(core: Core) -> None:
    core.register("slow", CHAIN, expected_ms=600)
    core.create("slow", 3)
    worker = core.executor()
    claimed = [worker.claim(1)[0] for _ in range(3)]
    assert len(worker.complete(claimed, continue_limit=10)["steps"]) == 1


def test_a_claim_takes_what_fits_its_budget_and_at_least_one_step(core: Core) -> None:
    core.register("slow", {"a": []}, expected_ms=400)
    core.create("slow", 5)
    worker = core.executor()
    assert len(worker.claim(10)) == 2
    assert worker.last["queue_empty"] is False
    core.register("unknown", {"a": []}, expected_ms=None, namespace="other")
    core.create("unknown", 5, namespace="other")
    stranger = core.executor("other_queue")
    assert len(stranger.claim(10)) == 1


def expected(core: Core, identifier: int) -> dict[str, float | None]:
    query = "SELECT name, expected_ms FROM tasker.named_steps WHERE named_task_id = %s ORDER BY position"
    return dict(core.rows(query, identifier))  # type: ignore[arg-type]


def test_siblings_with_the_same_handler_take_as_long_as_the_first_of_them_until_they_are_known_better(
    core: Core,
) -> None:
    graph = {"a": [], "b": [], "c": [], "other": []}
    alike = {name: {"handler": {"callable": "shop.part"}} for name in "abc"}
    wide = core.register("wide", graph, steps=alike, expected_ms=None)
    same_name_elsewhere = core.register("narrow", {"a": []}, steps={"a": alike["a"]}, expected_ms=None)
    worker = core.executor()
    worker.heartbeat(expected_ms={f"{wide}:0": 2.0, f"{wide}:1": 4.0})
    assert expected(core, wide) == {"a": 2.0, "b": 4.0, "c": 3.0, "other": None}
    assert expected(core, same_name_elsewhere) == {"a": None}
    worker.heartbeat(expected_ms={f"{wide}:2": 30.0})
    assert expected(core, wide) == {"a": 2.0, "b": 4.0, "c": pytest.approx(11.1), "other": None}


def test_a_new_version_begins_with_what_the_same_steps_took_in_the_highest_other_one(core: Core) -> None:
    graph = {"a": [], "b": [], "c": []}
    old = core.register("flow", graph, expected_ms=None, version="1.0.0")
    middle = core.register("flow", graph, expected_ms=None, version="1.1.0")
    worker = core.executor()
    worker.heartbeat(expected_ms={f"{old}:0": 100.0, **{f"{middle}:{position}": 5.0 for position in range(3)}})
    changed = {"c": {"handler": {"callable": "shop.quite_another"}}}
    new = core.register("flow", {**graph, "d": []}, steps=changed, expected_ms=None, version="1.2.0")
    assert expected(core, new) == {"a": 5.0, "b": 5.0, "c": None, "d": None}
    assert expected(core, core.register("another_flow", graph, expected_ms=None)) == {"a": None, "b": None, "c": None}


def test_a_claim_that_looks_from_where_the_last_one_found_something_passes_over_what_lies_before(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order", 6)
    worker = core.executor()
    front = core.one("SELECT min(msg_id) FROM pgmq.q_shop_queue")
    with psycopg.connect(core.url) as holder:
        holder.execute("SELECT FROM pgmq.q_shop_queue WHERE msg_id = %s FOR UPDATE", [front])
        assert len(worker.claim(3)) == 3
    assert worker.last["found_from"] == {"shop_queue": str(front + 1)}
    assert len(worker.claim(look_from=worker.last["found_from"])) == 2
    assert not worker.last["queue_empty"]
    assert worker.claim(look_from=worker.last["found_from"]) == []
    assert not worker.last["queue_empty"]
    assert len(worker.claim()) == 1
    assert worker.last["queue_empty"]
    assert worker.last["found_from"] == {"shop_queue": str(front)}


def test_each_queue_gets_its_share_of_a_claim(core: Core) -> None:
    core.register("order", {"a": []}, namespace="shop")
    core.register("order", {"a": []}, namespace="payments")
    core.create("order", 20, namespace="shop")
    core.create("order", 3, namespace="payments")
    worker = core.executor("shop_queue", "payments_queue")
    queues = [step["queue"] for step in worker.claim(10)]
    assert queues.count("payments_queue") == 3
    assert queues.count("shop_queue") == 7


def test_an_idle_claim_writes_nothing_and_says_how_long_to_sleep(core: Core) -> None:
    core.register("order", {"a": []}, step={"backoff": "fixed", "backoff_base_ms": 60_000})
    core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    with core.connection.transaction():
        assert worker.claim() == []
        assert core.one("SELECT pg_current_xact_id_if_assigned()") is None
    assert worker.last["queue_empty"] is True
    assert 50 < worker.last["next_due_seconds"] <= 60


def test_an_idle_claim_with_no_timer_knows_of_no_due_time(core: Core) -> None:
    core.register("order", {"a": []})
    worker = core.executor()
    assert worker.claim() == []
    assert worker.last["next_due_seconds"] is None


def test_a_failed_attempt_waits_and_runs_again_when_due(core: Core) -> None:
    core.register("order", {"a": [], "b": ["a"]}, step={"max_attempts": 3, "backoff": "fixed", "backoff_base_ms": 5000})
    (task,) = core.create("order")
    worker = core.executor()
    answer = worker.fail(worker.claim())
    assert answer["outcomes"][0]["state"] == "waiting_for_retry"
    assert core.steps(task)["a"]["error"]["message"] == "boom"
    assert worker.claim() == []
    core.move_clock(4)
    assert worker.claim() == []
    core.move_clock(6)
    (again,) = worker.claim()
    assert (again["attempt"], again["fence"]) == (2, 2)
    worker.complete([again])
    assert core.history(task, "a") == [
        "pending>enqueued",
        "enqueued>in_progress",
        "in_progress>waiting_for_retry",
        "waiting_for_retry>in_progress",
        "in_progress>complete",
    ]
    assert core.steps(task)["a"]["error"] is None
    assert worker.run_all() == 1


def test_the_last_attempt_ends_in_error_with_a_dead_letter_and_ends_the_task(core: Core) -> None:
    core.register("order", CHAIN, step={"max_attempts": 2})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    answer = worker.fail(worker.claim())
    assert answer["finished_tasks"] == [{"task_uuid": task, "state": "error"}]
    assert core.states(task) == {"a": "error", "b": "pending", "c": "pending", "d": "pending"}
    row = core.task(task)
    assert (row["state"], row["open"], row["failed"]) == ("error", 3, 1)
    ((reason, snapshot),) = core.rows("SELECT reason, snapshot FROM tasker.dead_letters")
    assert reason == "Boom"
    assert (snapshot["step"], snapshot["attempts"], snapshot["error"]["message"]) == ("a", 2, "boom")


def test_a_permanent_error_spends_no_further_attempt(core: Core) -> None:
    core.register("order", {"a": []}, step={"max_attempts": 5})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim(), retryable=False)
    assert core.task(task)["state"] == "error"


def test_a_step_that_may_not_run_twice_does_not(core: Core) -> None:
    core.register("order", {"a": []}, step={"max_attempts": 5, "retryable": False})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    assert core.states(task) == {"a": "error"}


def test_retry_after_is_honoured_and_bounded(core: Core) -> None:
    core.register("order", {"a": []}, step={"backoff": "fixed", "backoff_base_ms": 0})
    core.create("order", 2)
    worker = core.executor()
    one, two = worker.claim()
    worker.fail([one], retry_after_seconds=90)
    worker.fail([two], retry_after_seconds=1e12)
    waits = [
        row[0] for row in core.rows("SELECT extract(epoch FROM due_at - set_at) FROM tasker.step_timers ORDER BY 1")
    ]
    assert waits == [90, 30 * 86400]


@pytest.mark.parametrize(
    ("backoff", "attempt", "seconds"),
    [
        ("none", 3, 0),
        ("fixed", 3, 1),
        ("linear", 3, 3),
        ("exponential", 1, 1),
        ("exponential", 3, 4),
        ("exponential", 10, 30),
        ("exponential", 30000, 30),
        ("linear", 30000, 30),
    ],
)
def test_backoff_follows_its_formula_and_its_cap(core: Core, backoff: str, attempt: int, seconds: float) -> None:
    query = "SELECT extract(epoch FROM tasker.step_retry_delay(%s, 1000, 30000, 2, 0, %s, 0.5))"
    assert core.one(query, backoff, attempt) == seconds


def test_jitter_spreads_both_ways_and_never_beyond_the_cap(core: Core) -> None:
    query = "SELECT extract(epoch FROM tasker.step_retry_delay('fixed', 1000, 1050, 2, 0.1, 1, %s))"
    assert [float(core.one(query, chance)) for chance in (0.0, 0.5, 0.9999999)] == [0.9, 1.0, 1.05]


def test_the_same_outcome_twice_in_a_batch_counts_once(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    answer = worker.complete([a, a])
    assert [o["answer"] for o in answer["outcomes"]] == ["accepted", "stale"]
    assert core.steps(task)["b"]["state"] == "enqueued"


def test_a_duplicate_message_starts_nothing(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    core.rows_affected("INSERT INTO pgmq.q_shop_queue (vt, message) SELECT vt, message FROM pgmq.q_shop_queue")
    worker = core.executor()
    (a,) = worker.claim()
    assert worker.claim() == []
    worker.complete([a])
    assert core.steps(task)["a"]["attempts"] == 1
    assert core.depth("shop_queue") == 1


def test_many_duplicates_of_one_message_claim_it_once_in_one_call(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    for _ in range(5):
        core.rows_affected("INSERT INTO pgmq.q_shop_queue (vt, message) SELECT vt, message FROM pgmq.q_shop_queue")
    worker = core.executor()
    assert len(worker.claim(2)) == 1
    worker.complete(worker.last["steps"])
    while core.depth("shop_queue"):
        assert worker.claim(50) == []


@pytest.mark.parametrize(
    "message",
    [
        "{}",
        "7",
        "[]",
        "null",
        '"text"',
        '{"task_uuid": "x", "position": 0}',
        '{"task_uuid": "01a20f35-8eea-7347-85bd-881dc2145300", "position": -1}',
        '{"task_uuid": "01a20f35-8eea-7347-85bd-881dc2145300", "position": 1e9}',
        '{"task_uuid": "01a20f35-8eea-7347-85bd-881dc2145300", "position": 0, "map_index": "many"}',
    ],
)
def test_a_message_that_is_no_step_message_goes_to_dead_letters_with_its_reason(core: Core, message: str) -> None:
    core.register("order", {"a": []})
    core.rows_affected("INSERT INTO pgmq.q_shop_queue (vt, message) VALUES (clock_timestamp(), %s::jsonb)", message)
    core.create("order")
    worker = core.executor()
    assert len(worker.claim()) == 1
    worker.complete(worker.last["steps"])
    ((kind, queue, reason),) = core.rows("SELECT kind, queue, reason FROM tasker.dead_letters")
    assert (kind, queue, reason) == ("message", "shop_queue", "not_a_step_message")
    assert core.depth("shop_queue") == 0


def test_a_message_of_a_task_that_is_gone_is_used_up(core: Core) -> None:
    core.register("order", {"a": []})
    core.rows_affected(
        """INSERT INTO pgmq.q_shop_queue (vt, message)
           VALUES (clock_timestamp(), jsonb_build_object('task_uuid', tasker.uuid7(), 'position', 0, 'map_index', 0))"""
    )
    assert core.executor().claim() == []
    assert core.depth("shop_queue") == 0


def test_a_paused_namespace_is_not_popped(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    core.rows_affected("UPDATE tasker.namespaces SET paused_at = now()")
    worker = core.executor()
    assert worker.claim() == []
    core.rows_affected("UPDATE tasker.namespaces SET paused_at = NULL")
    assert len(worker.claim()) == 1


def test_a_burst_is_cut_and_the_step_enqueuer_sends_the_rest_once(core: Core) -> None:
    core.register("wide", fan(700))
    (task,) = core.create("wide")
    worker = core.executor()
    worker.complete(worker.claim())
    assert core.task(task)["active"] == 700
    assert core.depth("shop_queue") == 256
    assert core.rows("SELECT message->>'position', message->>'from_index' FROM pgmq.q_step_enqueue") == [("0", "256")]
    assert lost_messages(core) == []
    sent = []
    while (answer := core.call("enqueue_deferred_steps", {"limit": 10}))["taken"]:
        sent.append(answer["sent"])
    assert sent == [256, 188]
    assert core.one("SELECT count(DISTINCT message->>'position') FROM pgmq.q_shop_queue") == 700
    assert worker.run_all(200) == 701
    assert core.task(task)["state"] == "complete"


def test_the_first_256_of_a_fan_may_finish_before_the_rest_is_sent(core: Core) -> None:
    core.register("wide", fan(300))
    (task,) = core.create("wide")
    worker = core.executor()
    worker.complete(worker.claim())
    assert worker.run_all(300) == 256
    assert core.task(task)["state"] == "in_progress"
    core.call("enqueue_deferred_steps", {"limit": 10})
    assert worker.run_all(300) == 45
    assert core.task(task)["state"] == "complete"


def test_deferred_messages_of_a_terminal_task_are_not_sent(core: Core) -> None:
    core.register("wide", fan(300))
    (task,) = core.create("wide")
    worker = core.executor()
    worker.complete(worker.claim())
    core.call("cancel_tasks", {"task_uuids": [task]})
    assert core.call("enqueue_deferred_steps", {"limit": 10}) == {"taken": 1, "sent": 0, "queues": []}


def test_results_too_large_for_a_claim_are_read_page_by_page(core: Core) -> None:
    core.register("wide", fan(5))
    (task,) = core.create("wide")
    worker = core.executor()
    worker.complete(worker.claim())
    worker.complete(worker.claim(), outcome={"status": "complete", "results": {"x": "y" * 1000}})
    (last,) = worker.claim(max_claim_bytes=2000)
    assert last["results_paged"] is True
    assert worker.last["results"] == {}
    pages, after = {}, -1
    while after is not None:
        page = core.call("get_parent_results", task, last["step_uuid"], after, 2)
        pages.update(page["results"])
        after = page["next_after"]
    assert sorted(pages) == ["1", "2", "3", "4", "5"]
    worker.complete([last])


def test_only_sleeping_consumers_are_worth_a_notify(core: Core) -> None:
    core.register("order", CHAIN, steps={"b": {"namespace": "payments"}})
    core.create("order")
    worker = core.executor("shop_queue")
    sleeper = core.executor("payments_queue")
    steps = worker.claim()
    assert worker.complete(steps)["queues"] == []
    core.create("order")
    core.call("set_executor_idle", {"executor": sleeper.uuid, "idle": True})
    assert worker.complete(worker.claim())["queues"] == ["payments_queue"]


def test_waiters_are_named_when_a_task_ends(core: Core) -> None:
    core.register("order", {"a": []})
    core.create("order")
    core.call("add_waiter", "tasker_wait_1", 60)
    worker = core.executor()
    assert worker.complete(worker.claim())["notify"] == ["tasker_wait_1"]
    core.call("remove_waiter", "tasker_wait_1")
    core.create("order")
    assert worker.complete(worker.claim())["notify"] == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("function", ["claim_steps", "complete_steps", "recover_lost_steps", "finalize_task"])
def test_claiming_and_completing_refuse_other_isolation_levels(core: Core, function: str, level: str) -> None:
    core.connection.execute(f"SET default_transaction_isolation = '{level.lower()}'")  # type: ignore[arg-type]
    with pytest.raises(psycopg.Error) as caught:
        core.call(function, {})
    assert caught.value.sqlstate == "TK007"


def test_an_outcome_of_an_unknown_status_is_refused_and_changes_nothing(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order", 2)
    worker = core.executor()
    steps = worker.claim()
    with pytest.raises(psycopg.Error, match="status must be") as caught:
        worker.complete(steps, outcome={"status": "done"})
    assert caught.value.sqlstate == "TK001"
    worker.complete(steps)


def test_an_outcome_of_a_step_that_does_not_exist_is_stale(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    answer = worker.complete([{**a, "position": 17}, a])
    assert [(o["answer"], o["reason"]) for o in answer["outcomes"]] == [("stale", "not_found"), ("accepted", None)]


def test_an_outcome_may_name_its_step_by_uuid_alone(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    (a,) = worker.claim()
    worker.call_no += 1
    answer = core.call(
        "complete_steps",
        {
            "executor": worker.uuid,
            "call_no": worker.call_no,
            "queues": [],
            "finished": [1],
            "outcomes": [{"task_uuid": task, "step_uuid": a["step_uuid"], "fence": 1, "status": "complete"}],
        },
    )
    assert answer["outcomes"][0]["answer"] == "accepted"


def test_a_step_with_losses_is_claimed_alone(core: Core) -> None:
    core.register("order", {"a": []})
    tasks = core.create("order", 4)
    core.excuse("attempts-as-in-history")
    core.rows_affected("UPDATE tasker.workflow_steps SET losses = 1 WHERE task_uuid = %s", tasks[1])
    worker = core.executor()
    assert [s["task_uuid"] for s in worker.claim()] == [tasks[0], tasks[2], tasks[3]]
    assert [s["task_uuid"] for s in worker.claim()] == [tasks[1]]
    core.call("deregister_executor", {"executor": worker.uuid, "finished": []})
    assert sweep(core)["requeued"] == 4
