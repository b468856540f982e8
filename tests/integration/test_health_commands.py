"""The commands health, pool and state on a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tasker.cli import main


@pytest.fixture(autouse=True)
def database(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    return tasker_database_url


def told(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["--json", *arguments])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout if code != 1 or result.stdout else result.stderr)


def test_health_says_what_is_missing_and_ends_with_1_once_that_is_no_start_any_more() -> None:
    found = told("health")
    assert (found["status"], found["operational_state"], found["alerts"]) == ("degraded", "startup", [])
    told("state", "set", "normal", "--by", "anna")
    found = told("health", code=1)
    assert found["status"] == "unhealthy"
    assert found["components"]["workers"] == {
        "status": "unhealthy", "message": "no worker is there", "living": 0, "drained": 0,
    }  # fmt: skip
    plain = CliRunner().invoke(main, ["health"])
    assert plain.exit_code == 1
    assert "no worker is there" in plain.output


def test_states_are_set_with_a_history_and_moves_that_make_no_sense_are_refused() -> None:
    assert told("state", "set", "normal", "--by", "anna", "--reason", "all is up")["changed"]
    assert not told("state", "set", "normal")["changed"]
    refused = told("state", "set", "stopped", code=1)
    assert "does not become stopped" in refused["error"]["message"]
    shown = told("state", "show")
    assert (shown["state"], shown["by"], shown["reason"]) == ("normal", "anna", "all is up")
    assert [change["to"] for change in shown["history"]] == ["normal"]


def test_pools_are_listed_before_any_tick_and_have_no_decisions() -> None:
    pools = told("pool", "list")
    assert {pool["kind"] for pool in pools} >= {"step_executor", "task_claimer"}
    assert told("pool", "decisions") == []
