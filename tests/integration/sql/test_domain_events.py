"""Domain events leave with the transaction that records an outcome: each once, and none without it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from tasker.database.calls import run
from tasker.database.figures import get_metrics
from tests.sql_kit import CHAIN, Core, Worker

QUEUE = "shop_domain_events"
ONE = {"a": []}


def register(core: Core, *events: Mapping[str, Any] | str, **definition: Any) -> None:
    """A workflow of one step, which publishes these events."""
    listed = [{"name": event} if isinstance(event, str) else dict(event) for event in events]
    step = {"publishes_events": listed, **definition.pop("step", {})}
    core.register("order", definition.pop("graph", ONE), step=step, **definition)


def sent(core: Core, queue: str = QUEUE) -> list[dict[str, Any]]:
    """The events in the queue, in their order."""
    return [message for (message,) in core.rows(f"SELECT message FROM pgmq.q_{queue} ORDER BY msg_id")]


def names(core: Core) -> list[str]:
    return [event["name"] for event in sent(core)]


def letters(core: Core) -> list[tuple[Any, ...]]:
    """The open letters of messages: queue, reason, name of the event, payload."""
    return core.rows(
        "SELECT queue, reason, snapshot #>> '{message,name}', snapshot #> '{message,payload}' FROM tasker.dead_letters"
        " WHERE resolved_at IS NULL AND kind = 'message' ORDER BY id"
    )


def read(core: Core, **request: Any) -> dict[str, Any]:
    return dict(core.call("read_events", {"namespace": "shop", **request}))


@pytest.fixture
def worker(core: Core) -> Worker:
    return core.executor()


def test_an_event_tells_what_came_of_which_step(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    (task,) = core.create("order", correlation_id="c-1")
    (step,) = worker.claim()
    worker.complete([step], outcome={"status": "complete", "results": {"paid": 7}})

    (event,) = sent(core)
    assert event.pop("event_id") == core.one(
        "SELECT md5(%s || ':1:order.paid')::uuid::text", core.steps(task)["a"]["step_uuid"].__str__()
    )
    assert event.pop("at")
    assert event == {
        "name": "order.paid",
        "version": 1,
        "namespace": "shop",
        "task": "order",
        "task_version": "1.0.0",
        "step": "a",
        "task_uuid": task,
        "step_uuid": step["step_uuid"],
        "fence": 1,
        "attempt": 1,
        "finish_no": None,
        "state": "complete",
        "correlation_id": "c-1",
        "condition": "success",
        "payload": {"paid": 7},
    }


ALL = [
    {"name": name, "condition": name}
    for name in ("success", "failure", "retryable_failure", "permanent_failure", "always")
]


def test_the_condition_decides_which_outcomes_an_event_tells_of(core: Core, worker: Worker) -> None:
    register(core, *ALL, step={"max_attempts": 2})
    core.create("order")
    worker.fail(worker.claim())
    assert names(core) == ["failure", "retryable_failure", "always"]
    assert {event["condition"] for event in sent(core)} == {"retryable_failure"}
    assert sent(core)[0]["payload"] == {
        "message": "boom", "type": "Boom", "attempt": 1, "retryable": True, "timeout": False,
    }  # fmt: skip
    core.rows_affected(f"DELETE FROM pgmq.q_{QUEUE}")

    worker.fail(worker.claim())
    assert names(core) == ["failure", "permanent_failure", "always"]
    core.rows_affected(f"DELETE FROM pgmq.q_{QUEUE}")

    core.create("order")
    worker.complete(worker.claim())
    assert names(core) == ["success", "always"]


def test_an_outcome_that_is_reported_again_publishes_nothing(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    core.create("order")
    steps = worker.claim()
    worker.complete(steps, call_no=7)
    worker.call_no = 7
    again = worker.complete(steps, call_no=7)
    assert [outcome["reason"] for outcome in again["outcomes"]] == ["repeated"]
    late = core.executor()
    assert late.complete(steps)["outcomes"][0]["answer"] == "stale"
    assert names(core) == ["order.paid"]


def test_what_is_rolled_back_publishes_nothing(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    core.create("order")
    steps = worker.claim()
    with core.connection.transaction(force_rollback=True):
        worker.complete(steps)
        assert names(core) == ["order.paid"]
    assert names(core) == []
    worker.complete(steps)
    assert names(core) == ["order.paid"]


def test_two_who_report_one_step_at_once_publish_once(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    core.create("order", 5)
    steps = worker.claim()
    other = Core(core.url)
    numbers = iter((11, 12))
    threads = [
        threading.Thread(
            target=worker.complete, args=(steps,), kwargs={"call_no": next(numbers), "core": one, "wait": True}
        )
        for one in (core, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    worker.call_no = 12
    assert names(core) == ["order.paid"] * 5
    assert len({event["event_id"] for event in sent(core)}) == 5


def test_the_payload_may_come_with_the_outcome(core: Core, worker: Worker) -> None:
    register(core, "shaped", "plain", "empty")
    core.create("order")
    said = {"status": "complete", "results": 1, "events": {"shaped": {"total": 3}, "empty": None, "unknown": 1}}
    worker.complete(worker.claim(), outcome=said)
    assert {event["name"]: event["payload"] for event in sent(core)} == {
        "shaped": {"total": 3},
        "plain": 1,
        "empty": None,
    }


def test_an_event_that_is_refused_is_a_dead_letter_and_can_be_sent_mended(core: Core, worker: Worker) -> None:
    register(core, "order.paid", "order.done", {"name": "order.failed", "condition": "failure"})
    (task,) = core.create("order")
    why = {"reason": "event_not_valid", "message": "total: is required", "payload": {"sum": 3}}
    rejected = {"order.paid": why, "order.failed": why}
    worker.complete(worker.claim(), outcome={"status": "complete", "results": {"sum": 3}, "rejected_events": rejected})
    assert core.task(task)["state"] == "complete"
    assert names(core) == ["order.done"]
    assert letters(core) == [(QUEUE, "event_not_valid", "order.paid", {"sum": 3})]

    (identifier, message) = core.rows("SELECT id, snapshot->'message' FROM tasker.dead_letters")[0]
    core.call("retry_dead_letters", {"ids": [identifier], "message": {**message, "payload": {"total": 3}}})
    assert [(event["name"], event["payload"]) for event in sent(core)] == [
        ("order.done", {"sum": 3}),
        ("order.paid", {"total": 3}),
    ]
    assert letters(core) == []


def test_a_payload_that_no_reader_could_read_is_refused_here(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    core.create("order")
    deep: Any = None
    for _ in range(235):
        deep = [deep]
    worker.complete(worker.claim(), outcome={"status": "complete", "results": 1, "events": {"order.paid": deep}})
    assert letters(core) == [(QUEUE, "event_not_valid", "order.paid", None)]


def test_fast_events_are_not_stored_and_broadcast_ones_are(core: Core, worker: Worker) -> None:
    register(core, {"name": "fast", "delivery": "fast"}, {"name": "both", "delivery": "broadcast"})
    core.create("order")
    worker.complete(worker.claim())
    assert names(core) == ["both"]


def test_a_queue_is_made_only_where_something_is_stored(core: Core) -> None:
    core.register("order", ONE)
    core.register("quick", ONE, step={"publishes_events": [{"name": "fast", "delivery": "fast"}]})
    there = "SELECT to_regclass('pgmq.q_shop_domain_events') IS NOT NULL"
    assert not core.one(there)
    register(core, "order.paid", version="2.0.0")
    assert core.one(there)


def test_a_queue_that_was_dropped_is_made_again_and_stops_no_step(core: Core, worker: Worker) -> None:
    register(core, "order.paid")
    core.rows("SELECT pgmq.drop_queue(%s)", QUEUE)
    core.create("order")
    worker.complete(worker.claim())
    assert names(core) == ["order.paid"]


def test_steps_of_another_namespace_publish_in_that_of_their_workflow(core: Core) -> None:
    core.register("order", ONE, step={"namespace": "stock", "publishes_events": [{"name": "stock.taken"}]})
    core.create("order")
    stock = core.executor("stock_queue")
    stock.complete(stock.claim())
    assert names(core) == ["stock.taken"]


def test_only_the_steps_that_say_so_publish(core: Core, worker: Worker) -> None:
    core.register(
        "order", CHAIN, steps={"b": {"publishes_events": [{"name": "b.done"}]}, "d": {"publishes_events": []}}
    )
    core.create("order", 3)
    worker.run_all(continue_limit=10)
    assert names(core) == ["b.done"] * 3


# -- what the engine and operators decide ---------------------------------------------------------------------------


def test_a_step_whose_executor_dies_for_good_has_failed(core: Core) -> None:
    register(core, *ALL)
    core.create("order")
    doomed = core.executor()
    doomed.claim()
    doomed.die()
    core.call("recover_lost_steps", {"lease_seconds": 15, "max_losses": 1})
    assert names(core) == ["failure", "permanent_failure", "always"]
    assert sent(core)[0]["payload"]["type"] == "poison"


def test_a_step_that_is_given_up_by_its_lifecycle_has_failed(core: Core, worker: Worker) -> None:
    register(core, *ALL, lifecycle={"max_duration_minutes": 1})
    core.create("order")
    worker.claim()
    core.move_clock(120)
    core.rows_affected("UPDATE tasker.tasks SET admitted_at = admitted_at - interval '2 minutes'")
    core.excuse("task-dates", "task-audit-times")
    core.call("act_on_stuck_tasks", {})
    core.move_clock(0)
    assert names(core) == ["failure", "permanent_failure", "always"]
    assert sent(core)[0]["payload"]["type"] == "lifecycle_max_duration"


def test_a_step_that_is_resolved_by_hand_is_a_success_and_says_how(core: Core, worker: Worker) -> None:
    register(core, *ALL, step={"max_attempts": 1})
    (task,) = core.create("order")
    worker.fail(worker.claim())
    core.rows_affected(f"DELETE FROM pgmq.q_{QUEUE}")
    core.call("resolve_step", {"task_uuid": task, "step": "a", "results": {"paid": 1}, "by": "ann"})
    assert [(event["name"], event["state"], event["payload"]) for event in sent(core)] == [
        ("success", "resolved_manually", {"paid": 1}),
        ("always", "resolved_manually", {"paid": 1}),
    ]


def test_cancelled_steps_publish_nothing(core: Core, worker: Worker) -> None:
    register(core, *ALL)
    (task,) = core.create("order")
    steps = worker.claim()
    core.call("cancel_tasks", {"task_uuids": [task], "by": "ann"})
    worker.complete(steps)
    assert names(core) == []


# -- tasks ----------------------------------------------------------------------------------------------------------


def finalize(core: Core, **said: Any) -> list[str]:
    """Claim what has finished and declare it final; the answers."""
    claims = core.call("claim_tasks_for_finalization", {"processor": "p", "limit": 50})["claims"]
    keys = ("task_uuid", "claim_no", "msg_id")
    return [
        core.call("finalize_task", {"processor": "p", **{key: claim[key] for key in keys}, **said})["answer"]
        for claim in claims
    ]


def test_events_of_a_task_leave_when_it_is_final_once_for_each_finish(core: Core, worker: Worker) -> None:
    core.register("order", ONE, step={"max_attempts": 1}, domain_events=ALL)
    (task,) = core.create("order", correlation_id="c")
    worker.fail(worker.claim())
    assert sent(core) == []
    assert finalize(core) == ["finalized"]
    assert names(core) == ["failure", "permanent_failure", "always"]
    first = sent(core)[0]
    assert (first["task_uuid"], first["step"], first["finish_no"]) == (task, None, 1)
    assert (first["state"], first["condition"], first["correlation_id"]) == ("error", "permanent_failure", "c")
    assert first["payload"] == {"state": "error", "steps": 1, "open": 0, "failed": 1, "skipped": 0}

    core.rows_affected(f"DELETE FROM pgmq.q_{QUEUE}")
    core.call("retry_task", {"task_uuid": task, "by": "ann"})
    worker.complete(worker.claim())
    finalize(core)
    assert [(event["name"], event["finish_no"]) for event in sent(core)] == [("success", 2), ("always", 2)]


@pytest.mark.parametrize(("action", "state"), [("cancel_tasks", "cancelled"), ("resolve_task", "resolved_manually")])
def test_a_task_that_somebody_ended_is_told_of_to_those_who_want_all(core: Core, action: str, state: str) -> None:
    core.register("order", ONE, domain_events=ALL)
    (task,) = core.create("order")
    core.call(action, {"task_uuids": [task], "task_uuid": task, "by": "ann"})
    finalize(core)
    assert [(event["name"], event["condition"]) for event in sent(core)] == [("always", state)]


def test_a_finalizer_that_was_overtaken_publishes_nothing(core: Core, worker: Worker) -> None:
    core.register("order", ONE, domain_events=[{"name": "order.done"}])
    core.create("order")
    worker.complete(worker.claim())
    (claim,) = core.call("claim_tasks_for_finalization", {"processor": "slow", "limit": 1})["claims"]
    answer = core.call("finalize_task", {"task_uuid": claim["task_uuid"], "processor": "slow", "claim_no": 0})
    assert (answer["answer"], names(core)) == ("claim_lost", [])
    said = {
        "processor": "slow",
        "claim_no": claim["claim_no"],
        "msg_id": claim["msg_id"],
        "events": {"order.done": [1]},
    }
    for _ in range(2):
        core.call("finalize_task", {"task_uuid": claim["task_uuid"], **said})
    assert [event["payload"] for event in sent(core)] == [[1]]


# -- registering ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "place"),
    [
        ({"name": "a"}, "publishes_events"),
        ([{"name": ""}], "publishes_events[0]"),
        (["a"], "publishes_events[0]"),
        ([{"name": "a"}, {"name": "b", "condition": "never"}], "publishes_events[1]"),
        ([{"name": "a", "delivery": "slow"}], "publishes_events[0]"),
        ([{"name": "a"}, {"name": "a", "condition": "failure"}], "publishes_events[0]"),
    ],
)
def test_events_that_cannot_be_meant_are_refused(core: Core, events: Any, place: str) -> None:
    for definition, prefix in (({"step": {"publishes_events": events}}, "steps[0]."), ({"domain_events": events}, "")):
        with pytest.raises(psycopg.Error) as caught:
            core.register("order", ONE, **definition)  # type: ignore[arg-type]
        assert caught.value.sqlstate == "TK001"
        expected = prefix + place if prefix else place.replace("publishes_events", "domain_events")
        assert caught.value.diag.column_name == expected


# -- reading --------------------------------------------------------------------------------------------------------


def publish(core: Core, *names: str) -> None:
    """Put bare events into the queue."""
    core.rows_affected(
        "SELECT tasker.queue_send(%s, (SELECT array_agg(jsonb_build_object('name', n)) FROM unnest(%s::text[]) AS n))",
        QUEUE,
        list(names),
    )


def taken(answer: Mapping[str, Any]) -> list[str]:
    return [entry["event"]["name"] for entry in answer["events"]]


def test_readers_share_what_there_is_and_what_is_not_settled_shows_again(core: Core) -> None:
    register(core, "a")
    publish(core, "a", "b", "c")
    first, second = read(core, limit=2), read(core)
    assert (taken(first), taken(second)) == (["a", "b"], ["c"])
    done, refused = first["events"][0]["msg_id"], second["events"][0]["msg_id"]
    problem = {"reason": "event_not_handled", "message": "boom"}
    request = {
        "done": [done],
        "refused": [{"msg_id": refused, "rejected": problem}],
        "again": [first["events"][1]["msg_id"]],
    }
    assert core.call("settle_events", {"namespace": "shop", **request}) == {"done": 1, "refused": 1}
    assert letters(core) == [(QUEUE, "event_not_handled", "c", None)]
    again = read(core)
    assert [(entry["event"]["name"], entry["read_count"]) for entry in again["events"]] == [("b", 1)]


def test_a_pattern_takes_what_it_matches_and_leaves_the_rest(core: Core) -> None:
    register(core, "a")
    publish(core, "order.paid", "order_paid", "stock.taken", "order.sent")
    assert taken(read(core, pattern="order.*", peek=True)) == ["order.paid", "order.sent"]
    assert taken(read(core, pattern="order_paid", peek=True)) == ["order_paid"]
    assert taken(read(core, pattern="%", peek=True)) == []
    assert taken(read(core, pattern="order.*")) == ["order.paid", "order.sent"]
    assert taken(read(core)) == ["order_paid", "stock.taken"]


def test_a_reader_passes_what_it_does_not_want_piece_by_piece(core: Core) -> None:
    register(core, "a")
    publish(core, *["other"] * 7, "mine", *["other"] * 3, "mine")
    seen, after, ends = [], 0, []
    while not ends or not ends[-1]:
        answer = read(core, pattern="mine", after=after, look=4, limit=1)
        seen += taken(answer)
        after = answer["last"] or after
        ends.append(answer["is_end"])
    assert seen == ["mine", "mine"]
    assert len(ends) <= 5
    assert answer["newest"] == after == core.one(f"SELECT max(msg_id) FROM pgmq.q_{QUEUE}")


def test_an_answer_is_bound_by_the_size_of_its_events(core: Core) -> None:
    register(core, "a")
    big = "SELECT tasker.queue_send(%s, ARRAY(SELECT jsonb_build_object('name', 'a', 'payload', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 100000))) FROM generate_series(1, 5)))"  # noqa: E501
    core.rows(big, QUEUE)
    first = read(core)
    assert (len(first["events"]), first["is_end"]) == (3, False)
    assert len(read(core, after=first["last"])["events"]) == 2


def test_what_is_stored_compressed_counts_as_what_it_is(core: Core) -> None:
    register(core, "a")
    big = "SELECT tasker.queue_send(%s, ARRAY(SELECT jsonb_build_object('name', 'a', 'payload', repeat('a', 5000000)) FROM generate_series(1, 3)))"  # noqa: E501
    core.rows(big, QUEUE)
    first = read(core, limit=3)
    assert (len(first["events"]), first["is_end"]) == (2, False)
    assert len(read(core, after=first["last"])["events"]) == 1


def test_there_is_nothing_to_read_where_nothing_was_ever_published(core: Core) -> None:
    for namespace in ("shop", "Shop; --", None):
        for function in ("read_events", "settle_events"):
            with pytest.raises(psycopg.Error) as caught:
                core.call(function, {"namespace": namespace})
            assert caught.value.sqlstate == "TK004"


def test_metrics_say_how_old_the_oldest_event_is_that_nobody_has_handled(core: Core) -> None:
    register(core, "order.paid")
    assert run(core.connection, get_metrics()).event_ages == {}

    publish(core, "order.paid", "order.sent")
    core.rows_affected(
        f"UPDATE pgmq.q_{QUEUE} SET enqueued_at = clock_timestamp()"
        " - CASE message->>'name' WHEN 'order.paid' THEN interval '1 hour' ELSE interval '1 minute' END"
    )
    (age,) = run(core.connection, get_metrics()).event_ages.items()
    assert age == ("shop", pytest.approx(3600, abs=60))

    (oldest,) = [event["msg_id"] for event in read(core, pattern="order.paid")["events"]]
    assert run(core.connection, get_metrics()).event_ages["shop"] > 3000  # it is read, and not handled yet
    core.call("settle_events", {"namespace": "shop", "done": [oldest]})
    assert run(core.connection, get_metrics()).event_ages["shop"] == pytest.approx(60, abs=59)


# -- retention ------------------------------------------------------------------------------------------------------


def test_events_that_nobody_reads_go_by_age_the_oldest_first(core: Core) -> None:
    register(core, "a")
    publish(core, *(f"e{n}" for n in range(5)))
    core.rows_affected(
        f"UPDATE pgmq.q_{QUEUE} SET enqueued_at = enqueued_at - interval '2 hours' WHERE message->>'name' < 'e3'"
    )
    keep = {"keep_seconds": 3600.0}
    assert core.call("prune_events", {**keep, "limit": 2}) == {"messages": 2, "last": None, "is_end": False}
    assert core.call("prune_events", keep) == {"messages": 1, "last": QUEUE, "is_end": True}
    assert names(core) == ["e3", "e4"]
    with pytest.raises(psycopg.Error, match="keep_seconds"):
        core.call("prune_events", {})
