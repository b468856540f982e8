"""Connections that stay open and never answer: clients, listeners, the broker and the coordinator get over them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from typing import Any

import psycopg
import pytest
from kombu import Connection, Consumer, Producer, Queue
from sqlalchemy import text

from tasker import Tasker, TaskTimeout
from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore
from tasker.database.connection import Database, is_connection_lost
from tasker.messaging.listener import Listener
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register
from tasker.resilience import answer_timeout
from tasker.resilience.answer_timeout import AnswerTimeout, hurry_no_more, hurry_when
from tests.proxies import SilentProxy
from tests.sql_kit import CHAIN, Core
from tests.waiting import wait_until

register()

IMPATIENT = {"statement_timeout_ms": 400, "answer_timeout_seconds": 0.5}
DEADLINE_SECONDS = 20.0
FATES = pytest.mark.parametrize("arrives", [True, False], ids=["carried out", "never arrived"])


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    made = Core(tasker_database_url)
    made.register("order", CHAIN)
    yield made
    assert made.broken_rules() == []
    made.close()


def says(word: str) -> Callable[[bytes], bool]:
    return lambda message: word.encode() in message


# -- clients ------------------------------------------------------------------------------------------------------


@FATES
def test_a_task_whose_creation_is_never_answered_is_created_once_by_asking_again(core: Core, arrives: bool) -> None:
    with SilentProxy(core.url, says("create_tasks("), arrives=arrives) as proxy:
        database = Database(proxy.url, **IMPATIENT)  # type: ignore[arg-type]
        with Tasker(database) as client:
            with pytest.raises(AnswerTimeout) as caught:
                client.create("shop", "order", identity_key="mine")
            assert is_connection_lost(caught.value)
            handle = client.create("shop", "order", identity_key="mine")
            assert handle.is_new is not arrives
            assert len(client.list().tasks) == 1
        database.close()


@FATES
def test_the_same_in_an_event_loop_which_goes_on_meanwhile(core: Core, arrives: bool) -> None:
    async def program(database: Database) -> None:
        client = Tasker(database)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count_turns())
        with pytest.raises(AnswerTimeout):
            await client.acreate("shop", "order", identity_key="mine")
        counting.cancel()
        assert turns > 5
        handle = await client.acreate("shop", "order", identity_key="mine")
        assert handle.is_new is not arrives
        await database.aclose()

    with SilentProxy(core.url, says("create_tasks("), arrives=arrives) as proxy:
        asyncio.run(program(Database(proxy.url, **IMPATIENT)))  # type: ignore[arg-type]


def test_a_transaction_whose_commit_is_never_answered_is_an_error_that_says_that_the_connection_is_lost(
    core: Core,
) -> None:
    with SilentProxy(core.url, says("COMMIT"), arrives=False) as proxy:
        database = Database(proxy.url, **IMPATIENT)  # type: ignore[arg-type]
        with pytest.raises(psycopg.OperationalError) as caught, database.connection() as own, own.transaction():
            Tasker(database).create("shop", "order", connection=own)
        assert is_connection_lost(caught.value)
        assert core.one("SELECT count(*) FROM tasker.tasks") == 0
        database.close()


def test_sqlalchemys_pool_gets_over_it_too(core: Core) -> None:
    with SilentProxy(core.url) as proxy:
        database = Database(proxy.url, **IMPATIENT)  # type: ignore[arg-type]
        with database.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        proxy.forget_connections()
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT 2")).scalar() == 2
        database.close()


def test_a_pool_whose_idle_connections_all_fell_silent_is_renewed_by_the_first_who_needs_one(core: Core) -> None:
    with SilentProxy(core.url) as proxy:
        database = Database(proxy.url, acquire_timeout_seconds=5, **IMPATIENT)  # type: ignore[arg-type]
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(database.connection())
        # Connections that have just been used are not asked whether they live.
        wait_until(lambda: _idle_for_long(database), "the connections to have been idle")
        proxy.forget_connections()
        with database.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        database.close()


def _idle_for_long(database: Database) -> bool:
    return all(time.monotonic() - used > 1.0 for used in database._own.used_at.values())


def test_waiting_for_a_task_goes_on_over_another_connection(core: Core) -> None:
    with SilentProxy(core.url) as proxy, ThreadPoolExecutor(1) as pool:
        database = Database(proxy.url, **IMPATIENT)  # type: ignore[arg-type]
        with Tasker(database) as client:
            handle = client.create("shop", "order")
            ended = pool.submit(handle.wait, 60)
            wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters"), "the waiting to begin")
            proxy.forget_connections()
            core.executor().run_all()
            assert ended.result(timeout=60).state == "complete"
        database.close()


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.long)], ids=["sync", "async"])
def test_waiting_ends_with_its_own_timeout_however_patient_the_connections_are(core: Core, asynchronous: bool) -> None:
    failure: list[BaseException] = []

    async def wait_in_loop() -> None:
        try:
            await handle.wait_async(1.0)
        finally:
            await database.aclose()

    def wait() -> None:
        try:
            if asynchronous:
                asyncio.run(wait_in_loop())
            else:
                handle.wait(1.0)
        except BaseException as error:
            failure.append(error)

    with SilentProxy(core.url, says("add_waiter")) as proxy:
        database = Database(proxy.url, connection_timeout_seconds=2)
        with Tasker(database) as client:
            handle = client.create("shop", "order")
            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(lambda: proxy.silenced, "the silence")
            proxy.die()
            thread.join(30)
            assert not thread.is_alive()
            assert isinstance(failure[0], TaskTimeout)
            proxy.revive()
        database.close()


def test_a_process_that_is_about_to_end_waits_a_few_seconds_at_most(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_timeout, "HURRIED_SECONDS", 0.5)
    ending = threading.Event()
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            with database.connection() as connection:
                connection.execute("SELECT 'never answered'")
        except psycopg.OperationalError as error:
            failure.append(error)

    with SilentProxy(core.url, says("never answered")) as proxy:
        database = Database(proxy.url)
        hurry_when(ending.is_set)
        try:
            thread = threading.Thread(target=ask)
            thread.start()
            wait_until(lambda: proxy.silenced, "the silence")
            ending.set()
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive()
        finally:
            hurry_no_more(ending.is_set)
        assert isinstance(failure[0], AnswerTimeout)
        database.close()


@pytest.fixture
def hurried(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(answer_timeout, "HURRIED_SECONDS", 0.2)
    hurry_when(asked := lambda: True)
    yield
    hurry_no_more(asked)


def start_and_end(proxy: SilentProxy, *, migrates: bool) -> None:
    patient = DatabaseSettings(
        url=proxy.url, migrate_on_start=migrates, connection_timeout_seconds=2, answer_timeout_seconds=700
    )
    OrchestrationCore.from_settings(Settings(database=patient)).close()


@pytest.mark.parametrize(
    ("word", "migrates"),
    [("max_connections", False), ("alembic_version", False), ("alembic_version", True), ("pg_inherits", True)],
)
def test_so_it_is_at_its_start_too(core: Core, hurried: None, word: str, migrates: bool) -> None:
    with SilentProxy(core.url, says(word)) as proxy:
        with pytest.raises(AnswerTimeout):
            start_and_end(proxy, migrates=migrates)
        assert proxy.silenced
        start_and_end(proxy, migrates=migrates)


@pytest.mark.long
@pytest.mark.parametrize("migrates", [False, True], ids=["checks the schema", "migrates"])
def test_so_it_is_at_its_start_wherever_the_silence_catches_it(core: Core, hurried: None, migrates: bool) -> None:
    # The n-th message that it sends, and all after it, get no answer; for each n there is.
    for answered in count():
        with _proxy_that_dies_after(answered, core.url) as proxy:
            try:
                start_and_end(proxy, migrates=migrates)
            except psycopg.OperationalError:
                assert proxy.silenced
            else:
                break
    assert answered > 10, "nearly nothing was asked"


def _proxy_that_dies_after(messages: int, url: str) -> SilentProxy:
    numbers = count()

    def dies(_message: bytes) -> bool:
        if next(numbers) < messages:
            return False
        proxy.die()
        return True

    proxy = SilentProxy(url, dies)
    return proxy


# -- listeners ----------------------------------------------------------------------------------------------------


def test_a_listening_connection_that_fell_silent_is_replaced_and_everybody_looks_again(core: Core) -> None:
    woken = threading.Semaphore(0)
    with SilentProxy(core.url) as proxy, closing(Listener(proxy.url, answer_timeout_seconds=0.3)) as listener:
        listener.subscribe("tasker_a_queue", woken.release)
        assert woken.acquire(timeout=DEADLINE_SECONDS)
        proxy.forget_connections()
        assert woken.acquire(timeout=DEADLINE_SECONDS), "nobody was woken after the silence"
        core.rows("SELECT 1 FROM pg_notify('tasker_a_queue', '')")
        assert woken.acquire(timeout=DEADLINE_SECONDS), "nobody was woken by a notification"


def test_a_quiet_listening_connection_is_kept(core: Core) -> None:
    woken = threading.Semaphore(0)
    asked = 0

    def count(message: bytes) -> bool:
        nonlocal asked
        asked += b"SELECT 1" in message
        return False

    with SilentProxy(core.url, count) as proxy, closing(Listener(proxy.url, answer_timeout_seconds=0.2)) as listener:
        listener.subscribe("tasker_a_queue", woken.release)
        assert woken.acquire(timeout=DEADLINE_SECONDS)
        wait_until(lambda: asked >= 3, "the server to be asked whether it is there")
        assert listener.connected
        assert not woken.acquire(blocking=False)


# -- the broker ---------------------------------------------------------------------------------------------------


def broker(proxy: SilentProxy) -> Connection:
    return Connection(broker_url_of(proxy.url), transport_options={"answer_timeout": 0.5, "housekeeping_interval": 0.2})


def send(connection: Connection, body: object) -> None:
    Producer(connection.default_channel).publish(body, exchange="", routing_key="jobs", serializer="json")


def read(connection: Connection, count: int) -> list[Any]:
    """So many messages, over however many sessions it takes."""
    messages: list[Any] = []

    def take(body: Any, message: Any) -> None:
        messages.append(body)
        message.ack()

    while len(messages) < count:
        connection.ensure_connection(max_retries=20, interval_start=0.01)
        try:
            with Consumer(connection.channel(), [Queue("jobs")], callbacks=[take]):
                while len(messages) < count:
                    connection.drain_events(timeout=DEADLINE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"only {messages} came") from None
        except connection.connection_errors:
            connection.close()
    return messages


@FATES
def test_sending_to_the_broker_gets_over_silence(core: Core, arrives: bool) -> None:
    # Not the name of the function: that comes alone, to be prepared.
    with SilentProxy(core.url, says("the first"), arrives=arrives) as proxy, broker(proxy) as connection:
        with pytest.raises(connection.connection_errors):
            send(connection, "the first")
        connection.close()
        send(connection, "the second")
        messages: list[Any] = []
        while messages[-1:] != ["the second"]:
            messages += read(connection, 1)
        # What arrived is carried out if all of it did: the end of the statement may be a packet of its own.
        assert messages[:-1] in ([], ["the first"] * arrives)


@pytest.mark.parametrize("word", ["celery_attach", "celery_poll", '"mail_limit"', "celery_tend"])
@FATES
def test_reading_from_the_broker_gets_over_silence_and_loses_no_message(core: Core, word: str, arrives: bool) -> None:
    with Connection(broker_url_of(core.url)) as sender:
        for number in range(3):
            send(sender, number)
    with SilentProxy(core.url, says(word), arrives=arrives) as proxy, broker(proxy) as connection:
        assert sorted(read(connection, 3)) == [0, 1, 2]
        wait_until(lambda: _drain(connection) or proxy.silenced, f"{word} to meet the silence")
        with Connection(broker_url_of(core.url)) as sender:
            send(sender, 3)
        assert read(connection, 1) == [3]


def _drain(connection: Connection) -> bool:
    """Housekeeping comes while there is nothing to read."""
    try:
        with Consumer(connection.channel(), [Queue("jobs")], callbacks=[lambda *_: None]):
            connection.drain_events(timeout=0.3)
    except TimeoutError:
        return False
    except connection.connection_errors:
        connection.close()
        return True
    return False


# -- the coordinator ----------------------------------------------------------------------------------------------


@FATES
@pytest.mark.parametrize("word", ["begin_tick", "recover_lost_steps", "record_tick"])
def test_a_tick_that_is_never_answered_ends_and_the_next_one_does_its_work(
    core: Core, word: str, arrives: bool
) -> None:
    with SilentProxy(core.url, says(word), arrives=arrives) as proxy:
        url = DatabaseSettings(url=proxy.url, **IMPATIENT)  # type: ignore[arg-type]
        with OrchestrationCore.from_settings(Settings(database=url)) as tasker_core:
            coordinator = Coordinator(tasker_core)
            try:
                report = coordinator.tick()
            except AnswerTimeout:
                pass
            else:
                assert list(report.problems) == ["recover the steps of lost executors"]
            assert proxy.silenced == 1
            core.rows_affected("UPDATE tasker.coordinator SET last_tick_at = last_tick_at - interval '1 minute'")
            wait_until(lambda: coordinator.tick().ticked, "somebody to tick again")
