"""The code of the how-to guides and explanations runs as it is printed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from celery.app.defaults import SETTING_KEYS
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tasker import ConfigManager, OrchestrationCore, StepContext, Tasker, workflow
from tasker.cli import main
from tasker.database.scratch import ScratchDatabases
from tasker.messaging.transport.address import broker_url_of
from tasker.testing import run_until_idle
from tasker.workflows.loading import load_template
from tests.sql_kit import CHAIN, Core
from tests.waiting import wait_until

DOCS = Path(__file__).parents[2] / "docs"
SINCE_CELERY_5_6 = {"task_create_missing_queue_type"}  # the page says so


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of the languages, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def execute(code: str, names: dict[str, Any], page: str) -> None:
    exec(compile(ast.parse(code), page, "exec"), names)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module to run code in, so that what it declares has an importable name."""
    made = types.ModuleType("printed_in_the_documentation")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    order_id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


orders = workflow("fulfillment", "process_order", version="1.0.0")


@orders.step
def ship(ctx: StepContext) -> dict[str, Any]:
    return {"shipped": ctx.context["order_id"]}


@contextlib.contextmanager
def worked_on(core: OrchestrationCore) -> Iterator[None]:
    """Somebody runs what there is to run, on another thread."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.05):
            run_until_idle(core)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_every_way_to_enqueue_works(
    tasker_core: OrchestrationCore, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tasker_core.database.url
    monkeypatch.setenv("DATABASE_URL", url)
    tasker_core.templates.register(orders)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    Base.metadata.create_all(engine)
    module.__dict__.update(engine=engine, url=url, Order=Order)

    page = "how-to/enqueue_from_your_program.md"
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in blocks(page, "sql"):
            connection.execute(statement.encode())
    with worked_on(tasker_core):
        for code in blocks(page, "python"):
            execute(code, module.__dict__, page)

        async def in_an_event_loop() -> Any:
            async_engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            try:
                return await module.place_order(async_engine, "eve")
            finally:
                await module.tasker.aclose()
                await async_engine.dispose()

        assert asyncio.run(in_an_event_loop()).state == "complete"
    assert module.state.state == "complete"
    assert module.results == {"ship": {"shipped": 42}}

    with Tasker(url) as client:
        found = client.list(limit=1000).tasks
        contexts = [client.get(task).context["order_id"] for task in found]
    # Order 47 is for the program that has only Celery; the way it goes is tested on real workers.
    assert sorted(contexts) == [1, 42, 43, 44, 45, 46, 48, *range(100, 200)]
    assert {task.state for task in found if task.run_at is None} == {"complete"}
    module.tasker.close()
    engine.dispose()


def test_the_tests_that_are_shown_pass(tasker_server: ScratchDatabases, tmp_path: Path) -> None:
    for text in blocks("how-to/test_workflows.md", "python"):
        name = re.match(r"# (\w+\.py)(, continued)?\n", text)
        assert name is not None, text
        with (tmp_path / name[1]).open("a") as file:
            file.write(text + "\n\n")
    plugins = ("--disable-plugin-autoload", "-p", "tasker.testing.plugin", "-p", "no:cacheprovider", "-q")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "TASKER_TEST", "CI"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "."],
        cwd=tmp_path,
        env={**own, "TASKER_TEST_DATABASE_URL": tasker_server.url, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_the_same_celery_steps_are_shown_in_yaml_and_in_python(module: types.ModuleType) -> None:
    page = "how-to/celery_tasks_as_steps.md"
    (yaml,), (code,) = blocks(page, "yaml"), blocks(page, "python")
    execute(code, module.__dict__, page)
    written, declared = load_template(yaml), module.payments.template
    assert (declared.namespace_name, declared.name) == (written.namespace_name, written.name)
    for one, other in zip(written.steps, declared.steps, strict=True):
        assert (one.name, one.depends_on, one.timeout_seconds) == (other.name, other.depends_on, other.timeout_seconds)
    assert written.steps[1].handler == declared.steps[1].handler


def test_the_settings_that_reach_another_broker_are_settings(tmp_path: Path) -> None:
    (text,) = blocks("how-to/celery_tasks_as_steps.md", "toml")
    shown = tomllib.loads(text)["engine"]["celery_steps"]
    variables = {f"TASKER_ENGINE__CELERY_STEPS__{name.upper()}": value for name, value in shown.items()}
    found = ConfigManager.load("test", environ=variables).engine.celery_steps
    assert (found.broker_url, found.result_backend) == (shown["broker_url"], shown["result_backend"])
    assert found.is_other_app


def test_a_canvas_becomes_the_workflow_that_is_shown(
    tasker_core: OrchestrationCore, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", tasker_core.database.url)
    page = "how-to/move_from_canvas.md"
    for code in blocks(page, "python"):
        execute(code, module.__dict__, page)
    made, by_hand = module.report.template, module.by_hand.template
    assert {step.name: step.depends_on for step in made.steps} == {
        "sales_of": (),
        "sales_of_2": (),
        "add_up": ("sales_of", "sales_of_2"),
        "publish": ("add_up",),
        "publish_2": ("add_up",),
    }
    assert [step.depends_on for step in by_hand.steps] == [step.depends_on for step in made.steps[:2]] + [
        ("north", "south"),
        ("total",),
        ("total",),
    ]
    assert module.task.state == "in_progress"
    assert tasker_core.templates.get("sales", "daily_report").graph.keys() == {step.name for step in made.steps}
    module.tasker.close()
    module.app.close()


def test_a_celery_project_without_workflows_runs_on_the_broker_alone(tasker_database_url: str, tmp_path: Path) -> None:
    (code,) = blocks("how-to/use_the_transport_alone.md", "python")
    (tmp_path / "shop.py").write_text(code)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "TASKER", "DATABASE"))}
    environment = {**own, "SHOP_BROKER_URL": broker_url_of(tasker_database_url), "PYTHONPATH": str(tmp_path)}
    send = "from shop import charge; charge.delay(7)"
    celery = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "solo"]
    worker = subprocess.Popen([*celery, "--logfile=worker.log"], cwd=tmp_path, env=environment)
    try:
        subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, check=True)
        charged = tmp_path / "charged"
        wait_until(lambda: charged.exists() and charged.read_text() == "7\n", "the task to run")
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()


def test_the_celery_settings_that_are_shown_are_celerys() -> None:
    brokers = []
    for page in ("how-to/run_workers.md", "how-to/choose_a_broker.md"):
        for code in blocks(page, "python"):
            shown: dict[str, Any] = {}
            execute(code, shown, page)
            brokers.append(shown["broker_url"].partition(":")[0])
            assert shown.keys() - {"__builtins__"} <= SETTING_KEYS | SINCE_CELERY_5_6
    assert brokers == ["redis", "redis", "amqp"]


def test_the_dead_letters_that_are_shown_are_settled_by_command_by_program_and_by_statement(
    tasker_core: OrchestrationCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "how-to/handle_dead_letters.md"
    url = tasker_core.database.url
    monkeypatch.setenv("DATABASE_URL", url)
    core = Core(url)
    core.register("process_order", {"charge_card": []}, step={"max_attempts": 1})

    def fail() -> None:
        core.create("process_order")
        worker = core.executor()
        worker.fail(worker.claim(), type="GatewayDown")

    def find(kind: str) -> str:
        find = "SELECT max(id) FROM tasker.dead_letters WHERE resolved_at IS NULL AND kind = %s"
        return str(core.one(find, kind))

    for text in blocks(page, "text"):
        for line in text.splitlines():
            fail()
            core.rows("SELECT pgmq.send('shop_queue', '{}')")
            core.executor().claim()
            of_step, of_message = find("step"), find("message")
            said = shlex.split(line.partition(" # ")[0])[1:]
            known = {"17": of_step, "18": of_step, "21": of_message}
            result = CliRunner().invoke(main, [known.get(word, word) for word in said], input="y\n")
            assert result.exit_code == 0, (line, result.output)
    fail()
    (code,) = blocks(page, "python")
    execute(code, {}, page)
    retry, resolve, dismiss = "".join(blocks(page, "sql")).strip().splitlines()
    for statement in (retry, resolve, dismiss):
        fail()
        core.rows("SELECT pgmq.send('shop_queue', '{}')")
        core.executor().claim()
        core.rows(statement.replace("17", find("step")).replace("21", find("message")))
    core.close()


def test_the_schedules_that_are_shown_are_made_by_command_and_by_program(
    tasker_database_url: str, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "how-to/schedules.md"
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)
    core = Core(tasker_database_url)
    core.register("report", CHAIN)
    core.register("sync_stock", CHAIN)
    core.close()
    (commands,) = blocks(page, "text")
    for line in commands.splitlines():
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    (code,) = blocks(page, "python")
    execute(code, module.__dict__, page)
    with Tasker(tasker_database_url) as client:
        nightly, sync = client.list_schedules()
    # What the command said of the one that is left is what the program says again.
    assert (nightly.changed_at, nightly.paused_at) == (nightly.created_at, None)
    assert (sync.every_seconds, sync.paused_at is None) == (900, False)


def test_a_handler_that_is_made_safe_to_run_twice_as_shown_does_its_work_once(tasker_database_url: str) -> None:
    page = "explanation/guarantees.md"
    (table,), (code,) = blocks(page, "sql"), blocks(page, "python")
    booked: list[Any] = []

    def book_payment(connection: psycopg.Connection[Any], context: Any) -> str:
        booked.append(context)
        return f"R-{len(booked)}"

    names = {
        "url": tasker_database_url,
        "StepContext": StepContext,
        "Jsonb": Jsonb,
        "psycopg": psycopg,
        "book_payment": book_payment,
    }
    with psycopg.connect(tasker_database_url, autocommit=True) as connection:
        connection.execute(table.encode())
    execute(code, names, page)
    first = StepContext(context={"n": 1}, step_uuid="00000000-0000-7000-8000-000000000001")
    other = StepContext(context={"n": 2}, step_uuid="00000000-0000-7000-8000-000000000002")
    assert [names["charge"](ctx) for ctx in (first, first, other)] == [{"receipt": "R-1"}] * 2 + [{"receipt": "R-2"}]
    assert booked == [{"n": 1}, {"n": 2}]


def celery_lines() -> list[tuple[str, list[str]]]:
    """Each command ``celery -A …`` that any page shows, in blocks and in the text."""
    found = []
    for path in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        text = path.read_text(encoding="utf-8")
        shown = re.findall(r"^(celery -A .*)$", text, re.MULTILINE) + re.findall(r"`(celery -A [^`]*)`", text)
        for line in shown:
            words = shlex.split(line.split("  #")[0])
            found.append((f"{path.name}: {' '.join(words)}", words[1:]))
    return found


@pytest.mark.parametrize(("where", "words"), celery_lines(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_celery_command_shown_exists(where: str, words: list[str]) -> None:
    """Its options, too; Flower's are its own."""
    assert words[0] == "-A"
    name, *arguments = words[2:]
    context = click.Context(celery_command, info_name="celery")
    command = celery_command.get_command(context, name)
    assert command is not None, f"{where}: celery has no command {name!r}"
    known = {option for parameter in command.params for option in parameter.opts}
    given = [word for word in arguments if word.startswith("-")]
    assert [option for option in given if option not in known] == []
    if name in ("inspect", "control") and arguments:
        from celery.worker.control import Panel

        import_module("tasker.hosting.remote")  # a worker of Tasker's has done so, whose requests are meant
        assert arguments[0] in Panel.meta, f"{where}: no such request"
