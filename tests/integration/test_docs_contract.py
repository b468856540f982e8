"""The reference of the SQL contract names the keys that the functions read and answer with, and no others."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.pages import contract, contract_session
from docs.pages.contract_functions import (
    CLAIMED,
    CLIENT_FUNCTIONS,
    ERROR,
    OUTCOME,
    REGISTER_TEMPLATE_STEP,
    STEP_KEYS,
    WORKER_FUNCTIONS,
    Function,
    Key,
)
from tasker.database.roles import GRANTED_FUNCTIONS
from tests.sql_kit import CHAIN, DIAMOND, Core

FUNCTIONS = Path(__file__).parents[2] / "migrations" / "functions"
ALL = {function.name: function for function in (*WORKER_FUNCTIONS, *CLIENT_FUNCTIONS)}
WITH_A_REQUEST = [function for function in ALL.values() if function.takes == "request jsonb"]


def text_of(name: str) -> str:
    """A function without its comments."""
    return re.sub(r"^\s*--.*$", "", (FUNCTIONS / f"{name}.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)


def names(keys: Iterable[Key]) -> set[str]:
    return {key.name for key in keys}


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", WITH_A_REQUEST, ids=lambda function: function.name)
def test_every_key_that_a_function_reads_is_described(function: Function) -> None:
    read = set(re.findall(r"request->>?'(\w+)'", text_of(function.name)))
    assert names(function.request) == read


@pytest.mark.parametrize("function", WITH_A_REQUEST, ids=lambda function: function.name)
def test_the_numbers_that_stand_for_keys_left_out_are_those_of_the_function(function: Function) -> None:
    found = dict(re.findall(r"coalesce\(\(request->>'(\w+)'\)::[a-z ]+, ([\w.]+)\)", text_of(function.name)))
    described = {key.name: key.default for key in function.request}
    # Where the function falls back on a column, the page says so in words.
    assert {name: described[name] for name in found if "." not in found[name]} == {
        name: default for name, default in found.items() if "." not in default
    }


def test_every_key_of_an_outcome_is_described() -> None:
    text = text_of("settle_outcomes")
    record = re.search(r"jsonb_to_recordset\(outcomes\) AS \((.*?)\)", text, re.DOTALL)
    assert record is not None
    published = set(re.findall(r"e\.said->'(\w+)'", text_of("publish_step_events")))
    assert names(OUTCOME) == {column.split()[0] for column in record[1].split(",")} | published
    assert published == {"events", "rejected_events"}
    assert names(ERROR) == set(re.findall(r"\b[dj]\.error->>'(\w+)'", text))


def test_every_reason_of_an_answer_is_described() -> None:
    text = text_of("settle_outcomes")
    case = re.search(r"SELECT l\.\*, CASE(.*?)END AS why", text, re.DOTALL)
    assert case is not None
    reasons = set(re.findall(r"(?:THEN|ELSE) '(\w+)'", case[1]))
    shown = " ".join(cell for row in contract.VERDICTS for cell in row).replace("step_is_…", "step_is_")
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in shown] == []
    assert len(reasons) == 8


@pytest.mark.parametrize("function", ["release_steps", "mark_steps_started"])
def test_steps_are_named_by_the_keys_that_are_described(function: str) -> None:
    assert names(STEP_KEYS) == set(re.findall(r"e\.step->>'(\w+)'", text_of(function)))


def test_every_key_of_a_request_for_a_task_is_described() -> None:
    known = re.search(r"known constant text\[\] := ARRAY\[(.*?)\]", text_of("check_task_request"), re.DOTALL)
    assert known is not None
    assert names(ALL["create_tasks"].request) == set(re.findall(r"'(\w+)'", known[1]))


def test_every_key_of_a_definition_is_described() -> None:
    text = text_of("register_template")
    record = re.search(r"jsonb_to_record\(definition\) AS x\((.*?)\)", text, re.DOTALL)
    assert record is not None
    # The document is read by describe_templates.
    assert names(ALL["register_template"].request) == {
        "document",
        *(column.split()[0] for column in record[1].split(",")),
    }
    assert names(REGISTER_TEMPLATE_STEP) == set(re.findall(r"\bl?\.?step->>?'(\w+)'", text))
    defaults = dict(re.findall(r"coalesce\(\(?l\.step->>'(\w+)'\)?(?:::[a-z ]+)?, '?([\w]+)'?\)", text))
    described = {key.name: key.default for key in REGISTER_TEMPLATE_STEP}
    assert {name: described[name] for name in defaults} == defaults
    assert len(defaults) >= 9


def test_every_function_that_is_described_is_granted_to_the_roles_that_are_named() -> None:
    assert [name for name in ALL if not contract.roles_of(name)] == []
    for function in WORKER_FUNCTIONS:
        assert function.name in GRANTED_FUNCTIONS["tasker_worker"]
    for function in CLIENT_FUNCTIONS:
        role = "tasker_worker" if function.name == "register_template" else "tasker_client"
        assert function.name in GRANTED_FUNCTIONS[role]


def test_every_sqlstate_that_a_function_raises_is_described() -> None:
    raised = {
        sqlstate
        for path in FUNCTIONS.glob("*.sql")
        for sqlstate in re.findall(r"'(TK\d{3})'", path.read_text(encoding="utf-8"))
    }
    assert raised <= contract.own_errors().keys()


# -- answers ----------------------------------------------------------------------------------------------------------


def test_every_key_of_an_answer_is_described_with_its_type(tasker_database_url: str) -> None:
    core = Core(tasker_database_url)
    try:
        answers = list(_conversation(core))
    finally:
        core.close()
    found: dict[str, dict[str, set[str]]] = {}
    for name, answer in answers:
        paths = found.setdefault(name, {})
        for path, kind in _flatten(answer, _leaves(ALL[name])):
            paths.setdefault(path, set()).add(kind)

    wanted = {name: _described(ALL[name]) for name in found}
    assert {name: set(paths) for name, paths in found.items()} == {name: set(keys) for name, keys in wanted.items()}
    for name, paths in found.items():
        for path, kinds in paths.items():
            assert kinds <= _kinds(wanted[name][path]), f"{name}: {path}"
    # Functions without a JSON answer, or with an empty one, have nothing to describe.
    assert {function.name for function in ALL.values() if function.answer or function.claims} == set(found)


def _described(function: Function) -> dict[str, str]:
    keys = [*function.answer, *(CLAIMED if function.claims else ())]
    return {key.name: key.type for key in keys}


def _leaves(function: Function) -> set[str]:
    """Paths of values that are the users', or have no keys worth a name."""
    return {name for name, kind in _described(function).items() if kind == "any" or kind.endswith("[]")}


