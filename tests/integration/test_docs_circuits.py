"""The guide to circuits: its code runs as printed, and its settings and commands are some."""

from __future__ import annotations

import asyncio
import shlex
import types
from pathlib import Path
from typing import Any

import pytest

from tasker import CircuitOpen, ConfigManager, StepContext
from tasker.cli import main
from tests.integration.test_docs_how_to import blocks, execute, module

__all__ = ["module"]

PAGE = "how-to/guard_external_systems.md"


def test_the_handlers_that_are_shown_guard_their_calls_and_find_another_way(module: types.ModuleType) -> None:
    names = module.__dict__
    calls: list[Any] = []

    async def book(item: str) -> str:
        calls.append(item)
        return f"booked {item}"

    def refuse(_name: str, _needed: bool) -> Any:
        raise CircuitOpen("circuit rates is open", circuit="rates")

    names |= {
        "send_mail": calls.append,
        "store": lambda receipt: f"stored {receipt}",
        "book": book,
        "fetch_rate": lambda currency: 1.25,
        "yesterdays_rate": lambda currency: 1.0,
    }
    for block in blocks(PAGE, "python"):
        execute(block, names, PAGE)
    paid = StepContext(context={"email": "a@b"}, results={"charge": "R-1"})
    assert names["notify"](paid) == {"archived": "stored R-1"}
    stock = StepContext(context={"item": "book"}, system_dependency="stock")
    assert asyncio.run(names["reserve"](stock)) == "booked book"
    assert calls == ["a@b", "book"]
    assert names["rate"](StepContext(context={"currency": "EUR"})) == 1.25
    assert names["rate"](StepContext(context={"currency": "EUR"}, circuits=refuse)) == 1.0
    steps = {step.name: step for step in names["orders"].template.steps}
    assert steps["charge"].system_dependency == "bank"


def test_the_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (block,) = blocks(PAGE, "toml")
    (tmp_path / "base" / "mine.toml").write_text(block)
    circuits = ConfigManager.load("test", settings_dir=tmp_path, environ={}).circuit_breakers
    assert circuits.component_configs.systems["bank"].timeout_seconds == 120


@pytest.mark.parametrize("line", [line for block in blocks(PAGE, "text") for line in block.splitlines()])
def test_the_commands_that_are_shown_exist(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "tasker"
    command: Any = main
    for word in words[:2]:
        command = command.get_command(None, word)
        assert command is not None, line
