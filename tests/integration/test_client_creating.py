"""Creating tasks: in the caller's transaction or the client's own, all or none, checked at the door, each once."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tasker import (
    ContextInvalid,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Tasker,
    TaskerError,
    TaskRequest,
    UnknownTemplate,
    ValueNotStorable,
)
from tasker.database.scratch import ScratchDatabases
from tests.sql_kit import CHAIN, Core

ORDER = {"order_id": 42}
SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "integer"}, "items": {"type": "array", "items": {"type": "object"}}},
    "required": ["order_id"],
}


def shop(url: str) -> Core:
    core = Core(url)
    core.register("order", CHAIN, input_schema=SCHEMA, max_context_bytes=4096)
    core.register("free", CHAIN)
    return core


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    made = shop(tasker_database_url)
    yield made
    assert made.broken_rules() == []
    made.close()


@pytest.fixture(scope="module")
def untouched(tasker_server: ScratchDatabases) -> Iterator[Core]:
    """One database for all that leaves no trace."""
    url = tasker_server.create()
    made = shop(url)
    yield made
    made.close()
    tasker_server.drop(url)


@pytest.fixture
def client(core: Core) -> Iterator[Tasker]:
    with Tasker(core.url) as made:
        yield made


@pytest.fixture
def engine(core: Core) -> Iterator[Engine]:
    made = create_engine(core.url.replace("postgresql:", "postgresql+psycopg:"))
    yield made
    made.dispose()


@pytest.fixture
async def async_engine(core: Core) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(core.url.replace("postgresql:", "postgresql+psycopg:"))
    yield made
    await made.dispose()


TABLES = (
    "tasks",
    "task_contexts",
    "task_identities",
    "workflow_steps",
    "task_transitions",
    "dead_letters",
    "workflow_step_transitions",
)
NOTHING = dict.fromkeys((*TABLES, "messages"), 0)


def traces(core: Core) -> dict[str, int]:
    """How many rows there are of all that creating a task writes."""
    counts = {table: core.one(f"SELECT count(*) FROM tasker.{table}") for table in TABLES}
    return {**counts, "messages": core.depth("shop_queue")}


# -- every way in ---------------------------------------------------------------------------------------------


def test_a_task_created_alone_is_enqueued_when_create_returns(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order", ORDER, tags=["big"], priority=5, correlation_id="c1", reason="test")
    assert handle.is_new
    assert handle.state == "in_progress"
    assert core.rows("SELECT 1 FROM pgmq.q_shop_queue_high") != []  # its priority is above 0
    record = handle.record
    assert (record.namespace, record.name, record.version, record.context) == ("shop", "order", "1.0.0", ORDER)
    assert (record.tags, record.priority, record.correlation_id, record.reason) == (("big",), 5, "c1", "test")


def test_in_a_psycopg_transaction_it_is_there_if_and_only_if_that_commits(client: Tasker, core: Core) -> None:
    with psycopg.connect(core.url) as connection:
        client.create("shop", "order", ORDER, identity_key="k", connection=connection)
        assert traces(core) == NOTHING
        connection.rollback()
        assert traces(core) == NOTHING
        handle = client.create("shop", "order", ORDER, identity_key="k", connection=connection)
        connection.commit()
    assert handle.state == "in_progress"
    assert core.depth("shop_queue") == 1


def test_in_a_psycopg_connection_with_another_row_factory(client: Tasker, core: Core) -> None:
    with psycopg.connect(core.url, row_factory=psycopg.rows.dict_row) as connection:
        handle = client.create("shop", "order", ORDER, connection=connection)
    assert handle.state == "in_progress"


def test_in_a_sqlalchemy_session_it_is_there_if_and_only_if_that_commits(
    client: Tasker, core: Core, engine: Engine
) -> None:
    with Session(engine) as session:
        session.execute(text("CREATE TABLE public.orders (id int)"))
        client.create("shop", "order", ORDER, connection=session)
        session.rollback()
        assert traces(core) == NOTHING
        session.execute(text("CREATE TABLE public.orders (id int)"))
        handle = client.create("shop", "order", ORDER, connection=session)
        assert traces(core) == NOTHING
        session.commit()
    assert handle.state == "in_progress"
    assert core.one("SELECT to_regclass('public.orders') IS NOT NULL")


def test_in_a_scoped_session_and_in_a_sqlalchemy_connection(client: Tasker, core: Core, engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    first = client.create("shop", "order", ORDER, connection=scoped)
    scoped.commit()
    scoped.remove()
    with engine.begin() as connection:
        second = client.create("shop", "order", ORDER, connection=connection)
    assert (first.state, second.state) == ("in_progress", "in_progress")


def test_in_a_savepoint_that_is_rolled_back_nothing_is_left_and_the_rest_commits(
    client: Tasker, core: Core, engine: Engine
) -> None:
    with Session(engine) as session:
        kept = client.create("shop", "order", ORDER, connection=session)
        with session.begin_nested() as savepoint:
            client.create("shop", "order", ORDER, connection=session)
            savepoint.rollback()
        session.commit()
    assert core.one("SELECT count(*) FROM tasker.tasks") == 1
    assert kept.state == "in_progress"


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_at_any_isolation_level(client: Tasker, engine: Engine, isolation: str) -> None:
    with engine.connect().execution_options(isolation_level=isolation) as connection, connection.begin():
        handle = client.create("shop", "order", ORDER, identity_key=isolation, connection=connection)
    assert handle.state == "in_progress"


def test_with_a_client_made_of_an_engine(core: Core, engine: Engine) -> None:
    with Tasker(engine) as client:
        handle = client.create("shop", "order", ORDER)
        assert handle.state == "in_progress"
        with pytest.raises(UnknownTemplate):
            client.create("shop", "nothing")


async def test_in_async_transactions_it_is_there_if_and_only_if_they_commit(
    client: Tasker, core: Core, async_engine: AsyncEngine
) -> None:
    async with AsyncSession(async_engine) as session:
        await client.acreate("shop", "order", ORDER, connection=session)
        await session.rollback()
        assert traces(core) == NOTHING
        first = await client.acreate("shop", "order", ORDER, connection=session)
        await session.commit()
    async with async_engine.connect() as connection:
        await client.acreate("shop", "order", ORDER, connection=connection)
        await connection.rollback()
        second = await client.acreate("shop", "order", ORDER, connection=connection)
        await connection.commit()
    async with await psycopg.AsyncConnection.connect(core.url) as plain:
        await client.acreate("shop", "order", ORDER, connection=plain)
        await plain.rollback()
        third = await client.acreate("shop", "order", ORDER, connection=plain)
    fourth = await client.acreate("shop", "order", ORDER)
    assert [await handle.astate() for handle in (first, second, third, fourth)] == ["in_progress"] * 4
    assert core.one("SELECT count(*) FROM tasker.tasks") == 4
    await client.aclose()


async def test_with_a_client_made_of_an_async_engine(core: Core, async_engine: AsyncEngine) -> None:
    async with Tasker(async_engine) as client:
        handle = await client.acreate("shop", "order", ORDER)
        assert await handle.astate() == "in_progress"
        assert handle.state == "in_progress"  # the sync face goes by the engine's address


def test_many_at_once_keep_their_order_and_come_all_or_none(client: Tasker, core: Core) -> None:
    handles = client.create_many(
        [TaskRequest(namespace="shop", name="order", context={"order_id": number}) for number in range(300)]
    )
    assert [client.get(handle).context["order_id"] for handle in handles[::50]] == list(range(0, 300, 50))
    before = traces(core)
    with pytest.raises(UnknownTemplate, match="request 1"):
        client.create_many([{"namespace": "shop", "name": "free"}, {"namespace": "shop", "name": "nothing"}])
    with pytest.raises(ContextInvalid):
        client.create_many(
            [{"namespace": "shop", "name": "order", "context": context} for context in (ORDER, {"order_id": "x"})]
        )
    assert traces(core) == before
    assert client.create_many([]) == ()


def test_from_sql_with_a_context_that_the_worker_still_has_to_check(client: Tasker, core: Core) -> None:
    checked_later = core.one("SELECT tasker.create_task('shop', 'order', '{\"order_id\": 42}')")
    at_once = core.one("SELECT tasker.create_task('shop', 'free')")
    assert client.get(checked_later).state == "pending"
    assert client.get(at_once).state == "in_progress"


# -- what it is started with ----------------------------------------------------------------------------------


class Order(BaseModel):
    order_id: int


@dataclass
class PlainOrder:
    order_id: int


def test_contexts_may_be_models_and_dataclasses(client: Tasker) -> None:
    for context in (Order(order_id=7), PlainOrder(7)):
        assert client.create("shop", "order", context).record.context == {"order_id": 7}


def test_a_time_to_run_is_kept_and_the_task_waits_for_it(client: Tasker) -> None:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    record = client.create("shop", "free", run_at=moment).record
    assert record.state == "pending"
    assert record.run_at == moment


def test_the_clients_own_name_is_put_down_where_none_is_given(core: Core) -> None:
    with Tasker(core.url, requested_by="billing", source_system="web") as client:
        record = client.create("shop", "free").record
        other = client.create("shop", "free", requested_by="somebody").record
    assert (record.initiator, record.source_system, other.initiator) == ("billing", "web", "somebody")


def test_the_highest_version_is_started_even_if_the_client_remembers_a_lower_one(client: Tasker, core: Core) -> None:
    assert client.create("shop", "order", ORDER).record.version == "1.0.0"
    core.register("order", CHAIN, version="1.10.0", input_schema={"type": "object", "required": ["other"]})
    with pytest.raises(ContextInvalid, match=r"1\.10\.0"):
        client.create("shop", "order", ORDER)
    assert client.create("shop", "order", {"other": 1}).record.version == "1.10.0"
    assert client.create("shop", "order", ORDER, version="1.0.0").record.version == "1.0.0"


def test_a_template_registered_in_the_same_transaction_can_be_used(client: Tasker, core: Core) -> None:
    with pytest.raises(UnknownTemplate):
        client.create("shop", "fresh")
    core.connection.execute("BEGIN")
    core.register("fresh", CHAIN)
    handle = client.create("shop", "fresh", connection=core.connection)
    core.connection.execute("COMMIT")
    assert handle.state == "in_progress"


# -- identity -------------------------------------------------------------------------------------------------


def test_a_second_task_of_the_same_key_is_the_first_one(client: Tasker) -> None:
    first = client.create("shop", "order", ORDER, identity_key="order-42")
    same = client.create("shop", "order", ORDER, identity_key="order-42")
    other_context = client.create("shop", "order", {"order_id": 43}, identity_key="order-42")
    assert first.is_new
    assert (same.task_uuid, same.is_new, same.same_context) == (first.task_uuid, False, True)
    assert (other_context.task_uuid, other_context.same_context) == (first.task_uuid, False)
    assert client.create("shop", "free", ORDER, identity_key="order-42").is_new


def test_strict_identity_is_workflow_version_and_context(client: Tasker) -> None:
    first = client.create("shop", "order", {"order_id": 1, "items": []}, identity_strategy="strict")
    same = client.create("shop", "order", {"items": [], "order_id": 1}, identity_strategy="strict")
    assert same == first
    assert client.create("shop", "order", {"order_id": 2}, identity_strategy="strict").is_new


def test_without_key_or_strategy_every_task_is_a_new_one(client: Tasker) -> None:
    assert client.create("shop", "order", ORDER) != client.create("shop", "order", ORDER)


def test_of_many_who_create_the_same_at_once_one_makes_it(client: Tasker, core: Core) -> None:
    gate = threading.Barrier(8)

    def create(_: int) -> tuple[uuid.UUID, bool]:
        gate.wait()
        handle = client.create("shop", "order", ORDER, identity_key="same")
        return handle.task_uuid, handle.is_new

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(create, range(8)))
    assert len({task_uuid for task_uuid, _ in found}) == 1
    assert [is_new for _, is_new in found].count(True) == 1
    assert core.one("SELECT count(*) FROM tasker.tasks") == 1


# -- what is refused, and leaves no trace ---------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], type[TaskerError], str | None]] = [
    ("no such namespace", {"namespace": "nowhere"}, UnknownTemplate, "name"),
    ("no such workflow", {"name": "nothing"}, UnknownTemplate, "name"),
    ("no such version", {"version": "9.9.9"}, UnknownTemplate, "version"),
    ("a list as context", {"context": [1]}, ContextInvalid, "context"),
    ("a text as context", {"context": "x"}, ContextInvalid, "context"),
    ("a number as context", {"context": 5}, ContextInvalid, "context"),
    ("a required value missing", {"context": {}}, ContextInvalid, "context.order_id"),
    ("a value of a wrong type", {"context": {"order_id": "x"}}, ContextInvalid, "context.order_id"),
    ("a wrong value deep inside", {"context": {**ORDER, "items": [{}, 5]}}, ContextInvalid, "context.items[1]"),
    ("a NaN", {"context": {"order_id": float("nan")}}, ValueNotStorable, "$.order_id"),
    ("an infinity", {"context": {"order_id": float("inf")}}, ValueNotStorable, "$.order_id"),
    ("a NUL", {"context": {"order_id": 1, "note": "a\0b"}}, ValueNotStorable, "$.note"),
    ("a lone surrogate", {"context": {"order_id": 1, "note": "\ud800"}}, ValueNotStorable, "$.note"),
    ("a key that is no text", {"context": {1: 2}}, ValueNotStorable, "$[1]"),
    ("an object of no kind", {"context": {"order_id": object()}}, ValueNotStorable, "$.order_id"),
    ("a context too large", {"context": {**ORDER, "note": "x" * 5000}}, PayloadTooLarge, None),
    ("an empty key", {"identity_key": ""}, InvalidRequest, "identity_key"),
    ("a key that is no text", {"identity_key": 5}, InvalidRequest, "identity_key"),
    ("a key that is too long", {"identity_key": "k" * 2000}, InvalidRequest, "identity_key"),
    ("an unknown strategy", {"identity_strategy": "sometimes"}, InvalidRequest, "identity_strategy"),
    ("a strategy without its key", {"identity_strategy": "caller_provided"}, InvalidRequest, "identity_key"),
    ("a priority that is no number", {"priority": "high"}, InvalidRequest, "priority"),
    ("a priority that is no whole number", {"priority": 1.5}, InvalidRequest, "priority"),
    ("a priority out of range", {"priority": 10**12}, InvalidRequest, "priority"),
    ("a time without a zone", {"run_at": dt.datetime(2027, 1, 1)}, InvalidRequest, "run_at"),  # noqa: DTZ001
    ("a time that is a text", {"run_at": "tomorrow"}, InvalidRequest, "run_at"),
    ("tags that are a text", {"tags": "urgent"}, InvalidRequest, "tags"),
    ("tags that are numbers", {"tags": [1, 2]}, InvalidRequest, "tags"),
    ("a parent that is no uuid", {"parent_task_uuid": "x"}, InvalidRequest, "parent_task_uuid"),
    ("a correlation id that is a number", {"correlation_id": 5}, InvalidRequest, "correlation_id"),
]


@pytest.mark.parametrize(("what", "change", "error", "field"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_at_the_door(
    untouched: Core, what: str, change: dict[str, Any], error: type[TaskerError], field: str | None
) -> None:
    with Tasker(untouched.url) as client, pytest.raises(error) as caught:
        client.create_many([{"namespace": "shop", "name": "order", "context": ORDER, **change}])
    assert type(caught.value) is error, what
    assert caught.value.field == field
    assert len(str(caught.value)) < 1000
    assert traces(untouched) == NOTHING


@pytest.mark.parametrize("given", [5, {"name": "order"}, {"namespace": "shop"}, {"namespace": "shop", "colour": 1}])
def test_requests_of_a_wrong_shape_are_refused(client: Tasker, given: Any) -> None:
    with pytest.raises(InvalidRequest):
        client.create_many([given])


def test_a_connection_of_a_wrong_kind_is_refused_with_what_would_do(client: Tasker, core: Core) -> None:
    with pytest.raises(InvalidRequest, match="psycopg Connection"):
        client.create("shop", "free", connection="postgresql://somewhere")  # type: ignore[arg-type]
    assert traces(core) == NOTHING


async def test_sync_and_async_connections_are_not_mixed_up(client: Tasker, core: Core) -> None:
    async with await psycopg.AsyncConnection.connect(core.url) as connection:
        with pytest.raises(InvalidRequest, match="acreate"):
            client.create("shop", "free", connection=connection)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="does not begin with a"):
        await client.acreate("shop", "free", connection=core.connection)  # type: ignore[arg-type]
    await client.aclose()


def test_a_task_that_is_not_there_cannot_be_read(client: Tasker) -> None:
    nobody = uuid.uuid4()
    for read in (client.get, client.steps, client.results, client.history, client.why):
        with pytest.raises(NotFound):
            read(nobody)
    with pytest.raises(InvalidRequest):
        client.get("not a uuid")
