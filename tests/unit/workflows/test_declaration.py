from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasker.config.settings import Settings
from tasker.handlers.context import StepContext
from tasker.workflows.canonical import canonical_document
from tasker.workflows.checks import warnings_of
from tasker.workflows.declaration import Workflow, workflow
from tasker.workflows.declared import callable_path
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.retry import Retry
from tests.unit.workflows import shop

SHOP = "tests.unit.workflows.shop"


def test_a_declared_workflow_is_the_same_model_as_a_yaml_template() -> None:
    document = canonical_document(shop.orders.template)
    steps = document.pop("steps")
    assert document == {
        "namespace_name": "fulfillment",
        "name": "process_order",
        "version": "1.0.0",
        "description": "From an order to a parcel",
        "system_dependencies": {"primary": "warehouse"},
        "input_schema": {
            "type": "object",
            "properties": {
                "order_id": {"type": "integer"},
                "placed_at": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["order_id"],
        },
        "hooks": {"on_complete": [f"{SHOP}:tell_accounting"], "on_error": [f"{SHOP}:tell_support"]},
    }
    assert [(step["name"], step.get("depends_on", [])) for step in steps] == [
        ("validate_order", []),
        ("reserve_inventory", ["validate_order"]),
        ("ship_order", ["reserve_inventory", "validate_order"]),
        ("report", ["ship_order", "validate_order"]),
        ("send_receipt", ["ship_order", "report"]),
    ]
    assert steps[1] == {
        "name": "reserve_inventory",
        "handler": {
            "callable": f"{SHOP}:reserve_inventory",
            "initialization": {"url": "${WAREHOUSE_URL:-http://localhost}"},
        },
        "depends_on": ["validate_order"],
        "retry": {"max_attempts": 5, "backoff": "exponential", "backoff_base_ms": 1000, "max_backoff_ms": 30_000},
        "timeout_seconds": 30,
        "system_dependency": None,
        "result_schema": {
            "type": "object",
            "properties": {"reservation": {"type": "string"}, "quantity": {"type": "integer", "default": 1}},
            "required": ["reservation"],
        },
    }


def test_a_declared_workflow_is_registered_with_its_hooks_and_circuits() -> None:
    definition = shop.orders.template.to_definition(Settings())
    assert definition["has_after_work"] is True
    steps = {step["name"]: step for step in definition["steps"]}
    assert steps["validate_order"]["system_dependency"] == "warehouse"
    assert steps["reserve_inventory"]["system_dependency"] is None
    assert steps["ship_order"]["namespace"] == "shipping"
    assert steps["send_receipt"]["delegated"] is True
    assert steps["send_receipt"]["handler"]["callable"] == "celery:shop.tasks.send_receipt"


def test_declared_functions_stay_the_functions_they_are() -> None:
    context = shop.OrderRequest(order_id=7)
    validated = shop.validate_order(StepContext(context=context))
    assert validated == shop.ValidatedOrder(order_id=7, checked_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    assert shop.ship_order(StepContext(context=context), shop.Reservation("r-1"))["tracking"] == "T-r-1"


def test_docstrings_and_titles_are_no_part_of_the_definition() -> None:
    def declared(text: str) -> Workflow:
        class Result(BaseModel):
            title: str
            description: str

        Result.__doc__ = text
        flow = workflow("shop", "documented", version="1.0.0", input_schema=Result)

        @flow.step
        def work(ctx: StepContext) -> Result:
            return Result(title="", description="")

        return flow

    one, other = declared("One."), declared("Two.")
    assert one.template.digest() == other.template.digest()
    assert set(one.template.steps[0].result_schema or {}) == {"type", "properties", "required"}
    assert set((one.template.input_schema or {})["properties"]) == {"title", "description"}


def test_the_template_grows_with_the_declaration() -> None:
    flow = workflow("shop", "growing", version="1.0.0")
    with pytest.raises(InvalidTemplate, match="steps: must have at least one step"):
        _ = flow.template

    @flow.step
    def first(ctx: StepContext) -> None: ...

    assert len(flow.template.steps) == 1

    @flow.step
    def second(ctx: StepContext, first: None) -> None: ...

    assert [step.name for step in flow.template.steps] == ["first", "second"]


def test_one_function_may_be_a_step_of_several_workflows() -> None:
    one, other = (workflow("shop", name, version="1.0.0") for name in ("one", "other"))

    def work(ctx: StepContext) -> None: ...

    one.step(work)
    other.step(name="again")(work)

    @other.step(depends_on=[work])
    def last(ctx: StepContext) -> None: ...

    assert other.template.step("last").depends_on == ("again",)


def test_a_class_can_be_a_step_under_a_name() -> None:
    flow = workflow("shop", "classes", version="1.0.0")
    flow.step(name="charge")(shop.ChargeCard)
    assert flow.template.step("charge").handler.callable == f"{SHOP}:ChargeCard"


def test_a_step_declared_inside_a_function_is_worth_a_warning() -> None:
    flow = workflow("shop", "local", version="1.0.0")

    @flow.step
    def work(ctx: StepContext) -> None: ...

    (warning,) = warnings_of(flow.template)
    assert "declared inside a function: only this process can run it" in str(warning)
    assert warning.line is not None


def test_a_json_schema_is_taken_as_it_is() -> None:
    schema = {"type": "object", "title": "Order", "required": ["a"]}
    assert workflow("shop", "schema", version="1.0.0", input_schema=schema).context_type is None


def test_a_script_is_known_to_workers_by_the_name_of_its_file(tmp_path: Path) -> None:
    script = tmp_path / "nightly.py"
    script.write_text(
        "from tasker.workflows.declared import callable_path\ndef work(ctx): ...\nprint(callable_path(work))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "nightly:work"
    assert callable_path(shop.validate_order) == f"{SHOP}:validate_order"


# -- what is refused ------------------------------------------------------------------------------------------


class Strange:
    pass


def unknown_parameter(ctx, order): ...  # type: ignore[no-untyped-def]
def parameter_with_default(ctx, first=None): ...  # type: ignore[no-untyped-def]
def default_that_is_no_step(ctx, client=object()): ...  # type: ignore[no-untyped-def]  # noqa: B008
def many_positional(ctx, *first): ...  # type: ignore[no-untyped-def]
def many_named(ctx, **results): ...  # type: ignore[no-untyped-def]
def positional_only(ctx, first, /): ...  # type: ignore[no-untyped-def]
def no_context() -> None: ...
def named_context(*, ctx: StepContext) -> None: ...
def result_as_context(first: shop.ValidatedOrder) -> None: ...
def strange_parameter(ctx: StepContext, first: Strange) -> None: ...
def strange_result(ctx: StepContext) -> Strange: ...  # type: ignore[empty-body]
def function_as_result(ctx: StepContext) -> Callable[[], int]: ...  # type: ignore[empty-body]
def later_name(ctx: StepContext, first: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def generator(ctx: StepContext) -> Any:
    yield 1


async def async_generator(ctx: StepContext) -> Any:
    yield 1


def BadName(ctx: StepContext) -> None: ...
def first(ctx: StepContext) -> None: ...


BAD_FUNCTIONS: list[tuple[Callable[..., Any], str]] = [
    (unknown_parameter, "the parameter 'order' names no earlier step"),
    (parameter_with_default, "the function has a default for 'first': the result of a step it depends on is always"),
    (default_that_is_no_step, "the function has a default for 'client'"),
    (many_positional, "the function takes *first: name each step whose result it needs as a parameter of its own"),
    (many_named, "the function takes **results: name each step"),
    (positional_only, "the function takes 'first' by position only: results of steps are passed by name"),
    (no_context, "the function must take the StepContext as its first parameter"),
    (named_context, "the function must take the StepContext as its first parameter"),
    (result_as_context, "but 'first' is annotated ValidatedOrder: put a parameter for the context before it"),
    (strange_parameter, "the function annotates 'first' with Strange, which has no JSON form; use a pydantic model"),
    (strange_result, "the function returns Strange, which has no JSON form; use a pydantic model"),
    (function_as_result, "which has no JSON"),
    (later_name, "an annotation that cannot be evaluated: name 'Missing' is not defined; import or define"),
    (generator, "the function is a generator: a step has one result, so return it instead of yielding"),
    (async_generator, "the function is a generator"),
    (BadName, "name: must be lower-case letters, digits and underscores, a letter first, not 'BadName'"),
    (first, "name: another step has this name"),
    (lambda ctx: None, "the function has no name that a worker could import it by: declare it by def"),
    (Strange, "the function is a class without a method `call`: derive it from StepHandler"),
]


@pytest.mark.parametrize(("function", "message"), BAD_FUNCTIONS, ids=[f.__name__ for f, _ in BAD_FUNCTIONS])
def test_a_function_that_cannot_be_a_step_is_refused_when_it_is_declared(
    function: Callable[..., Any], message: str
) -> None:
    flow = workflow("shop", "refusing", version="1.0.0")
    flow.step(first)
    with pytest.raises(InvalidTemplate) as caught:
        flow.step(function)
    assert message in str(caught.value)
    (problem,) = caught.value.problems
    assert problem.file == __file__
    assert problem.line is not None
    assert problem.step == function.__name__
    assert [step.name for step in flow.template.steps] == ["first"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds: must be more than 0, not 0"),
        ({"retry": Retry(max_attempts=-1)}, "retry.max_attempts: must be at least 0, not -1"),
        ({"retry": Retry(base_seconds="1")}, "retry.base_seconds: must be a number of seconds, not '1'"),
        ({"retry": Retry(max_seconds=1e12)}, "retry.max_seconds: must be at most 2,592,000,000, not"),
        ({"depends_on": ["frist"]}, "depends_on: there is no earlier step 'frist', did you mean 'first'?"),
        ({"depends_on": [print]}, "depends_on: there is no earlier step 'print'"),
        ({"namespace": "celery_mail"}, "namespace: 'celery_mail' is reserved"),
        ({"settings": {"client": object()}}, "cannot be stored as JSON at $.handler.initialization.client"),
        ({"settings": {"ratio": float("nan")}}, "cannot be stored as JSON at $.handler.initialization.ratio"),
        ({"result_schema": {"type": "objct"}}, "result_schema.type: is no valid JSON Schema"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, Any], message: str) -> None:
    flow = workflow("shop", "refusing", version="1.0.0")
    flow.step(first)

    def second(ctx: StepContext) -> None: ...

    with pytest.raises(InvalidTemplate) as caught:
        flow.step(**options)(second)
    assert message in str(caught.value)
    assert "step 'second'" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"namespace": "Shop"}, "namespace_name: must be lower-case letters"),
        ({"name": "a-b"}, "name: must be lower-case letters, digits and underscores, a letter first, not 'a-b'; 'a_b'"),
        ({"version": "1"}, "version: must be three numbers with points"),
        ({"input_schema": Strange}, "input_schema: is Strange, which has no JSON form; give a pydantic model"),
        ({"input_schema": {"type": "objct"}}, "input_schema.type: is no valid JSON Schema"),
        ({"identity_strategy": "unique"}, "identity_strategy: must be strict, caller_provided or always_unique"),
    ],
)
def test_a_bad_workflow_is_refused_where_it_is_declared(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"namespace": "shop", "name": "refused", "version": "1.0.0", **arguments}
    with pytest.raises(InvalidTemplate) as caught:
        workflow(given.pop("namespace"), given.pop("name"), **given)
    assert message in str(caught.value)
    assert caught.value.problems[0].file == __file__


