"""Limits declared in workflows and set by operators, and what programs see where there is too much to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from tasker import Backpressure, Concurrency, Tasker, workflow
from tasker.cli import main
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.errors import InvalidRequest, NotFound
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.workflows.problems import InvalidTemplate
from tests.sql_kit import Core


@pytest.fixture
def tasker_settings(tasker_settings: Settings) -> Settings:
    backpressure = tasker_settings.orchestration.backpressure.model_copy(
        update={"soft_queue_depth": 5, "hard_queue_depth": 10, "retry_after_seconds": 3}
    )
    orchestration = tasker_settings.orchestration.model_copy(update={"backpressure": backpressure})
    return tasker_settings.model_copy(update={"orchestration": orchestration})


@pytest.fixture
def core(tasker_core: OrchestrationCore) -> Iterator[Core]:
    core = Core(tasker_core.database.url)
    core.register("order", {"a": []})
    yield core
    core.close()


def drain(tasker_core: OrchestrationCore, kind: ExecutorKind) -> int:
    """What a new executor of that kind does until there is nothing to do."""
    stop = StopSignal()
    with tasker_core.build_loop([kind], (), stop=stop, worker="test") as loop:
        taken = sum(loop.run_until_idle(20).taken.values())
    stop.close()
    return taken


def measured_anew(core: Core) -> None:
    core.rows_affected("UPDATE tasker.namespaces SET admission_at = admission_at - interval '3 seconds'")


def test_creating_beyond_the_hard_limit_is_refused_with_the_time_to_wait(
    core: Core, tasker_core: OrchestrationCore, tasker_client: Tasker
) -> None:
    core.create("order", 10)
    drain(tasker_core, ExecutorKind.TASK_CLAIMER)
    with pytest.raises(Backpressure, match="takes no more tasks at present") as refused:
        tasker_client.create("shop", "order", {})
    assert refused.value.retry_after_seconds == 3
    assert core.one("SELECT count(*) FROM tasker.tasks") == 10


def test_a_request_by_message_waits_on_its_queue_for_room_and_is_then_done(
    core: Core, tasker_core: OrchestrationCore, tasker_client: Tasker
) -> None:
    core.create("order", 10)
    drain(tasker_core, ExecutorKind.TASK_CLAIMER)
    for name in ("order", "unknown"):
        core.call("queue_send", "task_requests_queue", [psycopg.types.json.Jsonb({"namespace": "shop", "name": name})])
    drain(tasker_core, ExecutorKind.TASK_REQUEST_PROCESSOR)
    assert core.rows("SELECT message->>'name', read_ct FROM pgmq.q_task_requests_queue") == [("order", 0)]
    core.executor("shop_queue").run_all()
    measured_anew(core)
    drain(tasker_core, ExecutorKind.TASK_CLAIMER)
    core.rows_affected("UPDATE pgmq.q_task_requests_queue SET vt = clock_timestamp()")
    drain(tasker_core, ExecutorKind.TASK_REQUEST_PROCESSOR)
    assert core.one("SELECT count(*) FROM tasker.tasks") == 11


def test_tasks_above_the_soft_limit_are_admitted_as_there_is_room(
    core: Core, tasker_core: OrchestrationCore, tasker_client: Tasker
) -> None:
    core.create("order", 6)
    drain(tasker_core, ExecutorKind.TASK_CLAIMER)
    handle = tasker_client.create("shop", "order", {})
    assert handle.state == "pending"
    why = tasker_client.why(handle)
    assert (why["reason"], "queue_depth" in why["detail"]) == ("waiting_for_room", True)
    core.executor("shop_queue").run_all()
    measured_anew(core)
    assert drain(tasker_core, ExecutorKind.TASK_CLAIMER) == 1
    core.executor("shop_queue").run_all()
    assert handle.state == "complete"


def test_a_limit_declared_in_python_is_that_of_the_template(
    tasker_core: OrchestrationCore, tasker_client: Tasker, core: Core
) -> None:
    flow = workflow(
        "shop",
        "pay",
        version="1.0.0",
        concurrency=Concurrency(key="/customer/id", max_steps=1, rate=(10, 60)),
    )

    @flow.step
    def charge(ctx: Any) -> None: ...

    tasker_core.templates.register(flow.template)
    assert core.rows(
        "SELECT concurrency_path, key_max_concurrency, key_rate_count, key_rate_seconds FROM tasker.named_tasks"
        " WHERE name = 'pay'"
    ) == [(["customer", "id"], 1, 10, 60.0)]
    tasker_client.create_many(
        [{"namespace": "shop", "name": "pay", "context": {"customer": {"id": n % 2}}} for n in range(6)]
    )
    core.rows_affected("UPDATE tasker.named_steps SET expected_ms = 0.01")
    assert len(core.executor("shop_queue").claim(10)) == 2


@pytest.mark.parametrize("key", ["tenant", "", "$.tenant"])
def test_a_key_that_is_no_json_pointer_is_refused_where_it_is_declared(key: str) -> None:
    with pytest.raises(InvalidTemplate, match="JSON Pointer into the context, such as /tenant"):
        workflow("shop", "pay", version="1.0.0", concurrency=Concurrency(key=key))


def test_the_client_pauses_and_limits_namespaces(core: Core, tasker_client: Tasker) -> None:
    limited = tasker_client.limit_namespace("shop", max_concurrency=2, rate=(100, 60))
    assert (limited.max_concurrency, limited.rate_count, limited.rate_seconds) == (2, 100, 60)
    assert tasker_client.limit_namespace("shop", rate=None).max_concurrency == 2
    paused = tasker_client.pause_namespace("shop", reason="stocktaking", by="ann")
    assert (paused.paused_at is not None, paused.paused_by, paused.paused_reason) == (True, "ann", "stocktaking")
    core.create("order")
    assert core.executor("shop_queue").claim() == []
    assert tasker_client.resume_namespace("shop").paused_at is None
    core.executor("shop_queue").run_all()
    with pytest.raises(NotFound, match="there is no namespace 'none'"):
        tasker_client.pause_namespace("none")
    with pytest.raises(InvalidRequest, match="rate_count are whole numbers from 1"):
        tasker_client.limit_namespace("shop", rate=(0, 60))


async def _in_async_program(url: str) -> list[Any]:
    async with Tasker(url) as client:
        await client.apause_namespace("shop", reason="r", by="ann")
        await client.alimit_namespace("shop", max_concurrency=3)
        (record,) = await client.alist_namespaces()
        await client.aresume_namespace("shop")
        return [record.paused_by, record.max_concurrency]


def test_the_async_client_does_the_same(core: Core, tasker_core: OrchestrationCore) -> None:
    import asyncio

    assert asyncio.run(_in_async_program(tasker_core.database.url)) == ["ann", 3]


def tasker(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result


def test_the_command_line_pauses_and_limits_namespaces(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", core.url)
    tasker("namespace", "limit", "shop", "--max-concurrency", "4", "--rate", "100/60")
    tasker("namespace", "pause", "shop", "--reason", "stocktaking", "--by", "ann")
    (row,) = json.loads(tasker("--json", "namespace", "list").output)
    assert (row["max_concurrency"], row["rate"], row["state"]) == (4, "100 in 60 s", "paused")
    assert row["why"] == "paused by ann: stocktaking"
    tasker("namespace", "resume", "shop")
    tasker("namespace", "limit", "shop", "--max-concurrency", "0", "--rate", "0")
    (row,) = json.loads(tasker("--json", "namespace", "list").output)
    assert (row["max_concurrency"], row["rate"], row["state"]) == (None, None, "active")
    assert "say --max-concurrency" in tasker("namespace", "limit", "shop", code=2).output
    assert "is no rate" in tasker("namespace", "limit", "shop", "--rate", "fast", code=2).output
    refused = tasker("namespace", "pause", "shop", "none", code=1)
    assert "there is no namespace 'none'" in refused.stderr
    assert "shop" in refused.stdout, "what was done before is shown"
