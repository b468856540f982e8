"""The reference of the template format says what the code does."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from tasker.workflows.loading import load_template
from tasker.workflows.model import (
    CompletionHooks,
    EventDeclaration,
    HandlerSpec,
    Lifecycle,
    RetryPolicy,
    StepTemplate,
    SystemDependencies,
    WorkflowTemplate,
)

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "templates.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_template_it_shows_is_right() -> None:
    template = load_template(block("yaml"), "test")
    assert [step.timeout_seconds for step in template.steps] == [5, 5, 5]


def test_the_declaration_it_shows_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shown_in_the_reference")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block("python"), "templates.md", "exec"), module.__dict__)
    template = module.orders.template
    assert [step.name for step in template.steps] == ["validate_order", "reserve_inventory", "send_receipt"]
    assert template.steps[2].depends_on == ("reserve_inventory",)


@pytest.mark.parametrize(
    "model",
    [WorkflowTemplate, StepTemplate, HandlerSpec, RetryPolicy, EventDeclaration, Lifecycle, SystemDependencies],
    ids=lambda model: model.__name__,
)
def test_it_names_every_field(model: type[WorkflowTemplate]) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()} | set(model.renamed)
    missing = [name for name in sorted(names - {"hooks"}) if f"`{name}`" not in TEXT and f"`{name}[]`" not in TEXT]
    assert missing == []


def test_it_names_the_hooks_and_the_delays_in_seconds() -> None:
    for name in (*CompletionHooks.model_fields, "initial_delay", "max_delay"):
        assert name in TEXT
