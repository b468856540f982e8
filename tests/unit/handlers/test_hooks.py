from __future__ import annotations

import pytest

from tasker.config.settings import Settings
from tasker.errors import HandlerNotFound
from tasker.handlers.hooks import TaskOutcome, hooks_for
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.canonical import canonical_document
from tests.unit.workflows import shop

DOCUMENT = canonical_document(shop.orders.template)


def outcome(state: str) -> TaskOutcome:
    return TaskOutcome(
        task_uuid="t-1", namespace="fulfillment", name="process_order", version="1.0.0", state=state, finish_no=1
    )


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    shop.seen.clear()


def test_a_complete_task_calls_its_completion_hooks() -> None:
    (hook,) = hooks_for(DOCUMENT, HandlerRegistry(Settings()), "complete")
    assert hook.name == "tests.unit.workflows.shop:tell_accounting"
    assert hook.invoke(outcome("complete")) is None
    assert shop.seen == ["t-1"]


async def test_a_failed_task_calls_its_error_hooks_async_ones_too() -> None:
    (hook,) = hooks_for(DOCUMENT, HandlerRegistry(Settings()), "error")
    assert hook.is_async
    answer = hook.invoke(outcome("error"))
    assert answer is not None
    await answer
    assert shop.seen == ["failed t-1"]


@pytest.mark.parametrize("state", ["cancelled", "resolved_manually"])
def test_an_operators_own_endings_call_no_hook(state: str) -> None:
    assert hooks_for(DOCUMENT, HandlerRegistry(Settings()), state) == ()


def test_a_workflow_without_hooks_has_none() -> None:
    assert hooks_for({"steps": []}, HandlerRegistry(Settings()), "complete") == ()


def test_a_hook_that_is_gone_is_told_as_such() -> None:
    with pytest.raises(HandlerNotFound, match=r"which engine\.handler_modules"):
        hooks_for({"hooks": {"on_complete": ["gone.hooks:done"]}}, HandlerRegistry(Settings()), "complete")
