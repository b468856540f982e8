"""What metrics count: each row of the history once, whoever commits when; what executors counted, after they went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import psycopg
import pytest

from tasker.coordinator.counting import count_history
from tasker.database.calls import run
from tasker.database.figures import CALL_BOUNDS, MetricFigures, collect_metrics, get_metrics
from tests.sql_kit import CHAIN, Core

NO_WAIT = {"patience_seconds": 0, "give_up_seconds": 3600, "call_bounds": CALL_BOUNDS}


def read(core: Core) -> MetricFigures:
    return run(core.connection, get_metrics())


def count(core: Core) -> dict[tuple[str, tuple[str, ...]], float]:
    assert run(core.connection, collect_metrics()).counted
    return {(metric, labels): value for metric, labels, value in read(core).totals}


def history(core: Core) -> Mapping[tuple[str, tuple[str, ...]], float]:
    """The same from all rows there are."""
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for from_state, to_state in core.rows("SELECT from_state, to_state FROM tasker.task_transitions"):
        if from_state is None:
            found["tasks_created_total", ()] += 1
        elif to_state in ("complete", "error", "cancelled", "resolved_manually"):
            found["tasks_finalized_total", (to_state,)] += 1
    names = {"complete": "completed", "error": "failed", "waiting_for_retry": "retried"}
    for to_state, step in core.rows(
        "SELECT a.to_state, n.name FROM tasker.workflow_step_transitions AS a JOIN tasker.tasks AS t USING (task_uuid)"
        " JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = a.position"
    ):
        if to_state in names:
            found[f"steps_{names[to_state]}_total", ("shop", "order", step)] += 1
    return found


def test_what_happened_is_counted_once_however_often_it_is_asked_for(core: Core) -> None:
    core.register("order", CHAIN, step={"max_attempts": 2, "backoff": "fixed", "backoff_base_ms": 0})
    core.create("order", count=3)
    worker = core.executor()
    steps = worker.claim()
    worker.fail(steps[:1])
    worker.complete(steps[1:])
    assert count(core) == history(core)
    worker.run_all()
    core.create("order")
    first = count(core)
    assert first == history(core)
    assert first["tasks_created_total", ()] == 4
    assert first["tasks_finalized_total", ("complete",)] == 3
    assert first["steps_retried_total", ("shop", "order", "a")] == 1
    assert count(core) == first


def test_totals_stay_when_history_goes(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    core.executor().run_all()
    before = count(core)
    core.rows_affected(
        "TRUNCATE tasker.task_transitions, tasker.workflow_step_transitions, tasker.tasks, tasker.task_contexts,"
        " tasker.workflow_steps, tasker.step_claims"
    )
    assert count(core) == before


def test_what_an_open_transaction_writes_is_counted_when_it_has_committed(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")  # the first task of a workflow marks it as used, which others would wait for
    with psycopg.connect(core.url) as slow:
        slow.execute("SELECT tasker.create_task('shop', 'order')")
        core.create("order")
        assert core.call("collect_metrics", NO_WAIT)["counted"] is False
        slow.commit()
        assert count(core)["tasks_created_total", ()] == 3
        slow.execute("SELECT tasker.create_task('shop', 'order')")
        slow.rollback()
    assert count(core)["tasks_created_total", ()] == 3


def test_a_transaction_that_stays_open_holds_up_counting_for_a_while_only(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    with psycopg.connect(core.url) as slow:
        slow.execute("SELECT tasker.create_task('shop', 'order')")
        core.create("order")
        assert core.call("collect_metrics", NO_WAIT)["counted"] is False
        assert core.call("collect_metrics", {**NO_WAIT, "give_up_seconds": 0})["counted"] is True
        core.create("order")
        assert core.call("collect_metrics", {**NO_WAIT, "give_up_seconds": 0})["counted"] is True
        assert ("tasks_created_total", (), 3.0) in read(core).totals
        slow.commit()
    assert count(core)["tasks_created_total", ()] == 3, "it was left out for good"
    assert core.one("SELECT waiting FROM tasker.metric_progress") == {}


def test_one_counts_and_the_others_leave_it_to_that_one(core: Core) -> None:
    with psycopg.connect(core.url) as first:
        first.execute("SELECT tasker.collect_metrics('{}')")
        assert core.call("collect_metrics", NO_WAIT)["counted"] is False


def test_after_a_pause_a_part_is_counted_at_a_time(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    core.rows_affected("UPDATE tasker.metric_progress SET counted_until = clock_timestamp() - interval '90 minutes'")
    assert core.call("collect_metrics", NO_WAIT)["behind"] is True
    assert read(core).totals == ()
    assert core.call("collect_metrics", NO_WAIT)["behind"] is False
    assert read(core).totals == (("tasks_created_total", (), 1.0),)


def test_steps_beyond_the_bound_share_a_line(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order", count=2)
    worker = core.executor()
    worker.complete(worker.claim())
    assert core.call("collect_metrics", {**NO_WAIT, "max_series": 1})["counted"]
    worker.run_all()
    assert core.call("collect_metrics", {**NO_WAIT, "max_series": 1})["counted"]
    steps = {labels: value for metric, labels, value in read(core).totals if metric == "steps_completed_total"}
    assert steps == {("shop", "order", "a"): 2, ("other", "other", "other"): 6}


def test_attempts_at_finalization_are_counted_by_what_became_of_them(core: Core) -> None:
    core.register("order", CHAIN, has_after_work=True)
    (task,) = core.create("order")
    core.executor().run_all()
    query = "SELECT claim_no FROM tasker.claim_task_for_finalization(%s, %s, 30)"
    number = core.one(query, task, "one")
    core.one(query, task, "two")
    core.one("SELECT tasker.extend_finalization_claim(%s, 'one', %s)", task, number)
    assert read(core).finalization_claims == 1
    core.one("SELECT tasker.release_finalization_claim(%s, 'two', %s)", task, number)
    core.rows_affected("UPDATE tasker.tasks SET finalization_claim_expires_at = now() - interval '1 s'")
    number = core.one(query, task, "two")
    core.call("finalize_task", {"task_uuid": task, "processor": "two", "claim_no": number})
    found = count(core)
    assert found["finalization_claim_attempts_total", ()] == 3
    assert found["finalization_claim_success_total", ()] == 2
    assert found["finalization_claims_expired_total", ()] == 1
    assert found["finalization_claim_contention_total", ()] == 1
    assert found["finalization_claim_contention_by_reason_total", ("already_claimed",)] == 1
    assert found["finalization_claim_extend_total", ("extended",)] == 1
    assert found["finalization_claim_release_total", ("not_held",)] == 1
    buckets = {
        labels: n for (metric, labels), n in found.items() if metric == "finalization_claim_duration_seconds_bucket"
    }
    assert sum(buckets.values()) == 3
    assert {bound for (bound,) in buckets} <= {*(str(float(bound)) for bound in CALL_BOUNDS), "+Inf"}
    assert found["finalization_claim_duration_seconds_sum", ()] > 0
    assert sum(n for (metric, _), n in found.items() if metric == "finalization_duration_seconds_bucket") == 1
    assert read(core).finalization_claims == 0


def test_what_executors_counted_stays_after_they_went(core: Core) -> None:
    def counted() -> Mapping[str, float]:
        return read(core).executors

    first, second = core.executor(), core.executor()
    core.call("heartbeat", {"executor": first.uuid, "oldest_call_no": 1, "counters": {"completed": 5, "odd": "x"}})
    core.call("heartbeat", {"executor": second.uuid, "oldest_call_no": 1, "counters": {"completed": 7, "late": 1}})
    assert counted() == {"completed": 12, "late": 1}
    core.call("deregister_executor", {"executor": first.uuid, "counters": {"completed": 6}})
    assert counted() == {"completed": 13, "late": 1}
    core.rows_affected("UPDATE tasker.executors SET lost_at = now() - interval '25 hours'")
    core.call("recover_lost_steps", {})
    assert core.one("SELECT count(*) FROM tasker.executors") == 0
    assert counted() == {"completed": 13, "late": 1}
    for _ in range(100):
        core.call("deregister_executor", {"executor": core.executor().uuid, "counters": {"completed": 1}})
    run(core.connection, collect_metrics())
    assert core.one("SELECT count(*) FROM tasker.ended_executors") == 1
    assert counted() == {"completed": 113, "late": 1}


@pytest.mark.parametrize("counters", ["many", ["completed"], {"completed": 2**62, "busy_ms": "long", "odd": {"a": 1}}])
def test_counters_that_are_none_hide_nobody_elses(core: Core, counters: object) -> None:
    core.call("heartbeat", {"executor": core.executor().uuid, "oldest_call_no": 1, "counters": {"completed": 5}})
    strange = core.executor().uuid
    core.call("heartbeat", {"executor": strange, "oldest_call_no": 1, "counters": counters})
    assert read(core).executors == {"completed": 5}
    assert core.call("pool_count") == 2
    core.call("deregister_executor", {"executor": strange, "counters": counters})
    # Such as an earlier release kept.
    core.rows_affected(
        "INSERT INTO tasker.ended_executors (kind, counters) VALUES ('step_executor', '{\"late\": 1e400}')"
    )
    core.rows_affected(
        "INSERT INTO tasker.ended_executors (kind, counters) SELECT 'step_executor', '[]' FROM generate_series(1, 100)"
    )
    assert read(core).executors == {"completed": 5}
    run(core.connection, collect_metrics())
    assert read(core).executors == {"completed": 5}


def test_a_counter_need_not_be_a_whole_number(core: Core) -> None:
    worker = core.executor().uuid
    counters = {"completed": 5, "busy_ms": 12.5}
    core.call("heartbeat", {"executor": worker, "oldest_call_no": 1, "counters": counters})
    assert core.call("pool_count") == 1
    assert read(core).executors == counters


def test_a_month_without_anybody_is_caught_up_with_in_one_call(core: Core) -> None:
    core.register("order", CHAIN)
    core.create("order")
    core.rows_affected("UPDATE tasker.metric_progress SET counted_until = clock_timestamp() - interval '31 days'")
    assert count_history(core.connection) > 1
    assert count_history(core.connection) == 1
    assert read(core).totals == (("tasks_created_total", (), 1.0),)


def test_health_and_metrics_read_no_finished_task(core: Core) -> None:
    """Every table of tasks and history is read by an index: what is over may be as much as it likes."""
    core.register("order", CHAIN)
    core.create("order", count=300)
    core.executor().run_all()
    count(core)

    def read_so_far() -> int:
        core.rows("SELECT pg_stat_force_next_flush()")
        core.rows("SELECT pg_stat_clear_snapshot()")
        return int(
            core.one(
                "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = 'tasker'"
                " AND relname ~ '^(tasks|workflow_steps|task_transitions|workflow_step_transitions)'"
            )
        )

    core.rows_affected("ANALYZE")
    before = read_so_far()
    core.rows("SELECT tasker.get_system_health_counts()")
    read(core)
    assert count(core)
    assert read_so_far() == before
