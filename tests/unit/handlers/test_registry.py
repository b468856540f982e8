from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tasker.config.settings import Settings
from tasker.errors import HandlerNotFound
from tasker.handlers.checks import check_handlers
from tasker.handlers.context import StepContext
from tasker.handlers.registry import HandlerRegistry, handler
from tasker.workflows.declaration import workflow
from tasker.workflows.loading import load_template
from tests.unit.workflows import shop

SHOP = "tests.unit.workflows.shop"


def registry(*modules: str) -> HandlerRegistry:
    return HandlerRegistry(Settings.model_validate({"engine": {"handler_modules": modules}}))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (f"{SHOP}:validate_order", shop.validate_order),
        (f"{SHOP}.validate_order", shop.validate_order),
        (f"{SHOP}:ChargeCard.call", shop.ChargeCard.call),
        ("announce", shop.announce),
    ],
)
def test_a_handler_is_found_by_each_kind_of_name(name: str, found: Any) -> None:
    assert registry(SHOP).find(name) is found


def test_a_listed_package_includes_its_submodules() -> None:
    assert registry("tests.unit").find(f"{SHOP}.NotAHandler") is shop.NotAHandler
    assert registry("tests.unit.workflows").resolve("announce").is_async is False


def test_a_class_is_called_by_its_method() -> None:
    found = registry(SHOP)
    ctx = StepContext(context={"amount": 5}, results={"charge": {"charged": 5}})
    assert found.resolve(f"{SHOP}.ChargeCard").invoke(ctx) == {"charged": 5}
    assert found.resolve(f"{SHOP}.ChargeCard", "refund").invoke(ctx) == {"refunded": 5}


def test_a_celery_task_is_named_not_imported() -> None:
    found = registry().resolve("celery:shop.tasks.send_receipt")
    assert found.celery_task == "shop.tasks.send_receipt"
    assert found.target is None


def test_a_name_registered_here_needs_no_module() -> None:
    found = registry()

    def local(ctx: StepContext) -> str:
        return "local"

    found.register("local", local)
    assert found.resolve("local").invoke(StepContext(context={})) == "local"
    found.register("local", shop.announce)
    assert found.resolve("local").invoke(StepContext(context={})) == "announced"


def test_what_this_process_declared_needs_no_module_even_inside_a_function() -> None:
    flow = workflow("shop", "local_steps", version="1.0.0")

    @flow.step
    def work(ctx: StepContext) -> str:
        return "worked"

    name = flow.template.step("work").handler.callable
    assert ".<locals>." in name
    assert registry().resolve(name).invoke(StepContext(context={})) == "worked"


def test_a_handler_is_resolved_once_while_the_cache_keeps_it() -> None:
    found = registry(SHOP)
    assert found.resolve(f"{SHOP}.ChargeCard") is found.resolve(f"{SHOP}.ChargeCard")
    settings = Settings.model_validate({"engine": {"handler_modules": [SHOP]}, "query_cache": {"enabled": False}})
    uncached = HandlerRegistry(settings)
    assert uncached.resolve(f"{SHOP}.ChargeCard") is not uncached.resolve(f"{SHOP}.ChargeCard")


class CeleryTask:
    name = "shop.tasks.charge"

    def __call__(self) -> None: ...

    def delay(self) -> None: ...

    def apply_async(self) -> None: ...


celery_task = CeleryTask()
HERE = __name__


