"""Models, wrappers and errors: what Python knows of the schema is what the database says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy import inspect as inspect_schema
from sqlalchemy.orm import Session

from tasker.database import functions, reads
from tasker.database.calls import Call, execute, run, translate
from tasker.database.models import Base, Task
from tasker.errors import ExecutorLost, InvalidRequest, NotFound, SchemaVersionError, UnknownTemplate
from tests.sql_kit import CHAIN, Core


def engine_url(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def test_the_models_are_the_tables(tasker_database_url: str) -> None:
    engine = create_engine(engine_url(tasker_database_url))
    catalog = inspect_schema(engine)
    for table in Base.metadata.sorted_tables:
        found = {
            column["name"]: (column["type"].compile(engine.dialect), column["nullable"])
            for column in catalog.get_columns(table.name, schema="tasker")
        }
        told = {column.name: (column.type.compile(engine.dialect), column.nullable) for column in table.columns}
        assert told == found, table.name
        key = catalog.get_pk_constraint(table.name, schema="tasker")["constrained_columns"]
        if key:  # audit tables have none
            assert [column.name for column in table.primary_key.columns] == key, table.name
    engine.dispose()


def test_every_table_has_a_model_but_those_of_the_transport_and_the_migrations(tasker_database_url: str) -> None:
    with psycopg.connect(tasker_database_url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition AND relname !~ '^(celery|schema|alembic)_'"
        ).fetchall()
    assert {name for (name,) in rows} == {table.name for table in Base.metadata.sorted_tables}


def wrappers() -> list[tuple[str, Callable[..., Call[Any]]]]:
    """The builders of ``tasker.database.functions``."""
    return [
        (name, builder)
        for name, builder in inspect.getmembers(functions, inspect.isfunction)
        if builder.__module__ == functions.__name__ and not name.startswith("_")
    ]


def any_arguments(builder: Callable[..., Call[Any]]) -> dict[str, Any]:
    """Arguments of the right types; values do not matter."""
    by_type = {"int": 1, "int | None": 1, "str": "x", "UUID | str": "00000000-0000-7000-8000-000000000000"}
    values = {}
    for name, annotation in inspect.get_annotations(builder).items():
        if name != "return":
            values[name] = by_type.get(annotation, [] if "Sequence" in annotation else {})
    return values


def test_every_wrapper_calls_a_function_that_exists(tasker_database_url: str) -> None:
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        for name, builder in wrappers():
            call = builder(**any_arguments(builder))
            statement = re.sub(r"%\((\w+)\)s", "NULL", call.sql)
            connection.execute(f"PREPARE {name} AS {statement}".encode())
    assert len(wrappers()) > 30


def test_what_the_core_refuses_is_raised_with_hint_and_field(tasker_database_url: str) -> None:
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        with pytest.raises(UnknownTemplate) as unknown:
            run(connection, functions.create_tasks([{"namespace": "shop", "name": "order"}]))
        assert unknown.value.field == "name"
        assert "template list" in (unknown.value.hint or "")
        assert isinstance(unknown.value.__cause__, psycopg.Error)
        with pytest.raises(InvalidRequest):
            run(connection, functions.create_tasks([{"namespace": "shop", "name": "order", "colour": "red"}]))
        with pytest.raises(ExecutorLost):
            run(connection, functions.claim_steps({"executor": "00000000-0000-7000-8000-000000000000", "call_no": 1}))
        with pytest.raises(NotFound):
            run(connection, functions.explain_task("00000000-0000-7000-8000-000000000000"))


def test_the_same_is_raised_through_sqlalchemy(tasker_database_url: str) -> None:
    engine = create_engine(engine_url(tasker_database_url))
    with Session(engine) as session, pytest.raises(UnknownTemplate) as unknown:
        execute(session, functions.create_tasks([{"namespace": "shop", "name": "order"}]))
    engine.dispose()
    assert unknown.value.field == "name"


def test_errors_of_other_drivers_are_understood() -> None:
    class OfAsyncpg(Exception):
        sqlstate = "TK004"
        message, hint, detail, column_name = "there is no task", "look again", None, "task_uuid"

    wrapped = Exception("<class 'OfAsyncpg'>: there is no task")
    wrapped.sqlstate = "TK004"  # type: ignore[attr-defined]
    wrapped.__cause__ = OfAsyncpg()
    error = translate(wrapped)
    assert isinstance(error, NotFound)
    assert (error.message, error.hint, error.field) == ("there is no task", "look again", "task_uuid")
    assert translate(Exception("anything")) is None


def test_a_database_without_the_schema_is_told_so(tasker_server: Any) -> None:
    url = tasker_server.create(migrated=False)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            for call in (functions.create_tasks([{"namespace": "a", "name": "b"}]), reads.tasks()):
                with pytest.raises(SchemaVersionError, match="tasker"):
                    run(connection, call)
    finally:
        tasker_server.drop(url)


def test_reading_works_alike_on_psycopg_and_on_sqlalchemy(tasker_database_url: str) -> None:
    core = Core(tasker_database_url)
    core.register("order", CHAIN, input_schema={"type": "object"})
    (task_uuid,) = core.create("order", context={"order_id": 42}, tags=["a", "b"], context_checked=True)
    core.executor().run_all()
    engine = create_engine(engine_url(tasker_database_url))
    with Session(engine) as session:
        task = session.get(Task, task_uuid)
        assert task is not None
        calls = [
            reads.task(task.task_uuid),
            reads.task_states([task.task_uuid]),
            reads.tasks(namespace="shop", name="order", states=["complete"], tag="b"),
            reads.tasks(states=["pending", "in_progress"]),
            reads.steps(task.task_uuid),
            reads.transitions(task.task_uuid),
            reads.template("shop", "order"),
            reads.template("shop", "order", "1.0.0"),
            reads.template("shop", "order", "9.9.9"),
            reads.templates("shop"),
            reads.namespaces(),
            reads.workers(),
            functions.get_step_readiness_status(task.task_uuid),
            functions.get_task_execution_context(task.task_uuid),
        ]
        for call in calls:
            assert execute(session, call) == run(core.connection, call), call.sql
        (executor,) = execute(session, reads.executors())
        assert (executor.kind, executor.queues, executor.claims) == ("step_executor", ("shop_queue",), 0)
    engine.dispose()
    core.close()