def no_argument() -> None: ...
def two_arguments(task: object, other: object) -> None: ...


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (no_argument, "no_argument must take one argument, the TaskOutcome"),
        (two_arguments, "two_arguments must take one argument, the TaskOutcome"),
        (generator, "generator is a generator"),
        (lambda task: None, "has no name that a worker could import it by"),
    ],
)
def test_a_bad_hook_is_refused(hook: Callable[..., Any], message: str) -> None:
    flow = workflow("shop", "refusing", version="1.0.0")
    with pytest.raises(InvalidTemplate) as caught:
        flow.on_complete(hook)
    assert message in str(caught.value)


def test_a_celery_step_is_checked_like_any_other() -> None:
    flow = workflow("shop", "delegating", version="1.0.0")
    with pytest.raises(InvalidTemplate, match="there is no earlier step 'first'"):
        flow.celery_step("send", task="shop.send", depends_on=["first"])
    with pytest.raises(InvalidTemplate, match=r"step 'send': handler.initialization.args\[0\]: \$result names 'first'"):
        flow.celery_step("send", task="shop.send", args=[{"$result": "first"}])


# -- type checkers --------------------------------------------------------------------------------------------

TYPED = """
from tests.unit.workflows.shop import OrderRequest, Reservation, reserve_inventory, ship_order, validate_order
from tasker.handlers.context import StepContext

reveal_type(validate_order)
reveal_type(reserve_inventory)
ctx = StepContext(context=OrderRequest(order_id=1))
reveal_type(ctx.context)
ship_order(ctx, Reservation("r-1"))
ship_order(ctx, "r-1")
"""


def test_a_type_checker_sees_real_functions(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", "--namespace-packages"]
    command += ["--explicit-package-bases", f"--cache-dir={tmp_path}", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    said = done.stdout.replace("tests.unit.workflows.shop.", "").replace("tasker.handlers.context.", "")
    assert 'note: Revealed type is "def (ctx: StepContext[OrderRequest]) -> ValidatedOrder"' in said, done.stdout
    assert (
        'note: Revealed type is "def (ctx: StepContext[Any], validate_order: ValidatedOrder) -> '
        'typing.Coroutine[Any, Any, Reservation]"'
    ) in said
    assert 'note: Revealed type is "OrderRequest"' in said
    assert ':10: error: Argument 2 to "ship_order" has incompatible type "str"; expected "Reservation"' in said
    assert "Found 1 error" in said
