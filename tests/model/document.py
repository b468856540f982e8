"""Writes docs/explanation/protocol_models.md from the models: ``python -m tests.model document``."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from tests.model.catalogue import LARGE_STATES, MODELS
from tests.model.explorer import Exploration, explore
from tests.model.rules import Rule

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "protocol_models.md"

INTRODUCTION = """\
# The protocol, explored

Steps are claimed, run, reported, lost, paused and resumed by many processes at once, and any of them may die between
two transactions. What must not happen then is easily said, and hard to see in code. So the protocol is also written
down as small models, in `tests/model`, and every state that they can reach is looked at: that nothing is lost,
doubled or stuck, and that from everywhere the work can still be finished. A second look asks the same with something
missing for ever, such as the end of a transaction that keeps a task locked.

One move of a model is one transaction; between two moves anything else may come, and processes may die. Each rule
below can be switched off in its model, which must then go wrong: the shortest way there stands under the rule. The
tests in `tests/unit/model` check both, and that this page says what the models say; `python -m tests.model document`
writes it.

Rules up to 22 come from an earlier model, of single steps; those that appear here are proven again, in a larger
world. Rules marked *design* are for what is not built yet: whoever builds it has them to keep. One marked *not yet*
would be broken by the engine today.
"""


def run_without(module: ModuleType, rule: Rule) -> Exploration:
    """The model without ``rule``, in the size in which that shows soonest."""
    return explore(replace(module.SMALL[rule.of], **{**rule.sizes, rule.flag: False}))


def counted(counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in counts)


def states_line(name: str, small: tuple[int, ...]) -> str:
    """How far a model was explored, as the page says it."""
    return f"States explored: {counted(small)} in every test run; {counted(LARGE_STATES[name])} in the long form."


def rule_lines(rule: Rule, found: Exploration) -> str:
    """A rule with its shortest trace, as the page says it."""
    assert found.violation is not None
    mark = "" if rule.kept == "yes" else f" *({rule.kept})*"
    says = _wrapped(f"**{rule.number}.** {rule.says}{mark}")
    return f"{says}\n\n{_wrapped(str(found.violation), indent='> ')}\n"


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), 118, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def page() -> str:
    """The whole page."""
    return "\n".join(_parts())


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    for name, module in MODELS.items():
        title, *paragraphs = (inspect.getdoc(module) or "").split("\n\n")
        yield f"## {title.rstrip('.').replace(chr(10), ' ')}\n"
        for paragraph in paragraphs:
            yield _wrapped(paragraph.replace("``", "`")) + "\n"
        small = tuple(explore(model).states for model in module.SMALL)
        yield f"{states_line(name, small)} (`tests/model/{name}.py`)\n"
        for rule in module.RULES:
            yield rule_lines(rule, run_without(module, rule))
