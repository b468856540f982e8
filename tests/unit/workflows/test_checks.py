from __future__ import annotations

import pytest

from tasker.workflows.checks import warnings_of
from tasker.workflows.loading import load_template
from tasker.workflows.problems import InvalidTemplate
from tests.unit.workflows.bad_inputs import BASE_TEMPLATE


@pytest.mark.parametrize(
    ("added", "place"),
    [
        ("    publishes_events: [order.shipped]\n", "step 'ship_order': publishes_events"),
        (
            "    publishes_events: [{name: order.shipped, condition: success, delivery_mode: durable, schema: {}}]\n",
            "step 'ship_order': publishes_events",
        ),
        ("    lifecycle: {max_duration_minutes: 5}\n", "step 'ship_order': lifecycle"),
        ("lifecycle: {max_waiting_for_retry_minutes: 5}\n", "lifecycle"),
        ("domain_events: [{name: order.done}]\n", "domain_events"),
        ("task_handler: {callable: 'Shop::OrderHandler', initialization: {a: 1}}\n", "task_handler"),
    ],
)
def test_a_field_that_nothing_acts_on_yet_is_named_in_a_warning(added: str, place: str) -> None:
    warnings = warnings_of(load_template(BASE_TEMPLATE + added))
    assert [str(warning) for warning in warnings] == [f"template:13: {place}: is stored, but nothing acts on it yet"]


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
