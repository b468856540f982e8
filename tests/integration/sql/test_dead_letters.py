"""Dead letters: what failed for good is run again, settled by hand or put away, and the history says by whom."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql_kit import CHAIN, Core, Worker

ONCE = {"max_attempts": 1}
ANN = {"by": "ann", "reason": "mended"}


def letters(core: Core) -> dict[str, int]:
    """The open letters of steps: "task/step" and number."""
    query = "SELECT task_uuid || '/' || (snapshot->>'step'), id FROM tasker.dead_letters WHERE resolved_at IS NULL"
    return dict(core.rows(query))


def closed(core: Core) -> list[tuple[Any, ...]]:
    return core.rows(
        "SELECT id, resolution, resolved_by, resolved_reason FROM tasker.dead_letters"
        " WHERE resolved_at IS NOT NULL ORDER BY id"
    )


def outcomes(answer: dict[str, Any]) -> list[tuple[int, str, str | None]]:
    return [(entry["id"], entry["outcome"], entry["reason"]) for entry in answer["letters"]]


def fail_all(worker: Worker, **error: Any) -> None:
    while steps := worker.claim(50):
        worker.fail(steps, retryable=False, **error)


def bury(core: Core, message: Any) -> int:
    """A letter of a message that nobody could understand."""
    core.rows("SELECT pgmq.send('shop_queue', %s)", Jsonb(message))
    core.executor().claim()
    return int(core.one("SELECT max(id) FROM tasker.dead_letters"))


def test_a_letter_retried_runs_its_step_alone_and_what_it_blocked_goes_on(core: Core) -> None:
    core.register("order", {"a": [], "b": [], "after_a": ["a"], "after_b": ["b"]}, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    fail_all(worker)
    assert core.task(task)["state"] == "error"
    letter = letters(core)[f"{task}/a"]

    answer = core.call("retry_dead_letters", {"ids": [letter], **ANN})
    assert outcomes(answer) == [(letter, "retried", None)]
    assert (answer["retried"], answer["next_after"], answer["queues"]) == (1, None, ["shop_queue"])
    assert core.states(task) == {"a": "enqueued", "b": "error", "after_a": "pending", "after_b": "pending"}
    row = core.task(task)
    assert (row["state"], row["active"], row["finish_no"]) == ("in_progress", 1, 2)
    assert closed(core) == [(letter, "retried", "ann", "mended")]
    last = "SELECT from_state, to_state, actor, reason FROM tasker.task_transitions ORDER BY at DESC LIMIT 1"
    assert core.rows(last) == [("error", "in_progress", "ann", "mended")]

    assert worker.run_all() == 2
    assert core.states(task) == {"a": "complete", "b": "error", "after_a": "complete", "after_b": "pending"}
    assert core.task(task)["state"] == "error"
    core.call("retry_dead_letters", {"filter": {}, **ANN})
    assert worker.run_all() == 2
    assert core.task(task)["state"] == "complete"


def test_several_letters_of_one_task_reopen_it_once(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step=ONCE)
    core.create("order", 3)
    worker = core.executor()
    fail_all(worker)
    answer = core.call("retry_dead_letters", {"filter": {"namespace": "shop", "workflow": "order"}, **ANN})
    assert answer["retried"] == 6
    assert core.rows("SELECT DISTINCT finish_no, active FROM tasker.tasks") == [(2, 2)]
    assert worker.run_all() == 6


def test_a_retried_step_has_fresh_attempts_and_losses(core: Core) -> None:
    core.register("order", {"a": []}, step={"max_attempts": 2})
    (task,) = core.create("order")
    worker = core.executor()
    worker.fail(worker.claim())
    worker.fail(worker.claim())
    core.call("retry_dead_letters", {"filter": {"step": "a"}})
    step = core.steps(task)["a"]
    assert (step["attempts"], step["losses"], step["error"], step["fence"]) == (0, 0, None, 2)
    worker.fail(worker.claim())
    assert core.states(task) == {"a": "waiting_for_retry"}


def test_a_letter_of_a_task_that_still_runs_is_retried_without_reopening_it(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    a, b = worker.claim()
    worker.fail([a])
    core.call("retry_dead_letters", {"ids": list(letters(core).values())})
    row = core.task(task)
    assert (row["state"], row["active"], row["finish_no"]) == ("in_progress", 2, 1)
    worker.complete([b])
    assert worker.run_all() == 1
    assert core.task(task)["state"] == "complete"


def test_a_letter_of_a_paused_task_is_retried_and_runs_once_the_task_is_resumed(core: Core) -> None:
    core.register("order", {"a": [], "b": []}, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    a, b = worker.claim()
    worker.fail([a])
    core.call("pause_tasks", {"task_uuids": [task]})
    core.call("retry_dead_letters", {"filter": {}})
    assert worker.claim() == []
    core.call("resume_tasks", {"task_uuids": [task]})
    worker.complete([b])
    assert worker.run_all() == 1


def test_letters_that_were_settled_or_never_were_are_refused_with_the_reason(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    fail_all(worker)
    (letter,) = letters(core).values()
    core.call("retry_task", {"task_uuid": task, "by": "me"})
    answer = core.call("retry_dead_letters", {"ids": [999, letter]})
    assert outcomes(answer) == [(letter, "refused", "already_retried"), (999, "refused", "not_found")]
    assert (answer["retried"], core.task(task)["active"]) == (0, 1)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, {"a", "b", "other", "message"}),
        ({"kind": "step"}, {"a", "b", "other"}),
        ({"kind": "message"}, {"message"}),
        ({"namespace": "stock"}, {"other"}),
        ({"namespace": "shop"}, {"a", "b", "message"}),
        ({"workflow": "order"}, {"a", "b"}),
        ({"workflow": "order", "step": "b"}, {"b"}),
        ({"version": "2.0.0"}, {"other"}),
        ({"reason": "Boom"}, {"a", "other"}),
        ({"reason": "Crash", "kind": "step"}, {"b"}),
        ({"queue": "stock_queue"}, {"other"}),
        ({"created_before": "2000-01-01T00:00:00Z"}, set()),
        ({"created_after": "2000-01-01T00:00:00Z", "step": "a"}, {"a"}),
    ],
)
def test_letters_are_found_by_what_they_are_about(core: Core, condition: dict[str, str], expected: set[str]) -> None:
    core.register("order", {"a": [], "b": []}, step=ONCE)
    core.register("refill", {"other": []}, namespace="stock", version="2.0.0", step=ONCE)
    core.create("order")
    worker = core.executor("shop_queue", "stock_queue")
    a, b = worker.claim()
    worker.fail([a])
    worker.fail([b], type="Crash")
    core.create("refill", namespace="stock")
    fail_all(worker)
    bury(core, {"no": "step"})
    matched = core.one("SELECT (tasker.match_dead_letters(%s, NULL)).ids", Jsonb({"filter": condition}))
    query = "SELECT coalesce(snapshot->>'step', kind) FROM tasker.dead_letters WHERE id = ANY (%s)"
    assert {name for (name,) in core.rows(query, matched)} == expected


def test_a_batch_is_bounded_and_says_where_the_next_one_begins(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    core.create("order", 5)
    worker = core.executor()
    fail_all(worker)
    sizes, request = [], {"filter": {}, "limit": 2}
    while True:
        answer = core.call("retry_dead_letters", request)
        sizes.append(answer["retried"])
        fail_all(worker)  # what fails again meanwhile is none of this action's letters
        if answer["next_after"] is None:
            break
        request |= {"after": answer["next_after"], "until": answer["until"]}
    assert sizes == [2, 2, 1]
    assert len(letters(core)) == 5


@pytest.mark.parametrize(
    ("request_", "column"),
    [
        ({}, "ids"),
        ({"ids": [1], "filter": {}}, "ids"),
        ({"filter": {"workflo": "order"}}, "filter"),
        ({"filter": {"created_before": "soon"}}, "filter"),
        ({"filter": {"workflow": None}}, "filter"),
        ({"filter": {"task_uuid": "x"}}, "filter.task_uuid"),
        ({"ids": ["one"]}, "ids"),
        ({"filter": {}, "limit": "x"}, "filter"),
    ],
)
@pytest.mark.parametrize("function", ["retry_dead_letters", "dismiss_dead_letters"])
def test_a_selection_that_cannot_be_meant_is_refused(
    core: Core, function: str, request_: dict[str, Any], column: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        core.call(function, request_)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", column)


def test_a_message_goes_back_to_its_queue_as_it_was_or_mended(core: Core) -> None:
    core.register("order", {"a": []})
    first, second = bury(core, {"no": "step"}), bury(core, {"task_uuid": 1})
    answer = core.call("retry_dead_letters", {"ids": [first], **ANN})
    assert (outcomes(answer), answer["queues"]) == ([(first, "retried", None)], ["shop_queue"])
    assert {"no": "step"} in [body for (body,) in core.rows("SELECT message FROM pgmq.q_shop_queue")]
    (task,) = core.create("order")
    core.rows("SELECT pgmq.purge_queue('shop_queue')")
    step = core.steps(task)["a"]
    mended = {key: str(step[key]) for key in ("task_uuid", "step_uuid")} | {"position": 0, "map_index": 0}
    core.call("retry_dead_letters", {"ids": [second], "message": mended, **ANN})
    assert closed(core) == [(first, "retried", "ann", "mended"), (second, "retried", "ann", "mended")]
    assert core.one("SELECT snapshot->'sent' FROM tasker.dead_letters WHERE id = %s", second) == mended
    assert core.one("SELECT snapshot->'message' FROM tasker.dead_letters WHERE id = %s", second) == {"task_uuid": 1}
    core.executor().run_all()
    assert core.task(task)["state"] == "complete"


def test_a_message_sent_again_that_is_understood_no_better_has_another_letter(core: Core) -> None:
    core.register("order", {"a": []})
    first = bury(core, {"no": "step"})
    core.call("retry_dead_letters", {"ids": [first]})
    core.executor().claim()
    assert core.rows("SELECT id, reason FROM tasker.dead_letters WHERE resolved_at IS NULL") == [
        (first + 1, "not_a_step_message")
    ]


def test_a_message_whose_queue_is_gone_stays_a_letter(core: Core) -> None:
    core.register("order", {"a": []})
    letter = bury(core, {"no": "step"})
    core.rows("SELECT pgmq.drop_queue('shop_queue')")
    assert outcomes(core.call("retry_dead_letters", {"ids": [letter]})) == [(letter, "refused", "no_queue")]
    core.rows("SELECT pgmq.create('shop_queue')")


@pytest.mark.parametrize("said", [{"ids": [1, 2], "message": {}}, {"ids": [1], "message": 3}])
def test_a_mended_message_is_an_object_for_one_letter(core: Core, said: dict[str, Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        core.call("retry_dead_letters", said)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", "message")


def test_a_mended_message_is_for_no_step(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    core.create("order")
    fail_all(core.executor())
    with pytest.raises(psycopg.Error, match="of no step") as caught:
        core.call("retry_dead_letters", {"ids": list(letters(core).values()), "message": {}})
    assert caught.value.sqlstate == "TK001"


def test_messages_are_dismissed_and_steps_are_not(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    core.create("order")
    fail_all(core.executor())
    (of_step,) = letters(core).values()
    message = bury(core, {"no": "step"})
    answer = core.call("dismiss_dead_letters", {"ids": [message, of_step, 99], **ANN})
    assert outcomes(answer) == [
        (of_step, "refused", "is_a_step"),
        (message, "dismissed", None),
        (99, "refused", "not_found"),
    ]
    assert closed(core) == [(message, "dismissed", "ann", "mended")]
    again = core.call("dismiss_dead_letters", {"ids": [message]})
    assert outcomes(again) == [(message, "refused", "already_dismissed")]


def test_dismissing_by_conditions_takes_messages_alone(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    core.create("order")
    fail_all(core.executor())
    message = bury(core, {"no": "step"})
    answer = core.call("dismiss_dead_letters", {"filter": {"namespace": "shop"}})
    assert (outcomes(answer), answer["dismissed"]) == ([(message, "dismissed", None)], 1)
    assert len(letters(core)) == 1


def test_a_step_is_resolved_by_its_letter_and_its_task_goes_on(core: Core) -> None:
    core.register("order", CHAIN, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    fail_all(worker)
    (letter,) = letters(core).values()
    answer = core.call("resolve_dead_letter", {"id": letter, "results": {"n": 7}, **ANN})
    assert (answer["task_uuid"], answer["state"], answer["task_state"]) == (task, "resolved_manually", "in_progress")
    worker.claim()
    assert worker.last["results"] == {task: {"0": {"n": 7}}}
    worker.complete(worker.last["steps"])
    assert worker.run_all() == 2
    assert closed(core) == [(letter, "resolved", "ann", "mended")]


def test_only_open_letters_of_steps_can_be_resolved(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    (task,) = core.create("order")
    worker = core.executor()
    fail_all(worker)
    (letter,) = letters(core).values()
    core.call("retry_dead_letters", {"ids": [letter], "by": "ann"})
    message = bury(core, {"no": "step"})
    for identifier, sqlstate, text in (
        (letter, "TK005", "is closed: retried by ann"),
        (message, "TK005", "is a message"),
        (99, "TK004", "no dead letter 99"),
        ("x", "TK004", "no dead letter x"),
    ):
        with pytest.raises(psycopg.Error, match=text) as caught:
            core.call("resolve_dead_letter", {"id": identifier, "results": {}})
        assert (caught.value.sqlstate, caught.value.diag.column_name) == (sqlstate, "id")
    # The step that runs again was not touched.
    assert core.states(task)["a"] in ("enqueued", "in_progress")


def test_poison_runs_again_only_on_somebodys_word(core: Core) -> None:
    core.register("order", {"a": []})
    (task,) = core.create("order")
    for _ in range(2):
        worker = core.executor()
        worker.claim()
        worker.die()
        core.call("recover_lost_steps", {"lease_seconds": 15, "max_losses": 2, "net_page": 0})
    assert core.rows("SELECT reason, (snapshot->>'losses')::integer FROM tasker.dead_letters") == [("poison", 2)]
    core.call("retry_dead_letters", {"filter": {"reason": "poison"}})
    core.executor().run_all()
    assert core.task(task)["state"] == "complete"


def test_letters_by_the_thousand_are_retried_in_batches(core: Core) -> None:
    core.register("order", {"a": []}, step=ONCE)
    core.create("order", 2000)
    worker = core.executor()
    while steps := worker.claim(500):
        worker.fail(steps)
    retried, request = 0, {"filter": {"workflow": "order"}, "limit": 250}
    while True:
        answer = core.call("retry_dead_letters", request)
        retried += answer["retried"]
        if answer["next_after"] is None:
            break
        request |= {"after": answer["next_after"], "until": answer["until"]}
    assert retried == 2000
    assert core.depth("shop_queue") == 2000
    assert core.depth("step_enqueue") == 0
