from __future__ import annotations

import pytest

from tasker.config.settings import Settings
from tasker.workflows.canonical import canonical_document
from tasker.workflows.loading import build_template, load_template
from tasker.workflows.yaml_source import Source

MINIMAL = """\
name: orders
namespace_name: shop
version: 1.0.0
steps:
  - name: charge
    handler: {callable: shop.charge}
"""


def definition(text: str, **system: object) -> dict[str, object]:
    settings = Settings.model_validate({"environment": "production", "system": system})
    return load_template(text).to_definition(settings)


def test_what_is_left_out_comes_from_the_settings() -> None:
    found = definition(
        MINIMAL,
        step_execution_timeout_seconds=45,
        max_context_bytes=2048,
        backoff={"base_seconds": 2, "multiplier": 3, "max_seconds": 90, "jitter_max_percentage": 0.25},
    )
    assert found["max_context_bytes"] == 2048
    assert found["steps"] == [
        {
            "name": "charge",
            "kind": "standard",
            "namespace": "shop",
            "handler": {"callable": "shop.charge", "method": None, "initialization": {}},
            "depends_on": [],
            "retryable": True,
            "max_attempts": 3,
            "backoff": "exponential",
            "backoff_base_ms": 2000,
            "backoff_max_ms": 90_000,
            "backoff_multiplier": 3,
            "jitter_fraction": 0.25,
            "timeout_seconds": 45,
            "system_dependency": None,
            "result_schema": None,
            "delegated": False,
            "lifecycle": None,
            "publishes_events": [],
        }
    ]


