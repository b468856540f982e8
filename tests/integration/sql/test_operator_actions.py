"""The operator's hand: every action continues the task in the same transaction, audited with who and why."""

from __future__ import annotations

import psycopg
import pytest

from tests.sql_kit import CHAIN, DIAMOND, Core

UNKNOWN = "01a20f35-8eea-7347-85bd-881dc2145300"


def test_cancelling_ends_every_step_that_has_not_ended_at_once(core: Core) -> None:
    core.register("order", DIAMOND)
    (task,) = core.create("order")
    worker = core.executor()
    worker.complete(worker.claim())
    (b,) = worker.claim(1)
    answer = core.call("cancel_tasks", {"task_uuids": [task], "by": "ann", "reason": "mistake"})
    assert answer["tasks"] == [{"task_uuid": task, "changed": True, "state": "cancelled"}]
    assert core.states(task) == {"a": "complete", "b": "cancelled", "c": "cancelled", "d": "cancelled"}
    late = worker.complete([b])["outcomes"][0]
    assert (late["answer"], late["reason"]) == ("stale", "cancelled")
    assert core.rows("SELECT to_state, actor, reason FROM tasker.task_transitions ORDER BY at DESC LIMIT 1") == [
        ("cancelled", "ann", "mistake")
    ]


def test_a_heartbeat_reports_steps_that_were_cancelled_under_their_executor(core: Core) -> None:
    core.register("order", {"a": []})
    one, two = core.create("order", 2)
    worker = core.executor()
    worker.claim()
    core.call("cancel_tasks", {"task_uuids": [one]})
    lost = worker.heartbeat(oldest_call_no=1)["steps_lost"]
    assert [(s["task_uuid"], s["reason"]) for s in lost] == [(one, "cancelled")]
    worker.complete([s for s in worker.last["steps"] if s["task_uuid"] == two])


@pytest.mark.parametrize("action", ["cancel_tasks", "pause_tasks", "resume_tasks"])
def test_actions_on_many_tasks_say_what_changed_and_what_does_not_exist(core: Core, action: str) -> None:
    core.register("order", {"a": []})
    (done,) = core.create("order")
    core.executor().run_all()
    answer = core.call(action, {"task_uuids": [UNKNOWN, done], "by": "me"})
    told = {t["task_uuid"]: (t["changed"], t["state"]) for t in answer["tasks"]}
    assert told == {UNKNOWN: (False, None), done: (False, "complete")}


