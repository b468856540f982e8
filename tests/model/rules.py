"""Rules of the protocol, as models switch them off one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.model.explorer import Inevitable, Promise


@dataclass(frozen=True)
class Rule:
    """One rule of a model.

    Attributes:
        flag: the model's field that is true where the rule is kept.
        number: its number; those up to 22 are known from the first model of the protocol and proven again here.
        says: the rule.
        breaks: part of what is wrong without it.
        sizes: fields of the model under which that shows soonest.
        of: which of the module's small models has the flag.
        kept: by the engine: "yes", "not yet" where it breaks the rule today, "design" where that is not built.
    """

    flag: str
    number: int
    says: str
    breaks: str
    sizes: dict[str, Any] = field(default_factory=dict)
    of: int = 0
    kept: str = "yes"


class Base:
    """What models do that need no more."""

    def promises(self) -> Sequence[Promise | Inevitable]:
        return ()

    def canonical(self, state: Any) -> Any:
        return state


def put(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """``values`` with another value at ``index``."""
    return (*values[:index], value, *values[index + 1 :])
