"""SQL has its places: `tasker/database`, `tasker/messaging` and `migrations`; and the form of the files there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("database", "messaging")
FUNCTION_FILES = sorted((ROOT / "migrations" / "functions").glob("*.sql"))

STATEMENT = re.compile(
    r"""\s*(
        SELECT\s | INSERT\s+INTO\s | UPDATE\s+[\w."]+\s+SET\s | DELETE\s+FROM\s | TRUNCATE\s | MERGE\s+INTO\s
      | WITH\s+(RECURSIVE\s+)?\w+\s+AS\s | VALUES\s*\( | COPY\s+\w | CALL\s+[\w.]+\(
      | (CREATE|ALTER|DROP|COMMENT\s+ON)\s+(OR\s+REPLACE\s+)?(UNLOGGED\s+)?
        (TABLE|INDEX|UNIQUE|VIEW|FUNCTION|SCHEMA|DATABASE|EXTENSION|ROLE|TYPE|TRIGGER)\b
      | (GRANT|REVOKE)\s+[\w\s,]+\s+ON\s | SET\s+(LOCAL|SESSION)\s | (UN)?LISTEN\s+\w | NOTIFY\s+\w | LOCK\s+TABLE\s
    )""",
    re.VERBOSE,
)


def statements_in(source: str) -> list[tuple[int, str]]:
    """Line and text of each string constant that begins like an SQL statement; docstrings are prose."""
    tree = ast.parse(source)
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in prose
        and STATEMENT.match(node.value)
    ]


def test_sql_stays_in_database_messaging_and_migrations() -> None:
    package = ROOT / "tasker"
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:60]}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in PLACES
        for line, text in statements_in(path.read_text())
    ]
    assert not found, "SQL outside tasker/database, tasker/messaging and migrations:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "\n    WITH taken AS (DELETE",
        "INSERT INTO tasker.tasks VALUES",
        "UPDATE tasker.tasks SET state = %s",
        "LISTEN tasker_x",
        "CREATE UNLOGGED TABLE t (x int)",
    ],
)
def test_a_statement_is_recognised(text: str) -> None:
    assert statements_in(f"query = {text!r}")


@pytest.mark.parametrize("text", ["Select a task", "update", "with the task's uuid", "CREATE", "notify", "LISTEN"])
def test_prose_is_not_taken_for_a_statement(text: str) -> None:
    assert not statements_in(f'"""SELECT 1"""\nlabel = {text!r}')


@pytest.mark.parametrize("path", FUNCTION_FILES, ids=lambda path: path.stem)
def test_a_function_file_is_in_form(path: Path) -> None:
    text = path.read_text()
    lines = text.split("\n")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\t" not in text
    assert [number for number, line in enumerate(lines, 1) if line != line.rstrip()] == []
