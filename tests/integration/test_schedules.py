"""Schedules by the client, fired by those who admit tasks and by coordinators, with a clock that is moved."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tasker import Tasker
from tasker.config.settings import Settings
from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore
from tasker.errors import ContextInvalid, InvalidRequest, NotFound, UnknownTemplate, ValueNotStorable
from tasker.executors import task_claimer
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.testing.clock import Clock
from tasker.testing.legality import broken_rules
from tests.proxies import AnswerLosingProxy, nth
from tests.sql_kit import CHAIN, Core

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def core(tasker_core: OrchestrationCore) -> Core:
    core = Core(tasker_core.database.url)
    core.register("order", CHAIN)
    core.register("checked", CHAIN, input_schema={"type": "object", "required": ["n"]})
    core.close()
    return core


@pytest.fixture
def client(core: Core, tasker_client: Tasker) -> Tasker:
    return tasker_client


def now(tasker_core: OrchestrationCore) -> dt.datetime:
    with tasker_core.database.connection() as connection:
        row = connection.execute("SELECT tasker.now()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


def admit(tasker_core: OrchestrationCore) -> int:
    """What a worker that admits tasks does until there is nothing to do."""
    stop = StopSignal()
    with tasker_core.build_loop([ExecutorKind.TASK_CLAIMER], (), stop=stop, worker="test") as loop:
        taken = sum(loop.run_until_idle(20).taken.values())
    stop.close()
    return taken


def slots(client: Tasker, name: str = "nightly") -> list[dt.datetime | None]:
    tasks = client.list(tag=f"schedule:{name}", limit=1000).tasks
    return sorted((task.run_at for task in tasks), key=str)


def test_a_slot_is_fired_when_its_time_has_come_and_the_next_one_follows(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    added = client.add_schedule("nightly", "shop", "order", {"n": 1}, cron="0 * * * *")
    first = added.schedule.next_due_at
    assert added.outcome == "new"
    assert now(tasker_core) < first <= now(tasker_core) + HOUR
    assert admit(tasker_core) == 0
    tasker_clock.advance(first - now(tasker_core))
    assert admit(tasker_core) == 1
    assert slots(client) == [first]
    (record,) = client.list_schedules()
    assert (record.fired, record.last_due_at, record.next_due_at) == (1, first, first + HOUR)
    assert record.last_task_uuid is not None
    assert client.get(record.last_task_uuid).context == {"n": 1}
    assert broken_rules(tasker_core) == []


@pytest.mark.parametrize(("catch_up", "fired"), [("last", [3]), ("all", [0, 1, 2, 3]), ("none", [])])
def test_of_missed_slots_those_are_fired_that_were_asked_for(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock, catch_up: str, fired: list[int]
) -> None:
    added = client.add_schedule("nightly", "shop", "order", cron="0 * * * *", catch_up=catch_up)
    first = added.schedule.next_due_at
    tasker_clock.advance(first - now(tasker_core) + 3.5 * HOUR)
    admit(tasker_core)
    assert slots(client) == [first + n * HOUR for n in fired]
    assert client.list_schedules()[0].next_due_at == first + 4 * HOUR


def test_what_passes_while_a_schedule_is_paused_is_not_made_up_for(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    first = client.add_schedule("nightly", "shop", "order", cron="0 * * * *", catch_up="all").schedule.next_due_at
    assert client.pause_schedule("nightly", by="ann").outcome == "paused"
    assert client.pause_schedule("nightly").outcome == "unchanged"
    tasker_clock.advance(first - now(tasker_core) + 2.5 * HOUR)
    assert admit(tasker_core) == 0
    resumed = client.resume_schedule("nightly")
    assert resumed.outcome == "resumed"
    assert resumed.schedule.next_due_at == first + 3 * HOUR
    assert client.resume_schedule("nightly").outcome == "unchanged"
    tasker_clock.advance(HOUR)
    admit(tasker_core)
    assert slots(client) == [first + 3 * HOUR]


def test_a_schedule_that_is_removed_fires_nothing_and_its_tasks_stay(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("nightly", "shop", "order", every=3600)
    tasker_clock.advance(HOUR)
    admit(tasker_core)
    removed = client.remove_schedule("nightly")
    assert (removed.outcome, removed.schedule.fired) == ("removed", 1)
    tasker_clock.advance(HOUR)
    assert admit(tasker_core) == 0
    assert len(slots(client)) == 1
    with pytest.raises(NotFound):
        client.remove_schedule("nightly")


def test_saying_the_same_again_changes_nothing_and_something_else_must_be_asked_for(client: Tasker) -> None:
    first = client.add_schedule("nightly", "shop", "order", every=60)
    assert client.add_schedule("nightly", "shop", "order", every=dt.timedelta(minutes=1)).outcome == "unchanged"
    with pytest.raises(InvalidRequest) as refused:
        client.add_schedule("nightly", "shop", "order", every=120)
    assert refused.value.field == "name"
    replaced = client.add_schedule("nightly", "shop", "order", every=120, replace=True)
    assert (replaced.outcome, replaced.schedule.every_seconds) == ("replaced", 120)
    assert replaced.schedule.created_at == first.schedule.created_at


def test_a_context_that_does_not_fit_is_refused_when_it_is_said(client: Tasker) -> None:
    with pytest.raises(ContextInvalid):
        client.add_schedule("nightly", "shop", "checked", {}, every=60)
    with pytest.raises(UnknownTemplate):
        client.add_schedule("nightly", "shop", "unheard_of", every=60)
    with pytest.raises(InvalidRequest) as refused:
        client.add_schedule("nightly", "shop", "order", every=60, catch_up="some")
    assert refused.value.field == "catch_up"
    assert client.list_schedules() == ()


def test_each_slot_runs_the_highest_version_there_is_then_unless_one_was_asked_for(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("newest", "shop", "order", every=3600)
    client.add_schedule("pinned", "shop", "order", every=3600, version="1.0.0")
    core = Core(tasker_core.database.url)
    core.register("order", CHAIN, version="1.1.0")
    core.close()
    tasker_clock.advance(HOUR)
    assert admit(tasker_core) == 2
    versions = {task.tags[0]: task.version for task in client.list().tasks}
    assert versions == {"schedule:newest": "1.1.0", "schedule:pinned": "1.0.0"}


def test_a_context_that_fits_no_longer_ends_its_task_and_the_schedule_goes_on(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("nightly", "shop", "checked", {"n": 1}, every=3600)
    core = Core(tasker_core.database.url)
    core.register("checked", CHAIN, version="1.1.0", input_schema={"type": "object", "required": ["m"]})
    core.close()
    tasker_clock.advance(HOUR)
    admit(tasker_core)
    (task,) = client.list(tag="schedule:nightly").tasks
    assert task.state == "error"
    assert client.list_schedules()[0].next_due_at > now(tasker_core)


def test_one_that_cannot_be_fired_does_not_keep_the_others_and_is_made_up_for_later(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("broken", "shop", "order", every=3600)
    client.add_schedule("sound", "shop", "order", every=3600)
    spoil = "UPDATE tasker.schedules SET task = task || %s::jsonb WHERE name = 'broken'"
    with psycopg.connect(tasker_core.database.url, autocommit=True) as connection:
        connection.execute(spoil, ['{"name": "unheard_of"}'])
        tasker_clock.advance(HOUR)
        assert admit(tasker_core) == 1
        broken, sound = client.list_schedules()
        assert "no workflow shop/unheard_of is registered" in str(broken.failure)
        assert (broken.fired, sound.fired, sound.failure) == (0, 1, None)
        connection.execute(spoil, ['{"name": "order"}'])
    assert admit(tasker_core) == 0
    tasker_clock.advance(minutes=2)
    assert admit(tasker_core) == 1
    assert client.list_schedules()[0].failure is None


@pytest.mark.parametrize("column", ["cron = 'every day'", "time_zone = 'Mars/Olympus'"])
def test_one_whose_slots_nobody_can_compute_keeps_nobody_from_being_admitted(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock, column: str
) -> None:
    client.add_schedule("broken", "shop", "order", cron="@hourly")
    client.add_schedule("sound", "shop", "order", cron="@hourly")
    with psycopg.connect(tasker_core.database.url, autocommit=True) as connection:
        connection.execute(f"UPDATE tasker.schedules SET {column} WHERE name = 'broken'".encode())
    later = client.create("shop", "order", run_at=now(tasker_core) + HOUR)
    tasker_clock.advance(HOUR)
    admit(tasker_core)
    broken, sound = client.list_schedules()
    assert str(broken.failure).startswith(("'every day' is no cron expression", "'Mars/Olympus' is no time zone here"))
    assert (broken.fired, sound.fired, later.state) == (0, 1, "in_progress")
    # It can be taken away, and replaced.
    assert client.add_schedule("broken", "shop", "order", cron="@daily", replace=True).outcome == "replaced"


def test_a_schedule_is_part_of_its_callers_transaction(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    with tasker_core.database.connect() as connection:
        with connection.transaction(force_rollback=True):
            client.add_schedule("nightly", "shop", "order", every=3600, connection=connection)
        assert client.list_schedules() == ()
        client.add_schedule("nightly", "shop", "order", every=3600)
        tasker_clock.advance(HOUR)
        with connection.transaction():
            client.pause_schedule("nightly", connection=connection)
            # Held by an open transaction: nobody waits for it, and nobody spins.
            assert admit(tasker_core) == 0
    assert client.list_schedules()[0].fired == 0


def test_coordinators_fire_what_nobody_has_fired_and_each_slot_once(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    for number in range(5):
        client.add_schedule(f"s{number}", "shop", "order", every=3600, catch_up="all")
    tasker_clock.advance(3 * HOUR)

    def work(number: int) -> int:
        return Coordinator(tasker_core).tick().schedules if number % 2 else admit(tasker_core)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(8))) >= 5
    found = [slots(client, f"s{number}") for number in range(5)]
    assert [len(each) for each in found] == [3] * 5
    assert [len(set(each)) for each in found] == [3] * 5


async def test_the_same_in_an_event_loop(client: Tasker) -> None:
    added = await client.aadd_schedule("nightly", "shop", "order", cron="@daily", time_zone="Europe/Berlin")
    assert added.outcome == "new"
    assert [record.name for record in await client.alist_schedules()] == ["nightly"]
    assert (await client.apause_schedule("nightly")).outcome == "paused"
    assert (await client.aresume_schedule("nightly")).outcome == "resumed"
    assert (await client.aremove_schedule("nightly")).outcome == "removed"
    await client.database.aclose()


# -- what goes wrong ----------------------------------------------------------------------------------------------


def run_sql(tasker_core: OrchestrationCore, statement: str) -> None:
    with psycopg.connect(tasker_core.database.url, autocommit=True) as connection:
        connection.execute(statement.encode())


REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM made WHERE initiator = 'schedule:broken') > {above} THEN
        RAISE EXCEPTION 'not these' USING ERRCODE = '{sqlstate}';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER refuse AFTER INSERT ON tasker.tasks REFERENCING NEW TABLE AS made EXECUTE FUNCTION public.refuse();
"""


