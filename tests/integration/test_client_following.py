"""Following tasks: waiting for their end, watching them live, listing them, taking them in hand."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tasker import InvalidRequest, InvalidTransition, NotFound, Tasker, TaskTimeout
from tasker.client import waiting
from tasker.config.sections import PgmqSettings
from tasker.config.settings import Settings
from tests.sql_kit import CHAIN, DIAMOND, Core
from tests.waiting import wait_until

PAIR = {"a": [], "b": ["a"]}


@pytest.fixture
def core(tasker_database_url: str) -> Iterator[Core]:
    made = Core(tasker_database_url)
    made.register("order", CHAIN)
    made.register("pair", PAIR, step={"max_attempts": 1})
    made.register("hooked", PAIR, has_after_work=True)
    yield made
    assert made.broken_rules() == []
    made.close()


@pytest.fixture
def client(core: Core) -> Iterator[Tasker]:
    with Tasker(core.url) as made:
        yield made


def fail(core: Core) -> None:
    """Let the first step of all open tasks of ``pair`` fail for good."""
    worker = core.executor()
    worker.fail(worker.claim())


def finish_and_notify(core: Core) -> None:
    """Run everything, and tell waiters, as executors do after their commit."""
    worker = core.executor()
    worker.run_all()
    core.connection.execute("SELECT tasker.notify(tasker.waiting_channels())")


# -- waiting --------------------------------------------------------------------------------------------------


def test_waiting_for_a_finished_task_returns_at_once(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    core.executor().run_all()
    assert handle.wait(0).state == "complete"
    assert handle.results == {"a": {"step": 0}, "b": {"step": 1}, "c": {"step": 2}, "d": {"step": 3}}
    assert core.one("SELECT count(*) FROM tasker.waiters") == 0


def test_a_waiter_is_woken_by_the_notification_and_not_by_polling(
    client: Tasker, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Polling would come too late for the test's own time limit.
    monkeypatch.setattr(waiting, "_FIRST_POLL_SECONDS", 500.0)
    monkeypatch.setattr(waiting, "_LAST_POLL_SECONDS", 500.0)
    handle = client.create("shop", "order")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(handle.wait, 600)
        wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters") == 1, "the waiting to begin")
        # The listener wakes every new subscriber once; only after that look can nothing but a notification help.
        listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
        wait_until(lambda: core.one(listening) == 1, "the listener to listen")
        finish_and_notify(core)
        assert ended.result(timeout=30).state == "complete"


def test_without_notifications_polling_finds_the_end(core: Core) -> None:
    with Tasker(core.url, settings=Settings(pgmq=PgmqSettings(notify_enabled=False))) as client:
        handle = client.create("shop", "order")
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(handle.wait, 60)
            core.executor().run_all()
            assert ended.result(timeout=30).state == "complete"
        assert core.one("SELECT count(*) FROM tasker.waiters") == 0


def test_a_task_that_does_not_finish_in_time_raises_and_goes_on(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    with pytest.raises(TaskTimeout, match="in_progress") as caught:
        handle.wait(0.05)
    assert isinstance(caught.value, TimeoutError)
    assert "task why" in (caught.value.hint or "")
    core.executor().run_all()
    assert handle.wait(10).state == "complete"


def test_waiting_ends_whatever_the_state(client: Tasker, core: Core) -> None:
    failed, cancelled = client.create("shop", "pair"), client.create("shop", "pair", run_at=_in_an_hour())
    fail(core)
    client.cancel(cancelled)
    assert {state.state for state in client.wait_all([failed, cancelled], 10).values()} == {"error", "cancelled"}


def test_many_tasks_are_waited_for_a_part_at_a_time_whatever_order_they_end_in(client: Tasker, core: Core) -> None:
    handles = client.create_many([{"namespace": "shop", "name": "order"} for _ in range(450)])
    client.cancel(handles[-1])
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(client.wait_all, handles[::-1], 60)
        core.executor().run_all()
        states = ended.result(timeout=60)
    assert list(states) == [handle.task_uuid for handle in handles[::-1]]
    assert [state.state for state in states.values()] == ["cancelled", *["complete"] * 449]


def test_waiting_for_the_after_work_is_another_thing(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "hooked")
    core.executor().run_all()
    assert handle.wait(10).finalized_at is None
    with pytest.raises(TaskTimeout, match="not finalized"):
        handle.wait(0.05, finalized=True)
    claim = core.connection.execute(
        "SELECT claim_no FROM tasker.claim_task_for_finalization(%s, 'me')", [handle.task_uuid]
    ).fetchone()
    assert claim is not None
    core.call("finalize_task", {"task_uuid": str(handle.task_uuid), "processor": "me", "claim_no": claim[0]})
    assert handle.wait(10, finalized=True).finalized_at is not None


def test_waiting_on_a_task_that_is_not_committed_raises(client: Tasker, core: Core) -> None:
    with psycopg.connect(core.url) as connection:
        handle = client.create("shop", "order", connection=connection)
        with pytest.raises(NotFound, match="cannot be waited for") as caught:
            handle.wait(10)
        assert "commit" in (caught.value.hint or "")


def test_a_timeout_in_the_past_is_refused(client: Tasker) -> None:
    with pytest.raises(InvalidRequest):
        client.wait(uuid.uuid4(), -1)


def test_many_threads_wait_with_one_row_and_one_connection(client: Tasker, core: Core) -> None:
    handles = client.create_many([{"namespace": "shop", "name": "order"}] * 6)
    with ThreadPoolExecutor(6) as pool:
        ended = [pool.submit(handle.wait, 60) for handle in handles]
        wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters") == 1, "the waiting to begin")
        finish_and_notify(core)
        assert {future.result(timeout=30).state for future in ended} == {"complete"}
    assert core.one("SELECT count(*) FROM tasker.waiters") == 1
    client.close()
    assert core.one("SELECT count(*) FROM tasker.waiters") == 0


def test_a_forked_child_waits_on_its_own(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    with pytest.raises(TaskTimeout):
        handle.wait(0.05)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if handle.wait(60).state == "complete" else 2
            client.close()
        finally:
            os._exit(code)
    wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters") == 2, "both to wait")
    finish_and_notify(core)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert handle.wait(10).state == "complete"


async def test_event_loops_wait_without_blocking(core: Core) -> None:
    async with Tasker(core.url) as client:
        handles = await client.acreate_many([{"namespace": "shop", "name": "order"}] * 3)
        ended = [asyncio.create_task(handle.wait_async(60)) for handle in handles]
        with pytest.raises(TaskTimeout):
            await handles[0].wait_async(0.05)
        await asyncio.to_thread(finish_and_notify, core)
        assert {state.state for state in await asyncio.gather(*ended)} == {"complete"}
        assert await handles[0].aresults() == {"a": {"step": 0}, "b": {"step": 1}, "c": {"step": 2}, "d": {"step": 3}}


# -- watching -------------------------------------------------------------------------------------------------


def test_a_watcher_sees_every_change_once_and_the_end(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    seen: list[Any] = []
    watcher = threading.Thread(target=lambda: seen.extend(client.watch(handle)))
    watcher.start()
    core.executor().run_all()
    watcher.join(timeout=30)
    assert not watcher.is_alive()
    told = [(change.step, change.from_state, change.to_state) for change in seen]
    assert told[0] == (None, None, "in_progress")
    assert told[-1][2] == "complete"
    assert len(told) == len(set(told))
    assert {step for step, _, state in told if state == "complete"} == {"a", "b", "c", "d", None}
    assert told == [(change.step, change.from_state, change.to_state) for change in client.history(handle)]


async def test_watching_works_in_event_loops(core: Core) -> None:
    async with Tasker(core.url) as client:
        handle = await client.acreate("shop", "pair")
        running = asyncio.create_task(asyncio.to_thread(core.executor().run_all))
        states = [change.to_state async for change in client.watch(handle) if change.step is None]
        await running
    assert states == ["in_progress", "complete"]


def test_watching_a_task_that_is_not_there_raises(client: Tasker) -> None:
    with pytest.raises(NotFound):
        next(iter(client.watch(uuid.uuid4())))


# -- listing --------------------------------------------------------------------------------------------------


def test_lists_page_from_new_to_old_without_gaps(client: Tasker) -> None:
    made = [handle.task_uuid for handle in client.create_many([{"namespace": "shop", "name": "order"}] * 7)]
    pages = []
    after = None
    while True:
        page = client.list(limit=3, after=after)
        pages.append([record.task_uuid for record in page.tasks])
        after = page.next_after
        if after is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [task_uuid for page in pages for task_uuid in page] == made[::-1]


def test_lists_are_narrowed_by_what_is_asked_for(client: Tasker, core: Core) -> None:
    parent = client.create("shop", "order", tags=["big", "red"], correlation_id="c")
    child = client.create("shop", "pair", tags=["red"], parent_task_uuid=parent.task_uuid)
    later = client.create("shop", "pair", run_at=_in_an_hour())
    now = dt.datetime.now(dt.UTC)

    def found(**filters: Any) -> set[uuid.UUID]:
        return {record.task_uuid for record in client.list(**filters).tasks}

    everything = {handle.task_uuid for handle in (parent, child, later)}
    assert found() == found(namespace="shop") == everything
    assert found(namespace="other") == set()
    assert found(name="order") == found(tag="big") == found(correlation_id="c") == {parent.task_uuid}
    assert found(parent_task_uuid=parent.task_uuid) == {child.task_uuid}
    assert found(name="pair", version="1.0.0") == {child.task_uuid, later.task_uuid}
    assert found(states=["pending"]) == {later.task_uuid}
    assert found(states=["pending", "complete"], tag="red") == set()
    assert found(created_after=now - dt.timedelta(minutes=5)) == everything
    assert found(created_before=now - dt.timedelta(minutes=5)) == set()
    core.executor().run_all()
    assert found(states=["complete"]) == {parent.task_uuid, child.task_uuid}


# -- the operator ---------------------------------------------------------------------------------------------


def test_pause_and_resume(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    assert client.pause(handle, reason="stocktaking").changed
    again = client.pause(handle)
    assert (again.changed, again.state) == (False, "paused")
    assert core.executor().claim() == []
    assert client.why(handle)["reason"] == "paused"
    assert client.resume(handle).state == "in_progress"
    core.executor().run_all()
    assert handle.state == "complete"
    actors = {change.actor for change in client.history(handle) if change.to_state == "paused"}
    assert actors != {None}


def test_cancelling_wakes_who_waits(client: Tasker, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_POLL_SECONDS", 500.0)
    monkeypatch.setattr(waiting, "_LAST_POLL_SECONDS", 500.0)
    handle = client.create("shop", "order")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(handle.wait, 600)
        wait_until(lambda: core.one("SELECT count(*) FROM tasker.waiters") == 1, "the waiting to begin")
        with Tasker(core.url) as other:
            assert other.cancel(handle.task_uuid, reason="ordered twice", by="me").changed
        assert ended.result(timeout=30).state == "cancelled"
    assert client.cancel(handle).changed is False
    (change,) = [change for change in client.history(handle) if change.to_state == "cancelled" and change.step is None]
    assert (change.actor, change.reason) == ("me", "ordered twice")


def test_a_failed_task_is_retried_from_the_failed_step(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "pair")
    fail(core)
    assert handle.wait(10).state == "error"
    assert client.why(handle)["steps"][0]["reason"] == "failed"
    assert client.retry(handle, reason="mended").state == "in_progress"
    core.executor().run_all()
    assert handle.state == "complete"
    with pytest.raises(InvalidTransition):
        client.retry(handle)


@pytest.mark.parametrize("how", ["name", "position", "uuid", "uuid as text"])
def test_a_failed_step_is_settled_by_hand_and_its_dependents_receive_the_result(
    client: Tasker, core: Core, how: str
) -> None:
    handle = client.create("shop", "pair")
    fail(core)
    step = client.steps(handle)[0]
    reference: Any = {"name": "a", "position": 0, "uuid": step.step_uuid, "uuid as text": str(step.step_uuid)}[how]
    assert client.resolve_step(handle, reference, {"by": "hand"}).state == "in_progress"
    core.executor().run_all()
    assert handle.results == {"a": {"by": "hand"}, "b": {"step": 1}}


def test_results_given_by_hand_are_held_to_what_can_be_stored(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "pair")
    fail(core)
    with pytest.raises(ValueError, match="cannot be stored"):
        client.resolve_step(handle, "a", {"n": float("nan")})
    assert handle.state == "error"


def test_a_task_is_closed_by_hand_and_a_step_run_again(client: Tasker, core: Core) -> None:
    closed, again = client.create("shop", "pair"), client.create("shop", "pair")
    fail(core)
    assert client.resolve_task(closed, reason="done by phone").state == "resolved_manually"
    assert client.reset_step(again, "a").state == "in_progress"
    core.executor().run_all()
    assert again.state == "complete"


def test_actions_in_the_callers_transaction_count_when_it_commits(client: Tasker, core: Core) -> None:
    handle = client.create("shop", "order")
    with psycopg.connect(core.url) as connection:
        client.cancel(handle, connection=connection)
        connection.rollback()
        assert handle.state == "in_progress"
        client.cancel(handle, connection=connection)
    assert handle.state == "cancelled"


def test_actions_on_what_is_not_there_are_refused(client: Tasker) -> None:
    nobody = uuid.uuid4()
    handle = client.create("shop", "pair")
    for act in (client.cancel, client.pause, client.resume, client.retry, client.resolve_task):
        with pytest.raises(NotFound):
            act(nobody)
    with pytest.raises(NotFound):
        client.resolve_step(handle, "nothing", {})


async def test_the_operators_hand_works_in_event_loops(core: Core) -> None:
    core.register("diamond", DIAMOND)
    async with Tasker(core.url) as client:
        handle = await client.acreate("shop", "diamond")
        assert (await client.apause(handle)).state == "paused"
        assert (await client.awhy(handle))["reason"] == "paused"
        assert (await client.aresume(handle)).state == "in_progress"
        assert (await client.aresolve_step(handle, "a", 1)).changed
        assert [step.state for step in await client.asteps(handle)][:2] == ["resolved_manually", "enqueued"]
        assert (await client.acancel(handle)).state == "cancelled"
        assert len((await client.alist(states=["cancelled"])).tasks) == 1
        assert (await client.ahistory(handle))[-1].to_state == "cancelled"
        assert (await client.aget(handle)).state == "cancelled"
        with pytest.raises(InvalidTransition):
            await client.aretry(handle)


def _in_an_hour() -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
