"""The guide to domain events: its code runs as it is printed."""

from __future__ import annotations

import types

import pytest
from click.testing import CliRunner

from tasker import Tasker
from tasker.cli import main
from tasker.core import OrchestrationCore
from tasker.handlers import events
from tasker.testing import run_until_idle
from tasker.workflows.loading import load_template
from tests.integration.test_docs_how_to import blocks, execute, module

__all__ = ["module"]

PAGE = "how-to/publish_domain_events.md"


def test_what_it_declares_is_published_and_consumed(
    tasker_core: OrchestrationCore,
    module: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(events, "_subscribers", {})
    monkeypatch.setattr(events, "_found", {})
    monkeypatch.setenv("DATABASE_URL", tasker_core.database.url)
    declared, consuming, handler = blocks(PAGE, "python")
    execute(declared, module.__dict__, PAGE)
    tasker_core.templates.register(module.orders)
    with Tasker() as client:
        task = client.create("shop", "process_order", {"order_id": 7})
        run_until_idle(tasker_core)
        task.wait(20, finalized=True)
    assert "order.paid {'order_id': 7, 'amount': 42}" in capsys.readouterr().out

    shown = CliRunner().invoke(main, ["events", "tail", "shop", "--no-follow"])
    assert [line.split()[2] for line in shown.stdout.splitlines()] == ["order.paid", "order.done"]
    execute(consuming, module.__dict__, PAGE)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["order.paid", "order.done"]
    done = CliRunner().invoke(main, ["events", "consume", "shop", "--until-empty"])
    assert (done.exit_code, done.stdout) == (0, "")
    execute(handler, module.__dict__, PAGE)


def test_the_templates_it_shows_are_right() -> None:
    first, second = (load_template(block) for block in blocks(PAGE, "yaml"))
    assert [event.name for event in first.steps[0].publishes_events] == ["order.paid", "payment.declined"]
    assert second.task_handler is not None
