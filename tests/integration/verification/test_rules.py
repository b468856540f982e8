"""Each rule of ``tasker db verify`` sees what breaks it, and nothing else; what only functions wrote is clean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tasker.database.scratch import ScratchDatabases
from tasker.database.verification import CHECKS, RULES, Report, verify, verify_connection
from tests.integration.verification.corruptions import ALL, CORRUPTIONS, Corruption
from tests.integration.verification.healthy import Healthy, build
from tests.sql_kit import Core

ABOUT_TASKS = {rule.name for check in CHECKS if check.task is not None for rule in check.rules}


@pytest.fixture(scope="module")
def healthy(tasker_server: ScratchDatabases) -> Iterator[Healthy]:
    url = tasker_server.create()
    core = Core(url)
    try:
        yield build(core)
    finally:
        core.close()
        tasker_server.drop(url)


@pytest.fixture
def corrupting(healthy: Healthy) -> Iterator[psycopg.Connection[object]]:
    """A transaction that sees one moment and is undone."""
    connection = healthy.core.connection
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    yield connection
    connection.rollback()


def written_out(statement: str, healthy: Healthy) -> str:
    def uuid_of(match: re.Match[str]) -> str:
        kind, _, what = match[1].partition("!")
        value = healthy.executors[kind].uuid if what else healthy.tasks[kind]
        return f"CAST('{UUID(value)}' AS uuid)"

    return re.sub(r"(?<!\{)\{(\w+(?:!executor)?)\}", uuid_of, statement).replace("{{", "{").replace("}}", "}")


def broken(report: Report) -> list[str]:
    assert report.unchecked == {}
    return [finding.rule.name for finding in report.findings]


def test_every_rule_has_a_corruption() -> None:
    assert sorted(CORRUPTIONS) == sorted(RULES)


def test_states_of_every_kind_are_legal(any_database_url: str) -> None:
    core = Core(any_database_url)
    build(core)
    core.close()
    report = verify(any_database_url)
    assert broken(report) == []
    assert len(report.rules) == len(RULES)


def test_every_state_is_among_them(healthy: Healthy) -> None:
    for table in ("tasks", "workflow_steps"):
        states = {row[0] for row in healthy.core.rows(f"SELECT DISTINCT state FROM tasker.{table}")}
        ((text,),) = healthy.core.rows(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", f"{table}_state_check"
        )
        allowed = set(re.findall(r"'(\w+)'", text))
        # Nothing skips a branch yet.
        assert states == allowed - {"skipped"}


@pytest.mark.parametrize(("rule", "corruption"), ALL, ids=[f"{rule}: {made.does}" for rule, made in ALL])
def test_a_corruption_is_seen_by_its_rule_alone(
    healthy: Healthy, corrupting: psycopg.Connection[object], rule: str, corruption: Corruption
) -> None:
    for statement in corruption.statements:
        corrupting.execute(written_out(statement, healthy).encode())
    report = verify_connection(corrupting)
    assert broken(report) == [rule]
    (finding,) = report.findings
    assert finding.count >= 1
    assert finding.examples[0].detail
    if rule in ABOUT_TASKS and (task := finding.examples[0].task_uuid) is not None:
        assert broken(verify_connection(corrupting, task=task, rules=[rule])) == [rule]
        other = healthy.tasks["deregistered"]
        assert broken(verify_connection(corrupting, task=other, rules=[rule])) == []
