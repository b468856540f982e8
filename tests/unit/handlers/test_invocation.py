from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from tasker.config.settings import Settings
from tasker.encoding import encode
from tasker.errors import ContextInvalid, HandlerNotFound, PermanentError
from tasker.handlers.context import StepContext
from tasker.handlers.failures import classify
from tasker.handlers.registry import HandlerRegistry
from tasker.handlers.resolved import ResolvedHandler
from tasker.handlers.results import ResultCheck
from tasker.workflows.schemas import Schema
from tests.unit.workflows import shop

WORKFLOW = ("fulfillment", "process_order", "1.0.0")
CHECKED = {"order_id": 42, "checked_at": "2026-01-02T00:00:00Z"}


def bound(step_name: str, workflow: tuple[str, str, str] = WORKFLOW) -> ResolvedHandler:
    """The handler of a step of the declared workflow, as an executor gets it."""
    definition = shop.orders.template.to_definition(Settings())
    step = next(step for step in definition["steps"] if step["name"] == step_name)
    return HandlerRegistry(Settings()).for_step(
        step["handler"],
        step_name=step_name,
        depends_on=step["depends_on"],
        result_schema=step["result_schema"],
        workflow=workflow,
    )


def test_the_context_is_an_instance_of_the_declared_model_and_a_model_becomes_json() -> None:
    assert bound("validate_order").invoke(StepContext(context={"order_id": 42})) == CHECKED


async def test_an_async_handler_gets_typed_results_and_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", "http://warehouse")
    found = bound("reserve_inventory")
    assert found.is_async
    ctx = StepContext(
        context={"order_id": 42},
        results={"validate_order": CHECKED},
        settings={"url": "${WAREHOUSE_URL:-http://localhost}"},
    )
    assert await found.invoke(ctx) == {"reservation": "http://warehouse/42", "quantity": 1}
    assert ctx.settings["url"] == "${WAREHOUSE_URL:-http://localhost}", "the executor's own context is left alone"


def test_a_parameter_without_annotation_gets_the_json_value_and_the_workflow_knows_the_context() -> None:
    ctx = StepContext(context={"order_id": 42}, results={"ship_order": {"tracking": "T-1"}, "validate_order": CHECKED})
    assert bound("report").invoke(ctx) == {"tracking": "T-1", "order": 42, "context": 42}


def test_another_version_of_the_workflow_still_gets_a_typed_context() -> None:
    ctx = StepContext(context={"order_id": 1}, results={"ship_order": {"tracking": "T"}, "validate_order": CHECKED})
    found = bound("report", ("fulfillment", "process_order", "0.9.0")).invoke(ctx)
    assert found["context"] == 1


def test_a_context_that_is_not_the_model_is_final_and_says_where() -> None:
    with pytest.raises(ContextInvalid) as caught:
        bound("validate_order").invoke(StepContext(context={"order_id": "x"}))
    assert "the task's context is no OrderRequest" in str(caught.value)
    assert "order_id: Input should be a valid integer" in str(caught.value)
    assert classify(caught.value)["retryable"] is False


def test_a_parents_result_that_is_not_the_model_is_final_and_says_where() -> None:
    ctx = StepContext(context={"order_id": 1}, results={"reserve_inventory": {"quantity": "many"}})
    with pytest.raises(PermanentError) as caught:
        bound("ship_order").invoke(ctx)
    assert caught.value.code == "dependency_result_mismatch"
    assert "the result of step 'reserve_inventory' is no Reservation" in str(caught.value)
    assert "reservation: Field required" in str(caught.value)


async def test_what_is_wrong_before_an_async_handler_runs_is_raised_when_it_is_awaited() -> None:
    answer = bound("reserve_inventory").invoke(StepContext(context={"order_id": 1}))
    with pytest.raises(PermanentError, match="asks for the result of step 'validate_order'"):
        await answer


def test_an_unset_environment_variable_is_final() -> None:
    found = HandlerRegistry(Settings())
    found.register("plain", lambda ctx: None)
    with pytest.raises(PermanentError, match="needs the environment variable SURELY_NOT_SET"):
        found.resolve("plain").invoke(StepContext(context={}, settings={"key": "${SURELY_NOT_SET}"}))


def test_a_handler_that_asks_for_more_than_its_step_gets_is_not_found() -> None:
    registry = HandlerRegistry(Settings())
    with pytest.raises(HandlerNotFound, match="has a parameter 'reserve_inventory', but the step does not depend"):
        registry.for_step(
            {"callable": "tests.unit.workflows.shop:ship_order"},
            step_name="ship_order",
            depends_on=["validate_order"],
            result_schema=None,
            workflow=WORKFLOW,
        )


def test_a_celery_task_is_called_with_what_its_step_says() -> None:
    found = bound("send_receipt")
    assert found.celery_task == "shop.tasks.send_receipt"
    call = found.celery_call(
        StepContext(
            context={"order_id": 42},
            results={"ship_order": {"tracking": "T-1"}, "report": {}},
            settings=shop.orders.template.step("send_receipt").handler.initialization,
        )
    )
    assert (call.args, call.kwargs) == ([], {"tracking": "T-1", "order": 42})
    assert call.options == {"queue": "mail"}


async def promised(ctx: StepContext) -> int:
    return 1


def promises(ctx: StepContext) -> Any:
    """Looks synchronous and is not."""
    return promised(ctx)


def test_a_function_that_returns_a_coroutine_is_told_to_be_async() -> None:
    registry = HandlerRegistry(Settings())
    registry.register("promises", promises)
    with pytest.raises(PermanentError, match="returned a coroutine instead of a result: declare it `async def`"):
        registry.resolve("promises").invoke(StepContext(context={}))


# -- results --------------------------------------------------------------------------------------------------


class Money(BaseModel):
    amount: Decimal


class Slots:
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, None),
        ({"a": [1, "b", 2.5, True, None]}, {"a": [1, "b", 2.5, True, None]}),
        (Money(amount=Decimal("9.99")), {"amount": "9.99"}),
        (shop.Reservation("r-1", 2), {"reservation": "r-1", "quantity": 2}),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (Decimal("1.5"), "1.5"),
    ],
)
def test_what_has_a_json_form_becomes_it(value: Any, result: Any) -> None:
    assert ResultCheck("charge", None, None).result(value) == result


def test_models_inside_plain_lists_are_checked_by_their_json_form() -> None:
    schema = Schema({"type": "array", "items": {"required": ["amount"], "properties": {"amount": {"type": "string"}}}})
    check = ResultCheck("charge", schema, None)
    assert check.result([Money(amount=Decimal(1))]) == [{"amount": "1"}]
    with pytest.raises(PermanentError, match=r"does not fit its result_schema: \[0\].amount: is required"):
        check.result([shop.Reservation("r-1")])


@pytest.mark.parametrize("schema", [None, Schema({"type": "object"})])
def test_what_has_no_json_form_is_final(schema: Schema | None) -> None:
    with pytest.raises(PermanentError) as caught:
        ResultCheck("charge", schema, None).result(Slots())
    assert caught.value.code == "result_not_storable"
    assert "the result of step 'charge' cannot be stored as JSON" in str(caught.value)


def test_without_a_schema_what_is_nested_is_left_to_the_one_encoder() -> None:
    result = ResultCheck("charge", None, None).result({"money": Money(amount=Decimal(1)), "on": dt.date(2026, 1, 2)})
    assert encode(result) == b'{"money":{"amount":"1"},"on":"2026-01-02"}'
