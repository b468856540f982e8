"""Who may do what: PUBLIC nothing, each role its own functions, the owner everything."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, errors

from tasker.database import migrations, retention, roles
from tasker.database.scratch import ScratchDatabases

ROOT = Path(__file__).parents[2]
DEFINITION = """'{"namespace": "shop", "name": "order", "version": "1.0.0", "digest": "d", "document": {},
                  "steps": [{"name": "a", "handler": {"callable": "shop.a"}, "depends_on": []}]}'::jsonb"""


@contextmanager
def login(url: str, *granted: str, options: str = "") -> Iterator[str]:
    """The address of the database for a new login that has these roles."""
    name = f"tasker_test_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {options}")  # type: ignore[arg-type]
        for role in granted:
            owner.execute(f"GRANT {role} TO {name}")  # type: ignore[arg-type]
        try:
            yield conninfo.make_conninfo(url, user=name, password="secret")
        finally:
            owner.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER")  # type: ignore[arg-type]
            owner.execute(f"DROP OWNED BY {name}")  # type: ignore[arg-type]
            owner.execute(f"DROP ROLE {name}")  # type: ignore[arg-type]


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(any_database_url: str) -> str:
    with connected(any_database_url) as owner:
        owner.execute(f"SELECT tasker.register_template({DEFINITION})")  # type: ignore[arg-type]
    return any_database_url


def test_public_has_nothing(url: str) -> None:
    with login(url) as address, connected(address) as nobody:
        for query in (
            "SELECT tasker.create_task('shop', 'order')",
            "SELECT count(*) FROM tasker.tasks",
            "SELECT tasker.now()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                nobody.execute(query)  # type: ignore[arg-type]


def test_a_client_creates_reads_cancels_and_sends_requests_and_does_nothing_else(url: str) -> None:
    with login(url, "tasker_client") as address, connected(address) as client:
        row = client.execute("SELECT tasker.create_task('shop', 'order')").fetchone()
        assert row is not None
        assert client.execute("SELECT count(*) FROM tasker.tasks").fetchone() == (1,)
        client.execute("SELECT tasker.explain_task(%s)", row)
        client.execute("SELECT tasker.cancel_tasks(jsonb_build_object('task_uuids', jsonb_build_array(%s::text)))", row)
        client.execute("SELECT pgmq.send('task_requests_queue', '{}'::jsonb)")
        for query in (
            "SELECT tasker.claim_steps('{}')",
            "SELECT tasker.pause_tasks('{}')",
            f"SELECT tasker.register_template({DEFINITION})",
            "UPDATE tasker.tasks SET state = 'complete'",
            "SELECT message FROM pgmq.q_task_requests_queue",
            "SELECT pgmq.send('shop_queue', '{}'::jsonb)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                client.execute(query)  # type: ignore[arg-type]


def test_a_worker_runs_steps_and_an_operator_takes_tasks_in_hand(url: str) -> None:
    executor = secrets.token_hex(16)
    register = f"""SELECT tasker.register_executor('{{"executor": "{executor}", "kind": "step_executor",
                   "worker": "w", "queues": ["shop_queue"], "pid": 1}}')"""
    pause = "SELECT tasker.pause_tasks('{\"task_uuids\": []}')"
    with login(url, "tasker_worker") as address, connected(address) as worker:
        worker.execute("SELECT tasker.create_task('shop', 'order')")
        worker.execute(register)  # type: ignore[arg-type]
        claimed = worker.execute(
            f"""SELECT tasker.claim_steps('{{"executor": "{executor}", "call_no": 1, "queues": ["shop_queue"],
                "limit": 1}}')->'steps'"""  # type: ignore[arg-type]
        ).fetchone()
        assert claimed is not None
        assert len(claimed[0]) == 1
        with pytest.raises(errors.InsufficientPrivilege):
            worker.execute(pause)  # type: ignore[arg-type]
    with login(url, "tasker_operator") as address, connected(address) as operator:
        operator.execute(pause)  # type: ignore[arg-type]
        with pytest.raises(errors.InsufficientPrivilege):
            operator.execute(register)  # type: ignore[arg-type]


def test_a_worker_may_use_queues_that_are_made_later(url: str) -> None:
    with connected(url) as owner:
        owner.execute("SELECT tasker.ensure_namespace('later')")
    with login(url, "tasker_worker") as address, connected(address) as worker:
        worker.execute("SELECT count(*) FROM pgmq.q_later_queue")


@pytest.mark.parametrize("role", ["tasker_worker", "tasker_operator"])
def test_who_may_prune_may_count_what_would_go(url: str, role: str) -> None:
    with login(url, role) as address, connected(address) as somebody:
        keep = retention.Retention(1, 1, 1, 1)
        assert retention.count(somebody, keep).tasks == retention.prune(somebody, keep).tasks == 0


def test_an_owner_who_may_create_no_roles_migrates_and_does_all_by_itself(
    any_server: ScratchDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server has the roles from other tests: these are names that it does not have.
    unknown = {f"{role}_{secrets.token_hex(4)}": names for role, names in roles.GRANTED_FUNCTIONS.items()}
    monkeypatch.setattr(roles, "GRANTED_FUNCTIONS", unknown)
    monkeypatch.setattr(roles, "ROLES", tuple(unknown))
    monkeypatch.setattr(migrations, "ROLES", tuple(unknown))
    url = any_server.create(migrated=False)
    try:
        with login(url) as address:
            name = conninfo.conninfo_to_dict(address)["user"]
            with connected(url) as owner:
                database = owner.info.dbname
                owner.execute(f"ALTER DATABASE {database} OWNER TO {name}")  # type: ignore[arg-type]
            report = migrations.migrate(address)
            assert report.missing_roles == tuple(unknown)
            with connected(address) as connection:
                connection.execute(f"SELECT tasker.register_template({DEFINITION})")  # type: ignore[arg-type]
                connection.execute("SELECT tasker.create_task('shop', 'order')")
    finally:
        any_server.drop(url)


def test_every_function_that_is_granted_exists(tasker_database_url: str) -> None:
    with connected(tasker_database_url) as connection:
        rows = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'tasker'::regnamespace").fetchall()
    existing = {name for (name,) in rows}
    granted = {name for names in roles.GRANTED_FUNCTIONS.values() for name in names}
    assert granted - existing == set()


def test_every_function_that_python_calls_is_granted_to_somebody() -> None:
    granted = {name for names in roles.GRANTED_FUNCTIONS.values() for name in names}
    called = {
        name
        for path in (ROOT / "tasker").rglob("*.py")
        if path.name not in {"migrations.py", "roles.py"}
        for name in re.findall(r"tasker\.([a-z_0-9]+)\(", _sql_of(path.read_text()))
        if (ROOT / "migrations" / "functions" / f"{name}.sql").exists() and not name.startswith("celery_")
    }
    assert called - granted == set()
    assert len(called) > 10


def _sql_of(text: str) -> str:
    """The string literals of a module, docstrings left out: enough to find the SQL in them."""
    without_docstrings = re.sub(r'"""(?:.|\n)*?"""', "", text)
    return "\n".join(re.findall(r'"([^"\n]*)"', without_docstrings))
