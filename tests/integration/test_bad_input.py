"""Bad input by every way in: refused with what is wrong, where and what to do, and no trace of it is left."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tasker import TaskHandle
from tasker.cli import main
from tasker.database.scratch import ScratchDatabases
from tasker.messaging.queues import STEP_RESULTS, TASK_REQUESTS
from tests.integration.bad_input.calls import BAD_CALLS, BadCall
from tests.integration.bad_input.commands import BAD_COMMANDS, BadCommand
from tests.integration.bad_input.messages import BAD_MESSAGES, send_bad
from tests.integration.bad_input.shop import LIMIT, NOBODY, RETURNED, SHOP_QUEUE, Shop, nested, shop_at
from tests.integration.bad_input.statements import BAD_SQL, BadSql
from tests.sql_kit import Core


@pytest.fixture
def shop(tasker_database_url: str) -> Iterator[Shop]:
    with shop_at(tasker_database_url) as shop:
        yield shop
        core = Core(shop.url)
        assert core.broken_rules() == []
        core.close()


@pytest.fixture(scope="module")
def running(tasker_server: ScratchDatabases) -> Iterator[tuple[Shop, TaskHandle]]:
    """One shop with a task that runs, for all that leaves no trace."""
    url = tasker_server.create()
    with shop_at(url) as shop:
        handle, _ = shop.charge()
        yield shop, handle
    tasker_server.drop(url)


# -- what is refused at the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_CALLS, ids=lambda bad: f"{bad.case}: {bad.call}")
def test_a_bad_call_is_refused_and_leaves_no_trace(running: tuple[Shop, TaskHandle], bad: BadCall) -> None:
    shop, task = running
    before = shop.contents()
    with pytest.raises(bad.error) as caught:
        bad.do(shop, task)
    assert type(caught.value) is bad.error
    assert str(caught.value).replace(str(task.task_uuid), "TASK") == bad.says
    assert shop.contents() == before


@pytest.mark.parametrize("bad", BAD_SQL, ids=lambda bad: f"{bad.case}: {bad.statement[:60]}")
def test_a_bad_statement_is_refused_and_leaves_no_trace(running: tuple[Shop, TaskHandle], bad: BadSql) -> None:
    shop, task = running
    before = shop.contents()
    with pytest.raises(psycopg.Error) as caught:
        shop.rows(bad.statement.replace("TASK", str(task.task_uuid)))
    found = caught.value.diag
    hint = f" ({found.message_hint})" if found.message_hint else ""
    assert found.sqlstate == bad.sqlstate
    assert f"{found.message_primary}{hint}".replace(str(task.task_uuid), "TASK") == bad.says
    assert shop.contents() == before


@pytest.mark.parametrize("bad", BAD_COMMANDS, ids=lambda bad: " ".join(bad.arguments))
def test_a_bad_command_fails_with_what_to_do_and_leaves_no_trace(
    running: tuple[Shop, TaskHandle], bad: BadCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, _ = running
    before = shop.contents()
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "DATABASE_URL": shop.url, "TASKER_ENV": "test"}
    result = CliRunner().invoke(main, bad.arguments, env=environment)
    assert result.exit_code == bad.exit_code
    assert result.output.strip().endswith(bad.says)
    assert shop.contents() == before


# -- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", BAD_MESSAGES)
def test_messages_that_are_not_understood_go_to_dead_letters_and_their_neighbours_pass(shop: Shop, queue: str) -> None:
    handle, answer = shop.charge()
    good = {"namespace": "shop", "name": "order"}
    shop.send(TASK_REQUESTS, good)
    sent = {send_bad(shop, queue, bad, answer): bad for bad in BAD_MESSAGES[queue]}
    shop.send(TASK_REQUESTS, good)
    shop.send(STEP_RESULTS, answer)
    shop.run()

    assert shop.dead_letters() == {(queue, msg_id): (bad.reason, bad.why) for msg_id, bad in sent.items()}
    assert shop.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY state") == [("complete", 3)]
    assert handle.results == {"charge": {"paid": 7}}
    for name in (*BAD_MESSAGES, SHOP_QUEUE):
        assert shop.queues.metrics(name).length == 0, name


def test_the_dead_letter_of_a_message_holds_the_message(shop: Shop) -> None:
    shop.send(TASK_REQUESTS, {"namespace": "shop", "name": "odrer", "context": {"n": 1}})
    shop.run()
    ((snapshot,),) = shop.rows("SELECT snapshot FROM tasker.dead_letters")
    assert snapshot["message"] == {"namespace": "shop", "name": "odrer", "context": {"n": 1}}
    assert snapshot["read_ct"] == 1


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", RETURNED)
def test_a_result_that_cannot_be_stored_ends_its_step_alone_and_is_not_stored(shop: Shop, returned: str) -> None:
    bad = shop.client.create("shop", "order", {"returns": returned})
    good = shop.client.create("shop", "order")
    shop.run()
    step = shop.client.steps(bad)[0]
    kind = "result_too_large" if returned.startswith("more bytes") else "result_not_storable"
    assert (step.state, step.attempts, step.results, step.error["type"]) == ("error", 1, None, kind)
    assert step.error["retryable"] is False
    assert (bad.state, good.state) == ("error", "complete")


@pytest.mark.parametrize(
    ("results", "kind", "says"),
    [
        ({"sum": 7}, "result_invalid", "does not fit its result_schema: paid: is required"),
        ({"paid": "x"}, "result_invalid", 'paid: "x" is not of type "integer"'),
        ({"paid": 7, "note": "x" * LIMIT}, "result_too_large", f"system.max_result_bytes allows {LIMIT:,}"),
    ],
)
def test_a_bad_result_by_message_is_the_error_of_its_step(shop: Shop, results: Any, kind: str, says: str) -> None:
    handle, answer = shop.charge()
    shop.send(STEP_RESULTS, {**answer, "results": results})
    shop.run()
    (step,) = shop.client.steps(handle)
    assert (step.state, step.results, step.error["type"]) == ("error", None, kind)
    assert says in step.error["message"]
    assert shop.queues.metrics(STEP_RESULTS).length == 0


def test_a_celery_tasks_result_that_is_nested_too_deep_harms_no_other(shop: Shop) -> None:
    handle, answer = shop.charge()
    other, other_answer = shop.charge()
    shop.send(STEP_RESULTS, {**answer, "results": {"paid": 7, "deep": nested(220)}})
    shop.send(STEP_RESULTS, other_answer)
    shop.run()
    assert [reason for reason, _ in shop.dead_letters().values()] == ["not_storable"]
    assert (handle.state, other.state) == ("in_progress", "complete")


# -- what comes from other languages --------------------------------------------------------------------------------


def test_a_number_that_no_double_holds_reaches_its_handler_and_keeps_nobody_up(shop: Shop) -> None:
    first = shop.client.create("shop", "order")
    ((wild,),) = shop.rows("""SELECT tasker.create_task('shop', 'order', '{"n": 1e400}')""")
    last = shop.client.create("shop", "order")
    shop.run()
    assert [shop.client.get(task).state for task in (first, wild, last)] == ["complete"] * 3


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 40, "-1e400", "1" + "0" * 5000])
def test_such_a_number_under_an_input_schema_keeps_no_other_task_from_admission(shop: Shop, number: str) -> None:
    ((wild,),) = shop.rows("SELECT tasker.create_task('shop', 'checked', %s::jsonb)", f'{{"order_id": {number}}}')
    ((plain,),) = shop.rows("""SELECT tasker.create_task('shop', 'checked', '{"order_id": 1}')""")
    shop.run()
    assert shop.client.get(plain).state == "complete"
    ((state,),) = shop.rows("SELECT state FROM tasker.tasks WHERE task_uuid = %s", wild)
    assert state in ("complete", "error")


def test_a_result_with_such_a_number_reaches_the_next_step(shop: Shop) -> None:
    """As a worker in another language reports it."""
    task = shop.client.create("shop", "order")
    other = Core(shop.url)
    worker = other.executor(SHOP_QUEUE)
    (step,) = worker.claim()
    other.rows(
        "SELECT tasker.complete_steps(%s::jsonb || jsonb_build_object('outcomes', jsonb_build_array("
        "%s::jsonb || jsonb_build_object('results', '{\"n\": 1e400}'::jsonb))))",
        f'{{"executor": "{worker.uuid}", "call_no": 2, "queues": [], "finished": [1]}}',
        json.dumps({"status": "complete", **{key: step[key] for key in ("task_uuid", "step_uuid", "fence")}}),
    )
    other.close()
    shop.run()
    assert task.state == "complete"


def test_a_result_nested_too_deep_is_refused_whoever_reports_it(shop: Shop) -> None:
    task = shop.client.create("shop", "order")
    other = Core(shop.url)
    worker = other.executor(SHOP_QUEUE)
    steps = worker.claim()
    with pytest.raises(psycopg.Error, match="outcome 0: the results are nested deeper than 200 levels") as caught:
        worker.complete(steps, outcome={"status": "complete", "results": nested(220)})
    assert (caught.value.sqlstate, caught.value.diag.column_name) == ("TK001", "outcomes[0].results")
    worker.complete(steps, outcome={"status": "complete", "results": nested(200)}, call_no=3)
    other.close()
    shop.run()
    assert task.state == "complete"


def test_a_definition_nested_too_deep_is_refused(shop: Shop) -> None:
    before = shop.contents()
    with pytest.raises(psycopg.Error, match="the definition is nested deeper than 200 levels"):
        shop.rows("SELECT tasker.register_template(%s::jsonb)", f'{{"deep": {"[" * 300}{"]" * 300}}}')
    assert shop.contents() == before


# -- templates and settings -----------------------------------------------------------------------------------------


def test_of_several_templates_none_is_stored_if_one_is_bad(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (
        "name: {name}\nnamespace_name: other\nversion: 1.0.0\n"
        "steps:\n  - name: only\n    handler: {{callable: 'shop.orders:only'}}\n"
    )
    (tmp_path / "a.yaml").write_text(good.format(name="good"))
    (tmp_path / "b.yaml").write_text(good.format(name="bad") + "    timeout: 3\n")
    before = shop.contents()
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "DATABASE_URL": shop.url, "TASKER_ENV": "test"}
    result = CliRunner().invoke(main, ["template", "register", "--structure", "."], env=environment)
    assert result.exit_code == 1
    assert re.search(r"b\.yaml:7: step 'only': timeout: unknown field, did you mean 'timeout_seconds'\?", result.output)
    assert shop.contents() == before


def test_nothing_is_done_to_a_database_under_bad_settings(
    tasker_server: ScratchDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tasker_server.create(migrated=False)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "DATABASE_URL": url, "TASKER_PGMQ__MAX_RECEIVE_COUNT": "many"}
    result = CliRunner().invoke(main, ["db", "migrate"], env=environment)
    assert result.exit_code == 1
    assert "pgmq.max_receive_count" in result.output
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regnamespace('tasker')").fetchone() == (None,)
    tasker_server.drop(url)


def test_the_uuid_of_no_task_is_that_of_none(running: tuple[Shop, TaskHandle]) -> None:
    shop, _ = running
    assert shop.rows("SELECT FROM tasker.tasks WHERE task_uuid = %s", NOBODY) == []
