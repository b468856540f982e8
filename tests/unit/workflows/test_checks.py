from __future__ import annotations

import pytest

from tasker.workflows.checks import warnings_of
from tasker.workflows.loading import load_template
from tasker.workflows.problems import InvalidTemplate
from tests.unit.workflows.bad_inputs import BASE_TEMPLATE


@pytest.mark.parametrize(
    "added",
    [
        "    publishes_events: [order.shipped]\n",
        "    publishes_events: [{name: order.shipped, condition: success, delivery_mode: durable, schema: {}}]\n",
        "domain_events: [{name: order.done, publisher: shop.events.Done}]\n",
        "task_handler: {callable: 'shop.orders:OrderHandler', initialization: {a: 1}}\n",
    ],
)
def test_events_and_task_handlers_are_acted_on_so_they_warn_of_nothing(added: str) -> None:
    assert warnings_of(load_template(BASE_TEMPLATE + added)) == []


@pytest.mark.parametrize(
    ("added", "warning"),
    [
        (
            "task_handler: {callable: 'Shop::OrderHandler'}\n",
            "task_handler.callable: is of another language, so nothing calls it here",
        ),
        (
            "domain_events: [{name: order.done, condition: retryable_failure}]\n",
            "domain_events[0].condition: never happens to a task as a whole: only its steps are tried again",
        ),
    ],
)
def test_what_can_never_happen_is_named_in_a_warning(added: str, warning: str) -> None:
    (found,) = warnings_of(load_template(BASE_TEMPLATE + added))
    assert str(found) == f"template:13: {warning}"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (
            "    publishes_events: [a, {name: a, condition: failure}]\n",
            "step 'ship_order': publishes_events[1].name: another event of the list has this name",
        ),
        (
            "domain_events: [{name: a, schema: {type: thing}}]\n",
            "domain_events[0].schema.type: is no valid JSON Schema",
        ),
        ("domain_events: [{name: a, publisher: 'celery:x'}]\n", "domain_events[0].publisher: must name a function"),
        ("domain_events: [{name: a, publisher: 'a b'}]\n", "domain_events[0].publisher: must not contain spaces"),
        ("task_handler: {callable: 'celery:x'}\n", "task_handler.callable: must name an object with on_complete"),
        ("task_handler: {callable: 'a b'}\n", "task_handler.callable: must not contain spaces"),
    ],
)
def test_events_that_cannot_be_published_are_refused(added: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        load_template(BASE_TEMPLATE + added)
    assert message in str(caught.value)


def test_lifecycles_are_acted_on_so_they_warn_of_nothing() -> None:
    text = BASE_TEMPLATE + "    lifecycle: {max_duration_minutes: 5}\nlifecycle: {staleness_action: manual_review}\n"
    assert warnings_of(load_template(text)) == []


@pytest.mark.parametrize(
    ("added", "field"),
    [
        ("    lifecycle: {auto_dlq_on_timeout: false}\n", "lifecycle.auto_dlq_on_timeout"),
        ("lifecycle: {auto_dlq_on_timeout: false}\n", "lifecycle.auto_dlq_on_timeout"),
    ],
)
def test_a_lifecycle_without_dead_letters_is_said_to_be_none(added: str, field: str) -> None:
    (warning,) = warnings_of(load_template(BASE_TEMPLATE + added))
    assert (warning.field, warning.message.partition(":")[0]) == (field, "has no effect")


@pytest.mark.parametrize(
    ("lifecycle", "message"),
    [
        ("{max_duration_minutes: 0}", "max_duration_minutes: must be at least 1, not 0"),
        ("{staleness_action: forget}", "staleness_action: must be dlq, error or manual_review"),
        ("{max_duration: 5}", "max_duration: unknown field, did you mean 'max_duration_minutes'?"),
    ],
)
def test_a_lifecycle_that_cannot_be_meant_is_refused(lifecycle: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        load_template(BASE_TEMPLATE + f"lifecycle: {lifecycle}\n")
    assert f"lifecycle.{message}" in str(caught.value)


def test_fields_that_ask_for_nothing_warn_of_nothing() -> None:
    text = BASE_TEMPLATE + "    publishes_events: []\n    lifecycle:\ndomain_events: []\ntask_handler:\n"
    assert warnings_of(load_template(text)) == []


def test_secondary_systems_are_said_to_be_for_readers() -> None:
    text = BASE_TEMPLATE + "system_dependencies: {primary: gateway, secondary: [mail]}\n"
    (warning,) = warnings_of(load_template(text))
    assert (warning.field, warning.message) == (
        "system_dependencies.secondary",
        "is stored for readers; only primary guards steps",
    )


def test_a_first_delay_beyond_the_longest_is_worth_a_warning() -> None:
    (warning,) = warnings_of(load_template(BASE_TEMPLATE + "    retry: {initial_delay: 60, max_backoff_ms: 5000}\n"))
    assert str(warning) == (
        "template:13: step 'ship_order': retry.initial_delay: is longer than max_backoff_ms, 5,000, which therefore is "
        "every delay"
    )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("{condition: success}", "publishes_events[0].name: is required"),
        ("{name: a, condition: never}", "publishes_events[0].condition: must be success, failure, "),
        ("{name: a, delivery: fast}", "publishes_events[0].delivery: unknown field, did you mean 'delivery_mode'?"),
        ("3", "publishes_events[0]: must be a mapping, not 3"),
    ],
)
def test_an_event_has_its_own_fields(event: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        load_template(BASE_TEMPLATE + f"    publishes_events: [{event}]\n")
    assert message in str(caught.value)
