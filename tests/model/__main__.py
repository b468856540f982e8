"""``python -m tests.model [large] [MODEL …]`` explores models; ``python -m tests.model document`` writes their
page."""

from __future__ import annotations

import sys
import time

from tests.model import document
from tests.model.catalogue import MODELS
from tests.model.explorer import explore


def main(arguments: list[str]) -> None:
    if arguments == ["document"]:
        document.PAGE.write_text(document.page())
        return
    large = "large" in arguments
    names = [name for name in arguments if name != "large"] or list(MODELS)
    for name in names:
        module = MODELS[name]
        for model in (*module.SMALL, *(module.LARGE if large else ())):
            begun = time.perf_counter()
            found = explore(model)
            seconds = time.perf_counter() - begun
            print(
                f"{name}: {found.states:,} states, {found.moves:,} moves, {seconds:.1f} s, {found.violation or 'holds'}"
            )
        for rule in module.RULES:
            found = document.run_without(module, rule)
            print(f"{name} without {rule.flag} ({rule.number}): {found.states:,} states, {found.violation or 'HOLDS'}")


if __name__ == "__main__":
    main(sys.argv[1:])