@pytest.mark.parametrize("action", ["retry_task", "reset_step", "resolve_step", "resolve_task"])
def test_actions_on_an_unknown_task_say_so(core: Core, action: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        core.call(action, {"task_uuid": UNKNOWN, "step": "a", "by": "me"})
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK004", "task_uuid")


@pytest.mark.parametrize("action", ["reset_step", "resolve_step"])
def test_actions_on_an_unknown_step_say_so(core: Core, action: str) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    with pytest.raises(psycopg.Error, match="has no step nope") as caught:
        core.call(action, {"task_uuid": task, "step": "nope", "by": "me"})
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK004", "step")


def test_resolving_a_failed_step_by_hand_satisfies_its_dependents(core: Core) -> None:
    core.register("order", CHAIN, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    answer = core.call(
        "resolve_step", {"task_uuid": task, "step": "a", "results": {"n": 7}, "by": "ann", "reason": "ok"}
    )
    assert answer["task_state"] == "in_progress"
    worker.claim()
    assert worker.last["results"] == {task: {"0": {"n": 7}}}
    worker.complete(worker.last["steps"])
    assert worker.run_all() == 2
    assert core.task(task)["state"] == "complete"
    assert core.rows("SELECT resolution, resolved_by FROM tasker.dead_letters") == [("resolved", "ann")]


def test_resolving_the_last_failed_step_ends_the_task(core: Core) -> None:
    core.register("order", {"a": []}, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    answer = core.call("resolve_step", {"task_uuid": task, "step": "a", "results": None, "by": "me"})
    assert answer["task_state"] == "complete"
    assert core.task(task)["finish_no"] == 2


def test_resolving_one_of_two_failed_steps_leaves_the_task_in_error(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    answer = core.call("resolve_step", {"task_uuid": task, "step": "a", "results": {}, "by": "me"})
    assert answer["task_state"] == "error"


@pytest.mark.parametrize("state", ["pending", "enqueued", "in_progress", "waiting_for_retry"])
def test_a_step_can_be_resolved_from_every_state_it_has_not_ended_in(core: Core, state: str) -> None:
    core.register("order", {"a": [], "b": ["a"], "c": ["b"]}, step={"backoff": "fixed", "backoff_base_ms": 60_000})
    (task,) = core.create("order")
    worker = core.executor()
    name = "b" if state == "pending" else "a"
    if state in ("in_progress", "waiting_for_retry"):
        steps = worker.claim()
        if state == "waiting_for_retry":
            worker.fail(steps)
    assert core.states(task)[name] == state
    core.call("resolve_step", {"task_uuid": task, "step": name, "results": {}, "by": "me"})
    if state == "in_progress":
        assert worker.complete(steps)["outcomes"][0]["answer"] == "stale"
    worker.run_all()
    assert core.task(task)["state"] == "complete"


def test_resolving_a_task_closes_what_is_left_of_it(core: Core) -> None:
    core.register("order", CHAIN, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    core.call("resolve_task", {"task_uuid": task, "by": "ann", "reason": "refunded"})
    row = core.task(task)
    assert (row["state"], row["open"], row["failed"], row["finish_no"]) == ("resolved_manually", 0, 1, 2)
    assert core.states(task) == {"a": "error", "b": "cancelled", "c": "cancelled", "d": "cancelled"}
    assert core.rows("SELECT resolution FROM tasker.dead_letters") == [("resolved",)]


def test_retrying_runs_the_failed_steps_alone(core: Core) -> None:
    core.register("order", DIAMOND, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker = core.executor()
    worker.complete(worker.claim())
    b, c = worker.claim()
    worker.complete([b])
    worker.fail([c])
    answer = core.call("retry_task", {"task_uuid": task, "by": "me"})
    assert (answer["state"], answer["retried"]) == ("in_progress", 1)
    (again,) = worker.claim()
    assert again["step_uuid"] == c["step_uuid"]
    worker.complete([again])
    assert worker.run_all() == 1
    assert core.task(task)["state"] == "complete"


@pytest.mark.parametrize("state", ["in_progress", "complete", "cancelled", "paused"])
def test_only_a_task_in_error_can_be_retried(core: Core, state: str) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    if state == "complete":
        core.executor().run_all()
    elif state == "cancelled":
        core.call("cancel_tasks", {"task_uuids": [task]})
    elif state == "paused":
        core.call("pause_tasks", {"task_uuids": [task]})
    with pytest.raises(psycopg.Error, match=f"is {state}") as caught:
        core.call("retry_task", {"task_uuid": task, "by": "me"})
    assert caught.value.sqlstate == "TK005"


def test_a_running_step_that_is_reset_runs_anew_and_its_old_outcome_is_stale(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    worker = core.executor()
    (old,) = worker.claim()
    core.call("reset_step", {"task_uuid": task, "step": "a", "by": "alice", "reason": "it hangs"})
    assert worker.complete([old])["outcomes"][0]["answer"] == "stale"
    assert worker.run_all() == 1
    reason = core.one(
        "SELECT reason FROM tasker.workflow_step_transitions WHERE from_state = 'in_progress' AND to_state = 'enqueued'"
    )
    assert reason == "reset by alice: it hangs"


def test_resuming_a_wide_task_obeys_the_burst_limit(core: Core) -> None:
    core.register("wide", {f"s{i}": [] for i in range(300)})
    (task,) = core.create("wide")
    core.call("pause_tasks", {"task_uuids": [task]})
    core.rows_affected("DELETE FROM pgmq.q_shop_queue")
    core.rows_affected("DELETE FROM pgmq.q_step_enqueue")
    core.call("resume_tasks", {"task_uuids": [task]})
    assert core.depth("shop_queue") == 256
    core.call("enqueue_deferred_steps", {"limit": 5})
    assert core.executor().run_all(300) == 300


# -- admission ------------------------------------------------------------------------------------------------


def test_admission_goes_by_priority_and_age_and_future_tasks_do_not_stand_in_front(core: Core) -> None:
    core.register("order", {"a": []}, input_schema={"type": "object"})
    low, high = core.create("order", priority=0)[0], core.create("order", priority=9)[0]
    core.create("order", priority=99, run_at="2999-01-01T00:00:00Z")
    second = core.create("order", priority=9)[0]
    claimed = core.call("claim_ready_tasks", {"processor": "p", "limit": 10})
    assert [t["task_uuid"] for t in claimed["tasks"]] == [high, second, low]
    assert claimed["next_due_seconds"] > 1e9
    assert all(t["check_context"] and t["context"] == {} for t in claimed["tasks"])
    assert core.call("claim_ready_tasks", {"processor": "q", "limit": 10})["tasks"] == []


def test_a_scheduled_task_is_admitted_when_its_time_has_come(core: Core) -> None:
    core.register("order", {"a": []})
    core.move_clock(-120)
    run_at = core.one("SELECT (tasker.now() + interval '1 minute')::text")
    (task,) = core.create("order", run_at=run_at)
    assert core.call("claim_ready_tasks", {"processor": "p", "limit": 10})["tasks"] == []
    core.move_clock(0)
    ((claimed),) = core.call("claim_ready_tasks", {"processor": "p", "limit": 10})["tasks"]
    assert (claimed["task_uuid"], claimed["check_context"]) == (task, False)
    core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "p"})
    assert core.executor().run_all() == 1


def test_an_admission_claim_expires_and_anybody_goes_on(core: Core) -> None:
    core.register("order", {"a": []}, input_schema={})
    (task,) = core.create("order")
    core.call("claim_ready_tasks", {"processor": "p", "limit": 1, "timeout_seconds": 10})
    refused = core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "q"})
    assert refused["admitted"] == 0
    assert core.call("extend_task_claim", {"task_uuid": task, "processor": "q"}) == {"extended": False}
    assert core.call("extend_task_claim", {"task_uuid": task, "processor": "p", "timeout_seconds": 10})["extended"]
    core.move_clock(11)
    assert len(core.call("claim_ready_tasks", {"processor": "q", "limit": 1})["tasks"]) == 1
    assert core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "q"})["admitted"] == 1
    assert core.call("enqueue_ready_steps", {"task_uuids": [task], "processor": "q"})["admitted"] == 0


def test_a_released_admission_claim_is_free_at_once(core: Core) -> None:
    core.register("order", {"a": []}, input_schema={})
    (task,) = core.create("order")
    core.call("claim_ready_tasks", {"processor": "p", "limit": 1})
    assert core.call("release_task_claim", {"task_uuid": task, "processor": "q"}) == {"released": False}
    assert core.call("release_task_claim", {"task_uuid": task, "processor": "p"}) == {"released": True}
    assert len(core.call("claim_ready_tasks", {"processor": "q", "limit": 1})["tasks"]) == 1


def test_a_task_whose_context_is_refused_ends_in_error_and_may_be_retried(core: Core) -> None:
    core.register("order", {"a": []}, input_schema={"type": "object"})
    (task,) = core.create("order")
    core.call("claim_ready_tasks", {"processor": "p", "limit": 1})
    bad = {"task_uuid": task, "reason": "invalid_context", "message": "order_id is missing"}
    answer = core.call("reject_tasks", {"tasks": [bad], "processor": "p"})
    assert answer["finished_tasks"] == [{"task_uuid": task, "state": "error"}]
    why = core.call("explain_task", task)
    assert (why["reason"], "invalid_context: order_id is missing" in why["detail"]) == ("finished", True)
    assert core.call("retry_task", {"task_uuid": task, "by": "me"})["state"] == "pending"
    assert len(core.call("claim_ready_tasks", {"processor": "p", "limit": 1})["tasks"]) == 1


def test_a_checked_context_is_admitted_at_once(core: Core) -> None:
    core.register("order", {"a": []}, input_schema={"type": "object"})
    (task,) = core.create("order", context_checked=True)
    assert core.task(task)["state"] == "in_progress"


# -- messages -------------------------------------------------------------------------------------------------


def test_requests_by_message_create_tasks_and_bad_ones_go_to_dead_letters(core: Core) -> None:
    core.register("order", {"a": []})
    core.rows_affected(
        """SELECT tasker.queue_send('task_requests_queue',
                                    ARRAY['{"namespace": "shop", "name": "order"}', '{"x": 1}']::jsonb[])"""
    )
    good, bad = core.rows("SELECT msg_id, message FROM tasker.queue_read('task_requests_queue', 30, 10) ORDER BY 1")
    answer = core.call(
        "process_task_requests",
        {
            "messages": [
                {"msg_id": good[0], "request": good[1]},
                {"msg_id": bad[0], "rejected": {"reason": "invalid_request", "message": "namespace is missing"}},
            ]
        },
    )
    assert answer["rejected"] == 1
    assert core.task(answer["created"][0]["task_uuid"])["state"] == "in_progress"
    assert core.depth("task_requests_queue") == 0
    ((reason, snapshot),) = core.rows("SELECT reason, snapshot FROM tasker.dead_letters")
    assert reason == "invalid_request"
    assert snapshot["message"] == {"x": 1}
    assert snapshot["why"] == "namespace is missing"


def test_a_request_refused_by_sql_leaves_all_messages_where_they_are(core: Core) -> None:
    core.register("order", {"a": []})
    with pytest.raises(psycopg.Error):
        core.call(
            "process_task_requests",
            {
                "messages": [
                    {"msg_id": 1, "request": {"namespace": "shop", "name": "order"}},
                    {"msg_id": 2, "request": {}},
                ]
            },
        )
    assert core.one("SELECT count(*) FROM tasker.tasks") == 0


# -- reading --------------------------------------------------------------------------------------------------


def test_the_readers_describe_a_task_half_way(core: Core) -> None:
    core.register("order", DIAMOND)
    (task,) = core.create("order")
    worker = core.executor()
    worker.complete(worker.claim())
    (b,) = worker.claim(1)
    context = core.call("get_task_execution_context", task)
    assert (context["complete"], context["in_progress"], context["enqueued"]) == (1, 1, 1)
    assert (context["execution_status"], float(context["progress"])) == ("processing", 25.0)
    status = {s["step"]: s for s in core.call("get_step_readiness_status", task)}
    assert status["d"]["unmet_parents"] == ["b", "c"]
    assert status["c"]["ready"] is True
    levels = {s["step"]: s["level"] for s in core.call("calculate_dependency_levels", task)}
    assert levels == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert core.rows("SELECT from_step, to_step FROM tasker.workflow_step_edges ORDER BY 1, 2") == [
        ("a", "b"),
        ("a", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    counts = core.call("get_system_health_counts")
    assert counts["tasks"]["live_steps"] == 2
    assert counts["executors"]["step_executor"]["alive"] == 1
    assert counts["queues"]["shop_queue"]["depth"] == 1
    assert core.call("get_analytics_metrics", "2000-01-01")["steps"]["complete"] == 1
    assert core.one("SELECT tasker.get_task_execution_contexts(ARRAY[%s]::uuid[])", task) == [context]
    worker.complete([b])
    worker.run_all()
    assert core.call("get_slowest_tasks", "2000-01-01", 5)[0]["task_uuid"] == task


def test_why_names_a_reason_for_every_state(core: Core) -> None:
    core.register("order", CHAIN, step={"max_attempts": 2, "backoff": "fixed", "backoff_base_ms": 60_000})
    (task,) = core.create("order")

    def why(step: str) -> str:
        return {s["step"]: s["reason"] for s in core.call("explain_task", task)["steps"]}[step]

    assert (why("a"), why("b")) == ("no_executor", "waiting_for_dependencies")
    worker = core.executor()
    assert why("a") == "all_busy"
    core.rows_affected("UPDATE tasker.namespaces SET paused_at = now()")
    assert why("a") == "namespace_paused"
    core.rows_affected("UPDATE tasker.namespaces SET paused_at = NULL")
    core.call("pause_tasks", {"task_uuids": [task], "by": "ann", "reason": "look"})
    assert why("a") == "task_paused"
    assert "by ann: look" in core.call("explain_task", task)["detail"]
    core.call("resume_tasks", {"task_uuids": [task]})
    steps = worker.claim()
    assert why("a") == "running"
    core.rows_affected("UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour'")
    assert why("a") == "executor_silent"
    worker.heartbeat(oldest_call_no=1)
    worker.fail(steps)
    assert why("a") == "retry_scheduled"
    core.move_clock(61)
    assert why("a") == "retry_due"
    worker.fail(worker.claim())
    assert (why("a"), why("b")) == ("failed", "blocked_by_failure")
    answer = core.call("explain_task", task)
    assert (answer["reason"], "tasker task retry" in answer["what_to_do"]) == ("finished", True)


def test_only_allowed_transitions_can_be_written(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    for table, row in (
        ("workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)", (task, 0, 0, 0)),
        ("task_transitions (task_uuid, from_state, to_state)", (task,)),
    ):
        places = ", ".join(["%s"] * len(row))
        with pytest.raises(psycopg.errors.CheckViolation, match="allowed_transition"):
            core.rows_affected(f"INSERT INTO tasker.{table} VALUES ({places}, 'complete', 'in_progress')", *row)


def test_an_executor_says_whether_it_is_idle_in_so_many_words(core: Core) -> None:
    worker = core.executor()
    for idle in (None, "yes", 1):
        with pytest.raises(psycopg.Error, match="idle must be true or false"):
            core.call("set_executor_idle", {"executor": worker.uuid, "idle": idle})
