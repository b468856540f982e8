"""create_tasks: what is stored, what is refused, and who is the same."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql_kit import CHAIN, DIAMOND, Core, fan


def test_a_new_task_runs_at_once_with_its_roots_enqueued(core: Core) -> None:
    core.register("order", DIAMOND)
    (task,) = core.create("order", context={"order_id": 42}, priority=3, tags=["eu"], correlation_id="c-1")
    row = core.task(task)
    assert (row["state"], row["active"], row["total"], row["priority"], row["tags"]) == (
        "in_progress",
        1,
        4,
        3,
        ["eu"],
    )
    assert core.states(task) == {"a": "enqueued", "b": "pending", "c": "pending", "d": "pending"}
    assert {name: step["unmet"] for name, step in core.steps(task).items()} == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert core.depth("shop_queue") == 1
    assert core.one("SELECT context FROM tasker.task_contexts") == {"order_id": 42}


def test_a_task_with_a_future_run_at_waits_with_all_its_rows(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order", run_at="2999-01-01T00:00:00Z")
    assert core.task(task)["state"] == "pending"
    assert set(core.states(task).values()) == {"pending"}
    assert core.depth("shop_queue") == 0


def test_the_highest_version_is_taken_when_none_is_named(core: Core) -> None:
    old = core.register("order", CHAIN, version="9.0.0")
    new = core.register("order", CHAIN, version="10.0.0")
    (latest,) = core.create("order")
    (pinned,) = core.create("order", version="9.0.0")
    assert core.task(latest)["named_task_id"] == new
    assert core.task(pinned)["named_task_id"] == old


def test_a_key_that_exists_returns_the_first_task_and_says_whether_the_context_is_the_same(core: Core) -> None:
    core.register("order", CHAIN)
    request = {"namespace": "shop", "name": "order", "identity_key": "order-42", "context": {"n": 1}}
    (first,) = core.create_many([request])
    (again,) = core.create_many([request])
    (other,) = core.create_many([{**request, "context": {"n": 2}}])
    assert (first["is_new"], first["same_context"]) == (True, True)
    assert (again["is_new"], again["same_context"], again["task_uuid"]) == (False, True, first["task_uuid"])
    assert (other["is_new"], other["same_context"], other["task_uuid"]) == (False, False, first["task_uuid"])
    assert core.one("SELECT count(*) FROM tasker.tasks") == 1


def test_a_key_twice_in_one_call_makes_one_task(core: Core) -> None:
    core.register("order", CHAIN)
    request = {"namespace": "shop", "name": "order", "identity_key": "k"}
    first, second = core.create_many([request, request])
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert first["task_uuid"] == second["task_uuid"]
    assert core.depth("shop_queue") == 1


def test_the_version_is_no_part_of_a_callers_key(core: Core) -> None:
    core.register("order", CHAIN, version="1.0.0")
    core.register("order", CHAIN, version="2.0.0")
    one, two = core.create_many(
        [{"namespace": "shop", "name": "order", "version": v, "identity_key": "k"} for v in ("1.0.0", "2.0.0")]
    )
    assert one["task_uuid"] == two["task_uuid"]


def test_a_strict_workflow_is_the_same_by_its_canonical_context_and_version(core: Core) -> None:
    core.register("order", CHAIN, version="1.0.0", identity_strategy="strict")
    core.register("order", CHAIN, version="2.0.0", identity_strategy="strict")
    base = {"namespace": "shop", "name": "order", "version": "1.0.0"}
    one, two, three, four = core.create_many(
        [
            {**base, "context": {"a": 1, "b": 2}},
            {**base, "context": {"b": 2, "a": 1}},
            {**base, "context": {"a": 1, "b": 3}},
            {**base, "version": "2.0.0", "context": {"a": 1, "b": 2}},
        ]
    )
    assert one["task_uuid"] == two["task_uuid"]
    assert len({one["task_uuid"], three["task_uuid"], four["task_uuid"]}) == 3


def test_names_and_keys_that_read_alike_when_joined_do_not_collide(core: Core) -> None:
    core.register("a_b", CHAIN, namespace="shop")
    core.register("b", CHAIN, namespace="shop_a")
    answers = core.create_many(
        [
            {"namespace": "shop", "name": "a_b", "identity_key": "c"},
            {"namespace": "shop_a", "name": "b", "identity_key": "c"},
            {"namespace": "shop", "name": "a_b", "identity_key": 'c"'},
            {"namespace": "shop", "name": "a_b", "identity_key": "c\\"},
        ]
    )
    assert all(answer["is_new"] for answer in answers)
    assert len({answer["task_uuid"] for answer in answers}) == 4


def test_tasks_without_a_key_are_always_new(core: Core) -> None:
    core.register("order", CHAIN)
    assert len(set(core.create("order", 3, context={"same": True}))) == 3


def test_step_uuids_lead_back_to_their_place(core: Core) -> None:
    core.register("order", CHAIN)
    (task,) = core.create("order")
    for step in core.steps(task).values():
        assert core.rows("SELECT * FROM tasker.step_key(%s, %s)", task, step["step_uuid"]) == [(step["position"], 0)]
    assert core.rows("SELECT * FROM tasker.step_key(%s, tasker.uuid7())", task) == []
    assert core.rows("SELECT * FROM tasker.step_key(%s, tasker.step_uuid(%s, 65533, 16777215))", task, task) == [
        (65533, 16777215)
    ]


def test_task_uuids_are_version_7_and_rise_with_time(core: Core) -> None:
    first, second = core.one("SELECT ARRAY[tasker.uuid7(), (SELECT tasker.uuid7() FROM pg_sleep(0.002))]")
    assert first < second
    assert (first.version, first.variant) == (7, "specified in RFC 4122")
    assert first.bytes[15] == 0


def test_creation_is_part_of_the_callers_transaction(core: Core) -> None:
    core.register("order", CHAIN)
    with core.connection.transaction(force_rollback=True):
        core.create("order", 5, identity_key=None)
        assert core.depth("shop_queue") == 5
    for table in ("tasks", "workflow_steps", "task_contexts", "task_identities", "task_transitions"):
        assert core.one(f"SELECT count(*) FROM tasker.{table}") == 0
    assert core.depth("shop_queue") == 0


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_creation_works_at_any_isolation_level(core: Core, level: str) -> None:
    core.register("order", CHAIN)
    with core.connection.transaction():
        core.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")  # type: ignore[arg-type]
        core.create("order", identity_key="k")
    assert core.depth("shop_queue") == 1


def test_a_wide_task_sends_256_messages_and_leaves_the_rest_to_the_step_enqueuer(core: Core) -> None:
    core.register("wide", {f"s{i}": [] for i in range(600)})
    (task,) = core.create("wide")
    assert core.task(task)["active"] == 600
    assert set(core.states(task).values()) == {"enqueued"}
    assert core.depth("shop_queue") == 256
    assert core.rows("SELECT message FROM pgmq.q_step_enqueue") == [
        ({"task_uuid": task, "position": -1, "map_index": 0, "from_index": 256},)
    ]
    while core.call("enqueue_deferred_steps", {"limit": 10})["taken"]:
        pass
    assert core.depth("shop_queue") == 600
    assert core.one("SELECT count(DISTINCT message->>'step_uuid') FROM pgmq.q_shop_queue") == 600


def test_create_task_in_plain_sql_makes_one_task(core: Core) -> None:
    core.register("order", CHAIN)
    task = core.one("SELECT tasker.create_task('shop', 'order', '{\"n\": 1}', identity_key => 'k', priority => 2)")
    assert core.task(str(task))["priority"] == 2
    assert core.one("SELECT tasker.create_task('shop', 'order', identity_key => 'k')") == task


BAD_REQUESTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"name": "order"}, "TK001", "namespace", "is missing"),
    ({"namespace": "shop"}, "TK001", "name", "is missing"),
    ({"namespace": "shop", "name": "order", "contxt": {}}, "TK001", "contxt", "unknown field"),
    ({"namespace": "shop", "name": "order", "context": [1]}, "TK001", "context", "must be an object, not array"),
    ({"namespace": "shop", "name": "order", "context": "x"}, "TK001", "context", "must be an object, not string"),
    ({"namespace": "shop", "name": "order", "priority": "high"}, "TK001", "priority", "whole number"),
    ({"namespace": "shop", "name": "order", "priority": 1.5}, "TK001", "priority", "whole number"),
    ({"namespace": "shop", "name": "order", "run_at": "tomorrow-ish"}, "TK001", "run_at", "is no time"),
    ({"namespace": "shop", "name": "order", "parent_task_uuid": "x"}, "TK001", "parent_task_uuid", "is no UUID"),
    (
        {"namespace": "shop", "name": "order", "parent_task_uuid": "01932c07-4d8a-7c3e-9f10-2b5d6e7f8a00"},
        "TK001",
        "parent_task_uuid",
        "there is no such task",
    ),
    ({"namespace": "shop", "name": "order", "tags": "eu"}, "TK001", "tags", "must be an array"),
    ({"namespace": "shop", "name": "order", "tags": [1]}, "TK001", "tags", "must be an array"),
    ({"namespace": "shop", "name": "order", "identity_key": ""}, "TK001", "identity_key", "must not be empty"),
    ({"namespace": "shop", "name": "order", "identity_key": 7}, "TK001", "identity_key", "must be a string"),
    ({"namespace": "shop", "name": "order", "identity_key": "k" * 1025}, "TK001", "identity_key", "at most 1024"),
    ({"namespace": "shop", "name": "order", "identity_strategy": "x"}, "TK001", "identity_strategy", "must be strict"),
    ({"namespace": "shop", "name": "order", "context_checked": "yes"}, "TK001", "context_checked", "true or false"),
    ({"namespace": "shop", "name": "odrer"}, "TK002", "name", "no workflow shop/odrer"),
    ({"namespace": "shop", "name": "order", "version": "9.9.9"}, "TK002", "version", "of version 9.9.9"),
    ({"namespace": "shop", "name": "keyed"}, "TK001", "identity_key", "is needed"),
    ({"namespace": "shop", "name": "exact", "identity_key": "k"}, "TK001", "identity_key", "has no meaning"),
    ({"namespace": "shop", "name": "small", "context": {"x": "y" * 200}}, "TK011", "context", "100 are allowed"),
]


@pytest.mark.parametrize(("request_", "sqlstate", "field", "message"), BAD_REQUESTS)
def test_a_bad_request_is_refused_by_field_and_leaves_no_trace(
    core: Core, request_: dict[str, Any], sqlstate: str, field: str, message: str
) -> None:
    core.register("order", CHAIN)
    core.register("keyed", CHAIN, identity_strategy="caller_provided")
    core.register("exact", CHAIN, identity_strategy="strict")
    core.register("small", CHAIN, max_context_bytes=100)
    good = {"namespace": "shop", "name": "order", "identity_key": "good"}
    with pytest.raises(psycopg.Error) as caught:
        core.create_many([good, request_])
    assert caught.value.sqlstate == sqlstate
    assert caught.value.diag.column_name == field
    assert message in str(caught.value)
    assert "request 1" in str(caught.value)
    assert caught.value.diag.message_hint
    assert core.one("SELECT count(*) FROM tasker.tasks") == 0
    assert core.one("SELECT count(*) FROM tasker.task_identities") == 0
    assert core.depth("shop_queue") == 0


@pytest.mark.parametrize("bad", [None, [], "text", 7])
def test_a_request_that_is_no_object_is_refused(core: Core, bad: object) -> None:
    with pytest.raises(psycopg.Error, match="a request is a JSON object"):
        core.rows("SELECT tasker.create_tasks(ARRAY[%s::jsonb])", Jsonb(bad))


def test_a_version_in_use_never_changes_and_an_unused_one_may(core: Core) -> None:
    unused = core.register("order", CHAIN)
    assert core.register("order", DIAMOND) == unused
    (task,) = core.create("order")
    assert len(core.steps(task)) == 4
    with pytest.raises(psycopg.Error) as caught:
        core.register("order", CHAIN)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK003", "version")
    assert core.register("order", CHAIN, version="1.0.1") != unused


def test_registering_the_same_digest_again_changes_nothing(core: Core) -> None:
    definition = {
        "namespace": "shop",
        "name": "order",
        "version": "1.0.0",
        "digest": "same",
        "document": {},
        "steps": [{"name": "a", "depends_on": []}],
    }
    assert core.call("register_template", definition) == {"named_task_id": 1, "is_new": True, "replaced": False}
    core.create("order")
    assert core.call("register_template", definition) == {"named_task_id": 1, "is_new": False, "replaced": False}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": []}, "definition"),
        ({"name": "Bad Name"}, "definition"),
        ({"version": "1"}, "definition"),
        ({"namespace": "orchestration"}, "namespace"),
        ({"namespace": "celery_x"}, "namespace"),
        ({"namespace": "x" * 34}, "namespace"),
        ({"steps": [{"name": "a", "depends_on": ["b"]}, {"name": "b", "depends_on": ["a"]}]}, "steps[0]"),
        ({"steps": [{"name": "a", "depends_on": ["a"]}]}, "steps[0]"),
        ({"steps": [{"name": "a"}, {"name": "a"}]}, "definition"),
        ({"steps": [{"depends_on": []}]}, "steps[0]"),
        ({"steps": [{"name": "a", "max_attempts": 99999}]}, "definition"),
        ({"steps": [{"name": "a", "timeout_seconds": -1}]}, "definition"),
        ({"steps": [{"name": "a", "delegated": True}]}, "definition"),
        ({"steps": [{"name": "a", "backoff": "wild"}]}, "definition"),
    ],
)
def test_a_bad_definition_is_refused_and_leaves_no_trace(core: Core, change: dict[str, Any], field: str) -> None:
    definition = {
        "namespace": "shop",
        "name": "order",
        "version": "1.0.0",
        "digest": "d",
        "steps": [{"name": "a"}],
        **change,
    }
    with pytest.raises(psycopg.Error) as caught:
        core.call("register_template", definition)
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", field)
    assert core.one("SELECT count(*) FROM tasker.named_tasks") == 0
    assert core.one("SELECT count(*) FROM tasker.namespaces") == 0


def test_a_fan_in_counts_every_parent(core: Core) -> None:
    core.register("fan", fan(40))
    (task,) = core.create("fan")
    assert core.steps(task)["last"]["unmet"] == 40
