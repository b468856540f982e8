"""The protocol holds in every state that its models can reach, and each of its rules is needed."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.model.catalogue import LARGE_STATES, MODELS
from tests.model.document import PAGE, rule_lines, run_without, states_line
from tests.model.explorer import explore
from tests.model.rules import Rule

EACH = [pytest.param(name, module, id=name) for name, module in MODELS.items()]
WITHOUT = [
    pytest.param(module, rule, id=f"{name}-{rule.flag}") for name, module in MODELS.items() for rule in module.RULES
]


@pytest.mark.parametrize(("name", "module"), EACH)
def test_with_all_rules_nothing_is_lost_doubled_or_stuck(name: str, module: ModuleType) -> None:
    found = [explore(model) for model in module.SMALL]

    assert [str(exploration.violation) for exploration in found if exploration.violation] == []
    states = tuple(exploration.states for exploration in found)
    assert states_line(name, states) in PAGE.read_text(), "python -m tests.model document"


@pytest.mark.parametrize(("module", "rule"), WITHOUT)
def test_without_a_rule_its_model_goes_wrong(module: ModuleType, rule: Rule) -> None:
    found = run_without(module, rule)

    assert found.violation is not None
    assert rule.breaks in found.violation.what
    assert rule_lines(rule, found) in PAGE.read_text(), "python -m tests.model document"


@pytest.mark.long
@pytest.mark.parametrize(("name", "module"), EACH)
def test_with_all_rules_larger_worlds_hold_too(name: str, module: ModuleType) -> None:
    found = [explore(model) for model in module.LARGE]

    assert [str(exploration.violation) for exploration in found if exploration.violation] == []
    assert tuple(exploration.states for exploration in found) == LARGE_STATES[name]


def test_a_number_names_one_rule_of_this_page() -> None:
    named: dict[int, str] = {}
    for module in MODELS.values():
        for rule in module.RULES:
            if rule.number > 22:
                assert named.setdefault(rule.number, rule.flag) == rule.flag
    assert sorted(named) == list(range(23, 23 + len(named)))
