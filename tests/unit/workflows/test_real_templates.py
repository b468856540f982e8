from __future__ import annotations

from pathlib import Path

import pytest

from tasker.config.settings import Settings
from tasker.errors import HandlerNotFound
from tasker.handlers.registry import HandlerRegistry
from tasker.workflows.checks import warnings_of
from tasker.workflows.loading import load_template

FOLDER = Path(__file__).parents[2] / "data" / "templates"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_four_of_them() -> None:
    assert len(FILES) == 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_template_of_the_original_engine_loads_unchanged(file: Path) -> None:
    template = load_template(file)
    for environment in [*template.environments, "elsewhere"]:
        definition = load_template(file, environment).to_definition(Settings())
        assert [step["name"] for step in definition["steps"]] == [step.name for step in template.steps]
        assert all(step["timeout_seconds"] > 0 and step["max_attempts"] > 1 for step in definition["steps"])


def test_limit_is_another_name_of_max_attempts() -> None:
    template = load_template(FOLDER / "payments_credit_card_payment_1.0.0.yaml")
    attempts = {step["name"]: step["max_attempts"] for step in template.to_definition(Settings())["steps"]}
    assert attempts == {
        "validate_payment": 3,
        "check_fraud": 2,
        "authorize_payment": 3,
        "capture_payment": 5,
        "send_confirmation": 3,
    }


def test_an_environment_overrides_by_step_name_and_null_keeps_the_base() -> None:
    file = FOLDER / "payments_credit_card_payment_1.0.0.yaml"
    base, development = load_template(file), load_template(file, "development")
    fraud = development.step("check_fraud")
    assert fraud.handler.initialization == {
        "fraud_service_url": "http://localhost:8080/fraud-check",
        "risk_threshold": 0.5,
        "timeout_ms": 5000,
        "debug_mode": True,
    }
    assert fraud.timeout_seconds == base.step("check_fraud").timeout_seconds == 60
    assert fraud.retry == base.step("check_fraud").retry
    assert development.step("validate_payment") == base.step("validate_payment")


def test_references_to_the_environment_are_kept_as_they_are_written() -> None:
    template = load_template(FOLDER / "payments_credit_card_payment_1.0.0.yaml", "production")
    settings = template.to_definition(Settings())["steps"][2]["handler"]["initialization"]
    assert settings["api_key"] == "${PAYMENT_GATEWAY_API_KEY}"


def test_a_null_system_dependency_is_none_although_the_workflow_has_a_primary_one() -> None:
    template = load_template(FOLDER / "payments_credit_card_payment_1.0.0.yaml")
    assert template.system_dependencies.primary == "payment_gateway"
    assert {step["system_dependency"] for step in template.to_definition(Settings())["steps"]} == {None}


def test_a_task_handler_of_another_language_is_named_in_a_warning() -> None:
    warnings = warnings_of(load_template(FOLDER / "integration_diamond_workflow_1.0.0.yaml"))
    assert [(warning.line, warning.field, warning.message) for warning in warnings] == [
        (30, "task_handler.callable", "is of another language, so nothing calls it here")
    ]


def test_a_class_of_another_language_fails_only_when_handlers_are_resolved() -> None:
    template = load_template(FOLDER / "integration_diamond_workflow_1.0.0.yaml")
    name = template.step("step_a").handler.callable
    with pytest.raises(HandlerNotFound, match="names no handler of Python"):
        HandlerRegistry(Settings()).resolve(name)
