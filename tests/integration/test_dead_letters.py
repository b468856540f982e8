"""Dead letters by the client, sync and async, and by ``tasker dlq``: found, retried in batches, resolved, dismissed."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tasker import InvalidRequest, InvalidTransition, NotFound, Tasker
from tasker.cli import main
from tasker.client.dead_letters import MEANINGS, meaning_of
from tasker.coordinator.coordinator import Coordinator
from tasker.core import OrchestrationCore
from tests.sql_kit import Core


@pytest.fixture
def core(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    made = Core(tasker_database_url)
    made.register("order", {"a": [], "b": ["a"]}, step={"max_attempts": 1})
    yield made
    assert made.broken_rules() == []
    made.close()


@pytest.fixture
def client(core: Core) -> Iterator[Tasker]:
    with Tasker(core.url, requested_by="ann") as made:
        yield made


def fail(core: Core, count: int = 1, **error: Any) -> list[str]:
    tasks = core.create("order", count)
    worker = core.executor()
    while steps := worker.claim(500):
        worker.fail(steps, **error)
    return tasks


def bury(core: Core, message: Any) -> int:
    core.rows("SELECT pgmq.send('shop_queue', %s)", Jsonb(message))
    core.executor().claim()
    return int(core.one("SELECT max(id) FROM tasker.dead_letters"))


# -- the client -----------------------------------------------------------------------------------------------


def test_letters_are_listed_newest_first_and_page_by_their_number(client: Tasker, core: Core) -> None:
    fail(core, 5)
    first = client.dead_letters(limit=3)
    second = client.dead_letters(limit=3, after=first.next_after)
    numbers = [letter.id for letter in (*first.letters, *second.letters)]
    assert numbers == sorted(numbers, reverse=True)
    assert (len(numbers), second.next_after) == (5, None)
    letter = first.letters[0]
    assert (letter.kind, letter.namespace, letter.workflow, letter.step) == ("step", "shop", "order", "a")
    assert (letter.reason, letter.error["message"], letter.attempts, letter.is_open) == ("Boom", "boom", 1, True)


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({"namespace": "shop"}, 4),
        ({"namespace": "stock"}, 0),
        ({"kind": "message"}, 1),
        ({"workflow": "order", "version": "1.0.0", "step": "a"}, 3),
        ({"failure": "Crash"}, 1),
        ({"queue": "shop_queue"}, 4),
        ({"created_after": dt.datetime(2999, 1, 1, tzinfo=dt.UTC)}, 0),
        ({"created_before": dt.datetime(2999, 1, 1, tzinfo=dt.UTC)}, 4),
    ],
)
def test_reading_and_acting_know_the_same_conditions(
    client: Tasker, core: Core, conditions: dict[str, Any], count: int
) -> None:
    fail(core, 2)
    fail(core, type="Crash")
    bury(core, {"no": "step"})
    assert len(client.dead_letters(**conditions).letters) == count
    assert client.retry_dead_letters(**conditions).done == count


def test_letters_by_the_thousand_are_retried_in_batches_that_tell_how_far_they_are(client: Tasker, core: Core) -> None:
    fail(core, 1000)
    seen: list[int] = []
    change = client.retry_dead_letters(workflow="order", batch_size=300, progress=seen.append, reason="mended")
    assert (change.done, change.tasks, change.refused) == (1000, 1000, ())
    assert seen == [300, 600, 900, 1000]
    assert core.rows("SELECT DISTINCT resolution, resolved_by, resolved_reason FROM tasker.dead_letters") == [
        ("retried", "ann", "mended")
    ]
    core.executor().run_all(200)
    assert core.rows("SELECT DISTINCT state FROM tasker.tasks") == [("complete",)]


@pytest.mark.long
def test_ten_thousand_letters_are_retried_and_their_tasks_complete(client: Tasker, core: Core) -> None:
    for _ in range(10):
        fail(core, 1000)
    seen: list[int] = []
    assert client.retry_dead_letters(everything=True, progress=seen.append).done == 10_000
    assert seen == [*range(250, 10_001, 250), 10_000]  # the last batch finds nothing more
    core.executor().run_all(200)
    assert core.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY state") == [("complete", 10_000)]


def test_what_is_done_in_the_callers_transaction_is_undone_with_it(client: Tasker, core: Core) -> None:
    (task,) = fail(core)
    engine = create_engine(core.url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        assert client.retry_dead_letters(everything=True, connection=session).done == 1
        session.rollback()
    engine.dispose()
    assert core.task(task)["state"] == "error"
    assert len(client.dead_letters().letters) == 1


def test_a_letter_is_resolved_with_results_and_the_task_goes_on(client: Tasker, core: Core) -> None:
    (task,) = fail(core)
    (letter,) = client.dead_letters().letters
    change = client.resolve_dead_letter(letter, {"paid": True}, reason="by phone")
    assert (str(change.task_uuid), change.state) == (task, "in_progress")
    assert core.steps(task)["a"]["results"] == {"paid": True}
    with pytest.raises(InvalidTransition):
        client.resolve_dead_letter(letter.id, {})
    closed = client.dead_letter(letter.id)
    assert (closed.resolution, closed.resolved_by, closed.resolved_reason) == ("resolved", "ann", "by phone")
    assert client.dead_letters().letters == ()
    assert len(client.dead_letters(include_closed=True).letters) == 1


def test_messages_are_sent_again_mended_or_dismissed(client: Tasker, core: Core) -> None:
    first, second = bury(core, {"n": 1}), bury(core, {"n": 2})
    assert client.retry_dead_letters([first], message={"n": 3}).done == 1
    assert core.rows("SELECT message FROM pgmq.q_shop_queue") == [({"n": 3},)]
    core.rows("SELECT pgmq.purge_queue('shop_queue')")
    change = client.dismiss_dead_letters([second, first])
    assert (change.done, [refused.reason for refused in change.refused]) == (1, ["already_retried"])
    assert client.dead_letter(second).resolution == "dismissed"


def test_which_letters_are_meant_is_said_in_one_way(client: Tasker) -> None:
    for said in ({}, {"ids": [1], "everything": True}, {"step": "a", "everything": True}, {"ids": [1], "step": "a"}):
        with pytest.raises(InvalidRequest) as caught:
            client.retry_dead_letters(**said)  # type: ignore[arg-type]
        assert caught.value.field == "ids"
    for said, field in (
        ({"ids": ["one"]}, "ids"),
        ({"kind": "parcel"}, "kind"),
        ({"ids": [1], "batch_size": 0}, "batch_size"),
        ({"colour": "red"}, "colour"),
        ({"created_after": dt.datetime(2026, 1, 1)}, "created_after"),  # noqa: DTZ001
        ({"task_uuid": "x"}, "task_uuid"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            client.retry_dead_letters(**said)  # type: ignore[arg-type]
        assert caught.value.field == field
    with pytest.raises(NotFound):
        client.dead_letter(99)
    assert client.retry_dead_letters([]).done == 0


def test_the_same_in_an_event_loop(client: Tasker, core: Core) -> None:
    tasks = fail(core, 3)

    async def act() -> None:
        page = await client.adead_letters(step="a", limit=10)
        one, two, three = page.letters
        assert (await client.adead_letter(one.id)).task_uuid == one.task_uuid
        assert (await client.aretry_dead_letters([two, three])).done == 2
        assert (await client.aresolve_dead_letter(one, {})).state == "in_progress"
        assert (await client.adismiss_dead_letters(everything=True)).done == 0
        await client.aclose()

    asyncio.run(act())
    core.executor().run_all()
    assert {core.task(task)["state"] for task in tasks} == {"complete"}


def test_every_reason_of_the_engines_own_is_explained(client: Tasker, core: Core) -> None:
    fail(core, type="outcome_unknown")
    meaning, advice = meaning_of(client.dead_letters().letters[0])
    assert "whether it took effect" in meaning
    assert "resolve it" in advice
    assert {"poison", "outcome_unknown", "timeout"} < MEANINGS.keys()


# -- the coordinator ------------------------------------------------------------------------------------------


def test_a_tick_gives_up_what_is_stuck_and_a_letter_says_so(client: Tasker, core: Core) -> None:
    core.register("slow", {"a": []}, lifecycle={"max_duration_minutes": 1})
    stuck = core.create("slow", 3)
    core.executor().claim()
    # The coordinator has connections of its own, so the clock of the whole database is moved.
    database = core.one("SELECT quote_ident(current_database())")
    core.connection.execute(f"ALTER DATABASE {database} SET tasker.clock_offset = '2 minutes'".encode())
    with OrchestrationCore.from_settings() as made:
        report = Coordinator(made).tick()
    assert report.problems == {}
    assert (report.stuck.given_up, report.stuck.finished, report.stuck.paused) == (3, 3, 0)
    letters = client.dead_letters(failure="lifecycle_max_duration").letters
    assert {str(letter.task_uuid) for letter in letters} == set(stuck)


# -- the command ----------------------------------------------------------------------------------------------


def tasker(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=given)
    assert result.exit_code == code, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(*arguments: str, code: int = 0) -> Any:
    return json.loads(tasker("--json", "dlq", *arguments, code=code).stdout)


def test_dlq_list_and_show_tell_what_failed_and_what_to_do(core: Core) -> None:
    fail(core, 2, type="poison")
    assert [row["step"] for row in told("list", "--failure", "poison", "--since", "1h")] == ["a", "a"]
    assert told("list", "--older-than", "1h") == []
    number = told("list", "-n", "1")[0]["id"]
    plain = tasker("dlq", "list", "-n", "1")
    assert "shop/order a" in plain.stdout
    assert f"--after {number}" in plain.stderr
    shown = told("show", str(number))
    assert "Its executors died again and again" in shown["meaning"]
    assert shown["snapshot"]["error"]["type"] == "poison"
    assert "retry it only once the cause is mended" in tasker("dlq", "show", str(number)).stdout
    error = json.loads(tasker("--json", "dlq", "show", "99", code=1).stderr)["error"]
    assert (error["type"], error["field"]) == ("NotFound", "id")


def test_dlq_retry_takes_numbers_conditions_or_all_and_asks_before_all(core: Core) -> None:
    tasks = fail(core, 4)
    numbers = sorted(row["id"] for row in told("list"))
    assert told("retry", str(numbers[0]), "--by", "me", "--reason", "mended")["retried"] == 1
    answer = told("retry", str(numbers[0]), "99", code=1)
    assert [refused["reason"] for refused in answer["refused"]] == ["already_retried", "not_found"]
    assert (
        told("retry", "--task", str(core.one("SELECT task_uuid FROM tasker.dead_letters WHERE id = %s", numbers[1])))[
            "retried"
        ]
        == 1
    )
    tasker("dlq", "retry", code=2)
    tasker("dlq", "retry", "--all", "--step", "a", code=2)
    tasker("--json", "dlq", "retry", "--all", code=2)
    tasker("dlq", "retry", "--all", code=1, given="n\n")
    assert len(told("list")) == 2
    assert "2 retried; 2 tasks go on." in tasker("dlq", "retry", "--all", given="y\n").stdout
    assert "0 retried." in tasker("dlq", "retry", "--all", "--yes").stdout
    core.executor().run_all()
    assert {core.task(task)["state"] for task in tasks} == {"complete"}
    assert core.one("SELECT resolved_by FROM tasker.dead_letters WHERE id = %s", numbers[0]) == "me"


def test_dlq_resolve_supplies_a_result(core: Core) -> None:
    (task,) = fail(core)
    (letter,) = told("list")
    assert told("resolve", str(letter["id"]), '{"paid": 1}', "--reason", "by phone")["state"] == "in_progress"
    assert core.steps(task)["a"]["results"] == {"paid": 1}
    error = json.loads(tasker("--json", "dlq", "resolve", str(letter["id"]), "{}", code=1).stderr)["error"]
    assert (error["type"], error["field"]) == ("InvalidTransition", "id")


def test_dlq_retry_sends_a_mended_message_and_dismiss_puts_others_away(core: Core) -> None:
    first, second, third = (bury(core, {"n": n}) for n in range(3))
    assert told("retry", str(first), "--message", '{"n": 9}')["retried"] == 1
    assert core.rows("SELECT message FROM pgmq.q_shop_queue") == [({"n": 9},)]
    core.rows("SELECT pgmq.purge_queue('shop_queue')")
    assert "1 dismissed." in tasker("dlq", "dismiss", str(second)).stdout
    assert told("dismiss", "--queue", "shop_queue")["dismissed"] == 1
    assert [row["resolution"] for row in told("list", "--closed")] == ["dismissed", "dismissed", "retried"]
    assert third