def test_jitter_can_be_turned_off() -> None:
    (step,) = definition(MINIMAL, backoff={"jitter_enabled": False})["steps"]  # type: ignore[misc]
    assert step["jitter_fraction"] == 0


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        ("{limit: 0}", {"max_attempts": 1}),
        ("{max_attempts: 7}", {"max_attempts": 7}),
        ("{retryable: false, max_attempts: 7}", {"retryable": False, "max_attempts": 7}),
        ("{backoff: linear}", {"backoff": "linear"}),
        ("{backoff: none}", {"backoff": "none"}),
        ("{backoff_base_ms: 0}", {"backoff_base_ms": 0}),
        ("{initial_delay: 1.5, max_delay: 60}", {"backoff_base_ms": 1500, "backoff_max_ms": 60_000}),
        ("{backoff_base_ms: null, max_backoff_ms: 5}", {"backoff_base_ms": 1000, "backoff_max_ms": 5}),
        ("", {"max_attempts": 3, "backoff": "exponential"}),
    ],
)
def test_a_retry_policy_means_what_it_says(retry: str, expected: dict[str, object]) -> None:
    (step,) = definition(f"{MINIMAL}    retry: {retry}\n")["steps"]  # type: ignore[misc]
    assert {name: step[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("primary", "own", "circuit"),
    [
        ("", "", None),
        ("system_dependencies: {primary: default}\n", "", None),
        ("system_dependencies: {primary: gateway}\n", "", "gateway"),
        ("system_dependencies: {primary: gateway}\n", "    system_dependency: bank\n", "bank"),
        ("system_dependencies: {primary: gateway}\n", "    system_dependency: null\n", None),
        ("", "    system_dependency: bank\n", "bank"),
    ],
)
def test_the_circuit_of_a_step_is_its_own_else_the_workflows(primary: str, own: str, circuit: str | None) -> None:
    (step,) = definition(primary + MINIMAL + own)["steps"]  # type: ignore[misc]
    assert step["system_dependency"] == circuit


def test_a_celery_task_is_delegated_and_always_has_a_timeout() -> None:
    (step,) = definition(MINIMAL.replace("shop.charge", '"celery:shop.charge"'))["steps"]  # type: ignore[misc]
    assert step["delegated"] is True
    assert step["timeout_seconds"] == 300


def test_the_identity_strategy_of_the_template_rules_over_the_setting() -> None:
    settings = Settings.model_validate({"engine": {"identity_strategy": "strict"}})
    assert load_template(MINIMAL).to_definition(settings)["identity_strategy"] == "strict"
    text = MINIMAL + "identity_strategy: always_unique\n"
    assert load_template(text).to_definition(settings)["identity_strategy"] == "always_unique"


# -- the digest -----------------------------------------------------------------------------------------------


def test_the_digest_covers_no_default_of_the_settings() -> None:
    one = definition(MINIMAL, step_execution_timeout_seconds=45)
    other = definition(MINIMAL, step_execution_timeout_seconds=90)
    assert one["digest"] == other["digest"]
    assert one["steps"] != other["steps"]


SAME = [
    ("the order of fields", MINIMAL.replace("name: orders\n", "") + "name: orders\n"),
    ("comments and quotes", MINIMAL.replace("version: 1.0.0", 'version: "1.0.0" # the first')),
    (
        "fields that are null or empty",
        f"{MINIMAL}    retry:\n    timeout_seconds:\n    dependencies: []\nmetadata: {{}}\n",
    ),
    ("a default written out", MINIMAL + "    type: standard\n"),
]


@pytest.mark.parametrize("text", [text for _, text in SAME], ids=[case for case, _ in SAME])
def test_the_same_definition_written_otherwise_has_the_same_digest(text: str) -> None:
    assert load_template(text).digest() == load_template(MINIMAL).digest()


def test_two_spellings_of_a_field_have_the_same_digest() -> None:
    one = load_template(MINIMAL + "    retry: {limit: 3, initial_delay: 1}\n    timeout_seconds: 30.0\n")
    other = load_template(MINIMAL + "    retry: {backoff_base_ms: 1000, max_attempts: 3}\n    timeout_seconds: 30\n")
    assert one.digest() == other.digest()


OTHER = [
    MINIMAL.replace("1.0.0", "1.0.1"),
    MINIMAL.replace("shop.charge", "shop.pay"),
    MINIMAL + "description: takes money\n",
    MINIMAL + "    timeout_seconds: 300\n",
    MINIMAL + "    system_dependency: null\n",
    MINIMAL + "metadata: {note: null}\n",
    MINIMAL + "environments: {production: {steps: [{name: charge, timeout_seconds: 1}]}}\n",
]


def test_whatever_else_changes_changes_the_digest() -> None:
    digests = {load_template(text).digest() for text in [MINIMAL, *OTHER]}
    assert len(digests) == len(OTHER) + 1


@pytest.mark.parametrize("text", [MINIMAL, *OTHER])
def test_a_template_is_made_again_from_its_document(text: str) -> None:
    template = load_template(text)
    document = canonical_document(template)
    again = build_template(Source(document))
    assert again.digest() == template.digest()
    assert canonical_document(again) == document


def test_the_definition_carries_document_and_digest() -> None:
    found = definition(MINIMAL + "metadata: {author: ann, tags: [a, b]}\n")
    template = load_template(MINIMAL + "metadata: {author: ann, tags: [a, b]}\n")
    assert found["document"] == canonical_document(template)
    assert found["digest"] == template.digest()
    assert found["has_after_work"] is False


def test_a_template_cannot_be_changed() -> None:
    template = load_template(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        template.version = "2.0.0"
    assert template.step("charge").name == "charge"
    with pytest.raises(KeyError):
        template.step("ship")


def test_lifecycles_are_registered_as_their_author_wrote_them() -> None:
    text = MINIMAL + "    lifecycle: {max_steps_in_process_minutes: 5}\nlifecycle: {max_duration_minutes: 60}\n"
    found = definition(text)
    assert found["lifecycle"] == {"max_duration_minutes": 60}
    assert found["steps"][0]["lifecycle"] == {"max_steps_in_process_minutes": 5}  # type: ignore[index]
    assert definition(MINIMAL)["lifecycle"] is None