def generator(ctx: StepContext) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        (
            "IntegrationTest::StepHandler::StartHandler",
            None,
            "names no handler of Python (write package.module:function",
        ),
        ("charge card", None, "names no handler of Python"),
        ("anounce", None, "names no handler of Python, did you mean 'announce'?"),
        ("os:system", None, "is in module 'os', which engine.handler_modules (" + SHOP),
        ("tests.unit.workflows.shopping.charge", None, f"did you mean '{SHOP}'?"),
        (f"{SHOP}:validate_orders", None, "has nothing called 'validate_orders', did you mean 'validate_order'?"),
        (f"{SHOP}:dt.datetime", None, "'dt' is a module, reached through another one (name it itself, datetime:…, and"),
        (f"{SHOP}.missing.charge", None, f"the module '{SHOP}.missing' cannot be imported: No module named"),
        (f"{SHOP}:test.<locals>.step", None, "was declared inside a function of another process"),
        (f"{SHOP}.ChargeCard", "refnd", "has no method 'refnd', did you mean 'refund'?"),
        (f"{SHOP}.NotAHandler", None, "has no method 'call' (name a function, or a class derived from StepHandler)"),
        (f"{SHOP}.NeedsArguments", None, "cannot be made without arguments"),
        (f"{SHOP}.seen", None, "has no method 'call'"),
        (f"{SHOP}:announce", "call", "is a function, so there is no method 'call' (leave handler.method out)"),
        (f"{HERE}:celery_task", None, "is a Celery task (name it as one: celery:shop.tasks.charge)"),
        (f"{HERE}:generator", None, "is a generator: a step has one result"),
    ],
)
def test_a_handler_that_cannot_be_used_says_what_to_do(name: str, method: str | None, message: str) -> None:
    with pytest.raises(HandlerNotFound) as caught:
        registry(SHOP, HERE).resolve(name, method)
    assert message in str(caught.value)
    assert caught.value.field == "handler.callable"


def test_a_module_that_fails_to_import_is_said_to_be_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_handlers.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "needy_handlers.py").write_text("import something_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    found = registry("broken_handlers", "needy_handlers")
    with pytest.raises(HandlerNotFound, match="importing 'broken_handlers' raised RuntimeError: no licence"):
        found.resolve("broken_handlers:charge")
    with pytest.raises(HandlerNotFound, match="cannot be imported: No module named 'something_that_is_not_installed'"):
        found.resolve("needy_handlers:charge")
    assert "broken_handlers" not in sys.modules


def test_nothing_is_imported_that_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("harmful:run", "harmful.run", "harmful"):
        with pytest.raises(HandlerNotFound):
            registry(SHOP, "harmfull").resolve(name)
    assert "harmful" not in sys.modules


def test_a_packages_program_is_not_run_while_names_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "runnable_shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('it was run')")
    (package / "cards.py").write_text(
        "from tasker.handlers.registry import handler\n"
        "@handler('runnable_charge')\ndef charge(ctx):\n    return 'charged'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert registry("runnable_shop").resolve("runnable_charge").invoke(StepContext(context={})) == "charged"


def test_a_registered_name_stands_for_one_handler() -> None:
    handler("announce")(shop.announce)
    with pytest.raises(ValueError, match=r"the handler name 'announce' stands for .*\.announce already"):
        handler("announce")(generator)
    with pytest.raises(ValueError, match="has no colon"):
        handler("a:b")


TEMPLATE = f"""\
name: orders
namespace_name: shop
version: 1.0.0
steps:
  - name: charge
    handler: {{callable: {SHOP}.ChargeCard}}
  - name: refund
    handler: {{callable: {SHOP}.ChargeCard, method: refund}}
    depends_on: [charge]
  - name: send
    handler: {{callable: "celery:shop.send"}}
"""


def test_a_template_is_checked_for_handlers_that_are_missing_or_ask_for_too_much() -> None:
    assert list(check_handlers(load_template(TEMPLATE), registry(SHOP))) == []
    text = TEMPLATE.replace("    depends_on: [charge]\n", "").replace("celery:shop.send", "shop.send")
    problems = [str(problem) for problem in check_handlers(load_template(text), registry(SHOP))]
    assert problems == [
        f"template:8: step 'refund': handler.callable: handler {SHOP}.ChargeCard of step 'refund' has a parameter "
        "'charge', but the step does not depend on a step of that name; add it to depends_on, or rename the parameter",
        "template:10: step 'send': handler.callable: handler 'shop.send' is in module 'shop', which "
        f"engine.handler_modules ({SHOP}) does not list; add 'shop', or a package that contains it, to "
        "engine.handler_modules",
    ]


def test_hooks_are_looked_for_too() -> None:
    assert list(check_handlers(shop.orders.template, registry())) == []
