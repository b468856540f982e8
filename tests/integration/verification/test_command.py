"""The command ``tasker db verify``: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tasker.cli import main
from tasker.database.scratch import ScratchDatabases
from tasker.database.verification import RULES
from tests.sql_kit import DIAMOND, Core


@pytest.fixture
def core(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    made = Core(tasker_database_url)
    made.register("order", DIAMOND)
    yield made
    made.close()


def run(*arguments: str, code: int) -> Result:
    result = CliRunner().invoke(main, ["db", "verify", *arguments])
    assert result.exit_code == code, result.output
    return result


def told(*arguments: str, code: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("--json", *arguments, code=code).stdout)
    return found


def test_a_legal_history_ends_with_0(core: Core) -> None:
    core.create("order", 3)
    core.executor().run_all()
    assert f"{len(RULES)} rules hold, 0 are violated, 0 wait for a repair" in run(code=0).stdout
    report = told(code=0)
    assert (report["is_legal"], report["findings"], report["unchecked"]) == (True, [], {})
    assert report["rules"] == list(RULES)


def test_a_violation_ends_with_1_and_says_where_what_and_what_to_do(core: Core) -> None:
    one, _ = core.create("order", 2)
    core.rows_affected("UPDATE tasker.tasks SET active = 2")
    text = run("--examples", "1", code=1).stdout
    assert "violation: active-counter (2): the counter of live steps" in text
    assert "active is 2, live steps are 1" in text
    assert "and 1 more" in text
    assert "what to do: " in text
    report = told("--task", one, code=1)
    assert report["is_legal"] is False
    (finding,) = report["findings"]
    assert (finding["rule"], finding["severity"], finding["count"]) == ("active-counter", "violation", 1)
    assert finding["examples"] == [
        {"task_uuid": one, "position": None, "map_index": None, "detail": "active is 2, live steps are 1"}
    ]


def test_a_pending_repair_ends_with_0_and_says_who_does_it(core: Core) -> None:
    core.create("order")
    worker = core.executor()
    worker.claim()
    core.call("deregister_executor", {"executor": worker.uuid, "finished": []})
    text = run(code=0).stdout
    assert "pending: receipts-of-the-dead (1)" in text
    assert "will be put right: the next sweep gives their steps back" in text


def test_what_cannot_be_checked_ends_with_2(core: Core) -> None:
    core.connection.execute("ALTER TABLE tasker.task_contexts RENAME TO elsewhere")
    text = run(code=2).stdout
    assert "unchecked: task-has-context, context-has-task: " in text
    assert "elsewhere" not in text
    core.create_many([])
    core.rows_affected("INSERT INTO tasker.namespaces (name) VALUES ('nowhere')")
    assert told(code=1)["unchecked"].keys() == {"task-has-context", "context-has-task"}


def test_a_database_that_cannot_be_judged_ends_with_2(
    tasker_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tasker_server.create(migrated=False)
    monkeypatch.setenv("DATABASE_URL", url)
    assert "no Tasker schema" in run(code=2).stderr
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "does not answer" in run(code=2).stderr
    tasker_server.drop(url)


@pytest.mark.parametrize("arguments", [["--rule", "all-is-well"], ["--since", "soon"], ["--task", "5"]])
def test_a_wrong_question_ends_with_2(core: Core, arguments: list[str]) -> None:
    run(*arguments, code=2)


def test_rules_can_be_listed_and_chosen(core: Core) -> None:
    listed = json.loads(run("--json", "--list", code=0).stdout)
    assert [rule["rule"] for rule in listed] == list(RULES)
    chosen = told("--rule", "step-chain", "--rule", "claims", "--since", "1h", "--namespace", "shop", code=0)
    assert sorted(chosen["rules"]) == ["claims", "step-chain"]
