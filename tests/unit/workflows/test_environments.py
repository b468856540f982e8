from __future__ import annotations

import pytest

from tasker.workflows.canonical import canonical_document
from tasker.workflows.loading import build_template, for_environment, load_template
from tasker.workflows.model import WorkflowTemplate
from tasker.workflows.problems import InvalidTemplate
from tasker.workflows.yaml_source import Source

TEXT = """\
name: orders
namespace_name: shop
version: 1.0.0
steps:
  - name: charge
    handler: {callable: shop.charge, initialization: {url: "https://pay", limits: {daily: 10, hourly: 2}}}
    retry: {limit: 3, backoff: fixed}
    timeout_seconds: 30
  - name: ship
    handler: {callable: shop.ship}
    dependencies: [charge]
environments:
  test:
    steps:
      - name: ship
        timeout_seconds: 2
      - name: ALL
        timeout_seconds: 1
        retry: {max_attempts: 1}
        handler: {initialization: {debug: true, url: null}}
      - name: charge
        handler: {initialization: {limits: {daily: null, hourly: 0}, tags: [a]}}
  staging:
    steps:
      - name: ship
        depends_on: []
        namespace: warehouse
  empty:
"""


def step(template: WorkflowTemplate, name: str) -> dict[str, object]:
    document = canonical_document(template)
    return next(step for step in document["steps"] if step["name"] == name)


def test_all_comes_first_and_a_steps_own_override_rules_wherever_it_stands() -> None:
    template = load_template(TEXT, "test")
    assert template.step("charge").timeout_seconds == 1
    assert template.step("ship").timeout_seconds == 2


def test_mappings_merge_deeply_and_null_leaves_the_base_value() -> None:
    template = load_template(TEXT, "test")
    assert template.step("charge").handler.initialization == {
        "url": "https://pay",
        "limits": {"daily": 10, "hourly": 0},
        "debug": True,
        "tags": ["a"],
    }
    # `ship` has no url, so a null that keeps the base adds none.
    assert template.step("ship").handler.initialization == {"debug": True}


def test_another_spelling_in_the_override_means_the_same_field() -> None:
    assert load_template(TEXT, "test").step("charge").retry.max_attempts == 1


def test_a_list_replaces_the_base_also_when_it_is_empty() -> None:
    template = load_template(TEXT, "staging")
    assert template.step("ship").depends_on == ()
    assert template.step("ship").namespace == "warehouse"


def test_an_environment_that_is_not_mentioned_or_says_nothing_changes_nothing() -> None:
    base = load_template(TEXT)
    for name in ("production", "empty"):
        assert load_template(TEXT, name).digest() == base.digest()


def test_an_override_changes_the_digest() -> None:
    assert load_template(TEXT, "test").digest() != load_template(TEXT).digest()


def test_applying_an_environment_twice_changes_nothing() -> None:
    once = load_template(TEXT, "test")
    assert for_environment(once, "test") is once
    again = build_template(Source(canonical_document(once)), "test")
    assert canonical_document(again) == canonical_document(once)
    assert for_environment(load_template(TEXT), "test").digest() == once.digest()


def test_an_environment_once_applied_is_not_mixed_with_another() -> None:
    once = load_template(TEXT, "test")
    assert for_environment(once, "staging") is once


def test_the_task_handler_of_an_environment_is_merged_too() -> None:
    text = TEXT.replace("steps:\n  - name: charge", "task_handler: {callable: A::B}\nsteps:\n  - name: charge", 1)
    text = text.replace("  staging:\n", "  staging:\n    task_handler: {initialization: {x: 1}}\n")
    template = load_template(text, "staging")
    assert template.task_handler is not None
    assert template.task_handler.callable == "A::B"
    assert template.task_handler.initialization == {"x": 1}


def test_a_value_that_only_the_override_makes_wrong_is_told_at_the_override() -> None:
    text = TEXT.replace("depends_on: []", "depends_on: [charged]")
    with pytest.raises(InvalidTemplate) as caught:
        load_template(text)
    assert str(caught.value) == (
        "template:26: environment 'staging': step 'ship': depends_on[0]: there is no step 'charged', "
        "did you mean 'charge'?"
    )


def test_an_unknown_field_is_refused_in_an_override_also_when_it_is_null() -> None:
    with pytest.raises(InvalidTemplate, match="timeout_second: unknown field"):
        load_template(TEXT.replace("namespace: warehouse", "timeout_second:"))
