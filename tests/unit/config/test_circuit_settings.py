"""The settings of circuits: tables whose names users choose, what they inherit, and what becomes of mistakes."""

from __future__ import annotations

import pytest

from tasker.config.manager import ConfigManager
from tasker.config.problems import InvalidSettings
from tasker.resilience.circuits import CircuitBreakers, CircuitConfig
from tests.unit.config.conftest import Project

pytestmark = [pytest.mark.config, pytest.mark.circuit_breaker]

PREFIX = "TASKER_CIRCUIT_BREAKERS__COMPONENT_CONFIGS__"


def test_a_systems_table_says_what_differs_from_the_default(project: Project) -> None:
    project.write(
        "base/mine.toml",
        "[circuit_breakers.default_config]\nfailure_threshold = 7\n"
        "[circuit_breakers.component_configs.bank]\ntimeout_seconds = 120\n"
        "[circuit_breakers.component_configs.database]\nfailure_threshold = 9\n",
    )
    settings = project.load(**{f"{PREFIX}MAIL__SUCCESS_THRESHOLD": "4"}).circuit_breakers
    circuits = CircuitBreakers.from_settings(settings)
    assert circuits.config_of("bank") == CircuitConfig(7, 120, 2)
    assert circuits.config_of("mail") == CircuitConfig(7, 30, 4)
    assert circuits.config_of("anything") == CircuitConfig(7, 30, 2)
    assert circuits.get("database").config == CircuitConfig(9, 2, 1)
    assert circuits.get("pgmq").config == CircuitConfig(5, 2, 1)


def test_keys_of_a_systems_table_are_shown_and_explained_with_their_place(project: Project) -> None:
    project.write("base/mine.toml", "[circuit_breakers.component_configs.bank]\ntimeout_seconds = 120\n")
    settings = project.load()
    key = "circuit_breakers.component_configs.bank.timeout_seconds"
    assert settings.flat()[key] == 120
    assert str(settings.origin(key)) == "settings/base/mine.toml:2"
    explanation = ConfigManager.explain(settings, key)
    assert (explanation.value, explanation.key.variable) == ("120", f"{PREFIX}BANK__TIMEOUT_SECONDS")
    unset = ConfigManager.explain(settings, "circuit_breakers.component_configs.mail.failure_threshold")
    assert (unset.value, str(unset.history[0][0])) == ("unset", "default (as default_config says)")
    assert "circuit_breakers.component_configs.mail.failure_threshold" not in settings.flat()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (
            "component_configs.bank.timeout_seconds = 0",
            "bank.timeout_seconds = 0: must be a number above 0, to 604,800",
        ),
        ("component_configs.bank.timeout = 5", "has failure_threshold, timeout_seconds, success_threshold"),
        ("component_configs.bank = 5", "component_configs.bank = 5: is a table of settings, not a value"),
        ('component_configs."api.bank".timeout_seconds = 5', "lower-case letters, digits, _ and - only"),
        ("component_configs.Bank.timeout_seconds = 5", "lower-case letters, digits, _ and - only"),
        ("global_settings.max_circuit_breakers = 0", "must be a whole number from 1 to 10,000"),
        ("default_config.failure_threshold = '5'", "must be a whole number from 1 to 1,000,000, without quotes"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(project: Project, toml: str, says: str) -> None:
    project.write("base/mine.toml", f"[circuit_breakers]\n{toml}\n")
    with pytest.raises(InvalidSettings) as caught:
        project.load()
    assert says in str(caught.value)


def test_an_empty_table_of_a_system_is_none(project: Project) -> None:
    project.write("base/mine.toml", "[circuit_breakers.component_configs.bank]\n")
    circuits = CircuitBreakers.from_settings(project.load().circuit_breakers, ledger=None)
    assert circuits.config_of("bank") == CircuitConfig()