def test_one_that_the_database_refuses_does_not_keep_the_others(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("broken", "shop", "order", every=3600)
    client.add_schedule("sound", "shop", "order", every=3600)
    run_sql(tasker_core, REFUSE.format(above=0, sqlstate="P0001"))
    tasker_clock.advance(HOUR)
    assert admit(tasker_core) == 1
    broken, sound = client.list_schedules()
    assert (broken.fired, sound.fired) == (0, 1)
    assert "not these" in str(broken.failure)


def test_slots_that_take_too_long_together_are_made_up_for_one_by_one(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    first = client.add_schedule("broken", "shop", "order", every=3600, catch_up="all").schedule.next_due_at
    # As PostgreSQL says it when a statement takes longer than it may.
    run_sql(tasker_core, REFUSE.format(above=1, sqlstate="57014"))
    tasker_clock.advance(first - now(tasker_core) + 2 * HOUR)
    admit(tasker_core)
    assert slots(client, "broken") == [first + n * HOUR for n in range(3)]
    assert client.list_schedules()[0].failure is None


def test_nobody_waits_for_an_open_transaction_that_holds_one_that_cannot_be_fired(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    client.add_schedule("broken", "shop", "order", cron="@hourly")
    run_sql(tasker_core, "UPDATE tasker.schedules SET cron = 'every day'")
    tasker_clock.advance(HOUR)
    with tasker_core.database.connect() as connection, connection.transaction():
        connection.execute("SELECT FROM tasker.schedules FOR UPDATE")
        assert admit(tasker_core) == 0
    assert client.list_schedules()[0].failure is None


def test_tasks_are_admitted_while_many_schedules_are_due(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_claimer, "FIRING_SECONDS", 0.0)
    for number in range(3):
        client.add_schedule(f"s{number}", "shop", "order", every=3600)
    tasker_clock.advance(HOUR)
    stop = StopSignal()
    with tasker_core.build_loop([ExecutorKind.TASK_CLAIMER], (), stop=stop, worker="test") as loop:
        assert [loop.drain_all() for _ in range(4)] == [1, 1, 1, 0]
    stop.close()


def test_what_a_deploy_changes_about_the_tasks_does_not_undo_what_was_missed(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    def add(number: int, **timing: Any) -> dt.datetime:
        wanted = {"every": 3600, "catch_up": "all", "replace": True, **timing}
        return client.add_schedule("nightly", "shop", "order", {"n": number}, **wanted).schedule.next_due_at

    first = add(1)
    tasker_clock.advance(first - now(tasker_core) + 1.5 * HOUR)
    assert add(2) == first
    admit(tasker_core)
    assert slots(client) == [first, first + HOUR]
    # Other times begin now.
    tasker_clock.advance(2 * HOUR)
    assert add(2, every=1800) > now(tasker_core)


def test_a_server_that_tells_the_time_of_a_zone_whose_clocks_change_has_the_same_slots(
    client: Tasker, tasker_core: OrchestrationCore, tasker_clock: Clock
) -> None:
    run_sql(
        tasker_core,
        "ALTER ROLE CURRENT_USER IN DATABASE {} SET TimeZone = 'Europe/Berlin'".format(
            conninfo_to_dict(tasker_core.database.url)["dbname"]
        ),
    )
    tasker_core.database.close()
    start = dt.datetime(2027, 1, 4, 7, tzinfo=dt.UTC)
    week = dt.timedelta(days=7)
    client.add_schedule("nightly", "shop", "order", every=week, starts_at=start, catch_up="all")
    tasker_clock.advance(dt.datetime(2027, 7, 1, tzinfo=dt.UTC) - now(tasker_core))
    admit(tasker_core)
    assert slots(client) == [start + n * week for n in range(26)]


@pytest.mark.parametrize("function", [b"tasker.fire_schedule", b"tasker.postpone_schedule", b"FROM tasker.schedules"])
def test_a_slot_whose_firing_is_answered_by_nobody_is_fired_once(
    client: Tasker,
    tasker_core: OrchestrationCore,
    tasker_settings: Settings,
    tasker_clock: Clock,
    function: bytes,
) -> None:
    client.add_schedule("broken", "shop", "order", every=3600)
    run_sql(tasker_core, 'UPDATE tasker.schedules SET task = task || \'{"name": "unheard_of"}\'')
    first = client.add_schedule("nightly", "shop", "order", every=3600, catch_up="all").schedule.next_due_at
    with (
        AnswerLosingProxy(tasker_core.database.url, nth(function, 1)) as proxy,
        OrchestrationCore.from_settings(tasker_settings, database_url=proxy.url) as other,
    ):
        tasker_clock.attach(other.database)
        tasker_clock.advance(first - now(tasker_core) + 2 * HOUR)
        admit(other)
        assert proxy.lost == 1
    broken, sound = client.list_schedules()
    assert (broken.fired, sound.fired) == (0, 3)
    assert slots(client) == [first + n * HOUR for n in range(3)]
    assert broken.failure is not None


@pytest.mark.parametrize("field", ["name", "namespace", "workflow", "version"])
@pytest.mark.parametrize("value", ["a\0b", "\ud800", 5])
def test_names_that_no_database_holds_are_refused_by_their_argument(client: Tasker, field: str, value: object) -> None:
    names: dict[str, Any] = {"name": "nightly", "namespace": "shop", "workflow": "order", field: value}
    with pytest.raises((InvalidRequest, ValueNotStorable)) as refused:
        client.add_schedule(**names, every=60)
    assert refused.value.field == field