_KINDS = {
    "uuid": {"string"},
    "text": {"string"},
    "timestamp": {"string"},
    "integer": {"integer"},
    "number": {"integer", "number"},
    "boolean": {"boolean"},
    "object": {"object"},
    "null": {"null"},
}


def _kinds(described: str) -> set[str]:
    """What JSON may have where the page says ``described``."""
    if described == "any":
        return {"string", "integer", "number", "boolean", "object", "array", "null"}
    if described.endswith("[]"):
        return {"array"}
    return set().union(*(_KINDS[each] for each in described.split(" | ")))


_NAMED_KEYS = {"tasks": "{task}", "results": "{task}", "templates": "{template}"}


def _flatten(value: Any, leaves: set[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and kinds of a JSON value: ``[]`` for elements, ``{…}`` where keys are data."""
    if path and (path in leaves or not isinstance(value, dict | list)):
        yield path, _kind(value)
    elif isinstance(value, list):
        for each in value:
            yield from _flatten(each, leaves, f"{path}[]")
    else:
        if path in leaves or any(leaf == path for leaf in _OBJECTS):
            yield path, "object"
        for key, each in value.items():
            yield from _flatten(each, leaves, _below(path, key))


_OBJECTS = (
    "steps[]", "tasks", "results", "templates", "outcomes[]", "steps_lost[]", "found_from",
)  # fmt: skip


def _below(path: str, key: str) -> str:
    if re.fullmatch(r"[0-9a-f-]{36}", key):
        return f"{path}.{{task}}"
    if key.isdigit():
        return f"{path}.{{template}}" if path == "templates" else f"{path}.{{position}}"
    if path == "found_from":
        return "found_from.{queue}"
    return f"{path}.{key}" if path else key


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _conversation(core: Core) -> Iterator[tuple[str, Any]]:
    """Answers of every function with one, in every shape that it has."""
    for graph in (CHAIN, DIAMOND):
        name = "chain" if graph is CHAIN else "diamond"
        definition = {
            "namespace": "shop",
            "name": name,
            "version": "1.0.0",
            "digest": "1",
            "document": {"name": name},
            "steps": [
                {
                    "name": step,
                    "depends_on": list(parents),
                    "handler": {"callable": step},
                    "timeout_seconds": 2.5 if step == "a" else None,
                    "system_dependency": "bank" if step == "a" else None,
                    "retryable": step != "d",
                    "backoff_base_ms": 5000,
                    "publishes_events": [{"name": "a.done"}] if step == "a" else None,
                }
                for step, parents in graph.items()
            ],
        }
        yield "register_template", core.call("register_template", definition)
    core.rows_affected("UPDATE tasker.named_steps SET expected_ms = 0.5 WHERE name = 'a'")
    requests = [{"namespace": "shop", "name": "chain", "correlation_id": "c", "tags": ["t"], "identity_key": "k"}]
    tasks = core.create_many([*requests, *requests, {"namespace": "shop", "name": "diamond"}])
    yield "create_tasks", tasks

    worker = core.executor()
    for sleeper in (core.executor(), core.executor("orchestration_step_results", kind="step_result_processor")):
        core.call("set_executor_idle", {"executor": sleeper.uuid, "idle": True})
    core.call("add_waiter", "tasker_w_1", 60)
    claimed = worker.claim()
    yield "claim_steps", worker.last
    worker.claim()
    yield "claim_steps", worker.last  # of nothing
    answer = worker.complete(claimed, continue_limit=10)
    yield "complete_steps", answer
    yield "release_steps", worker.release(answer["steps"])
    yield "complete_steps", worker.fail(worker.claim())
    worker.claim()
    yield "claim_steps", worker.last  # while retries are not due yet
    core.move_clock(60)
    while steps := worker.claim(max_claim_bytes=0):
        yield "claim_steps", worker.last
        yield "mark_steps_started", core.call("mark_steps_started", {"executor": worker.uuid, "steps": steps})
        for step in steps:
            for after in (-1, 0):
                query = "SELECT tasker.get_parent_results(%s, %s, %s, 1)"
                yield "get_parent_results", core.one(query, step["task_uuid"], step["step_uuid"], after)
        yield "complete_steps", worker.complete(steps)
    core.create("chain")
    (held,) = worker.claim()
    yield "cancel_tasks", core.call("cancel_tasks", {"task_uuids": [held["task_uuid"], str(uuid.uuid4())]})
    yield "heartbeat", worker.heartbeat(1)
    yield "report_circuit", core.call("report_circuit", {"name": "bank", "failures": 1})
    yield "ask_circuit", core.call("ask_circuit", {"name": "bank"})
    core.call("set_circuit", {"name": "bank", "action": "open"})
    yield "ask_circuit", core.call("ask_circuit", {"name": "bank"})
    named = {"namespace": "shop", "name": "chain"}
    hourly = {"name": "hourly", "task": named, "cron": "0 * * * *", "next_due_at": "2027-01-01T00:00:00Z"}
    yield "set_schedule", core.call("set_schedule", hourly)
    for request in ({"limit": 1}, {"pattern": "nothing", "after": 1_000_000}):
        yield "read_events", core.call("read_events", {"namespace": "shop", **request})
    yield "settle_events", core.call("settle_events", {"namespace": "shop", "done": [1]})
    yield "change_schedule", core.call("change_schedule", {"name": "hourly", "action": "pause"})


# -- the session ------------------------------------------------------------------------------------------------------


def test_every_block_of_the_session_runs_and_only_the_last_is_refused(tasker_database_url: str) -> None:
    outputs = contract_session.run(tasker_database_url)
    assert [number for number, output in enumerate(outputs) if "ERROR" in output] == [len(outputs) - 1]
    assert "TK006" in outputs[-1]


def test_the_session_calls_every_function_that_a_worker_needs() -> None:
    script = "\n".join(block.sql for block in contract_session.BLOCKS)
    called = set(re.findall(r"tasker\.(\w+)\(", script))
    assert {function.name for function in WORKER_FUNCTIONS} - called == {"get_parent_results", "set_executor_idle"}
