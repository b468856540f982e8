"""The engines by name: which program speaks for each, in which environment, and which servers it needs.

An engine is started as ``python -m <module> <place.json> <arguments…>`` (`command`) with the interpreter that
`benchmarks.engines.environments.python_for` gives, from the top of the checkout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One engine."""

    module: str
    """The program, of `benchmarks.engines.base.serve`."""
    arguments: Sequence[str] = ()
    """What follows the place on its command line."""
    group: str | None = None
    """The dependency group of pyproject.toml that its environment is made from; None is Tasker's own environment."""
    postgresql: bool = False
    redis: bool = False
    rabbitmq: bool = False
    graphs: bool = True
    """It runs graphs; otherwise plain jobs only."""
    small: bool = False
    """So slow that only small sizes are bearable."""

    def command(self, python: Path, place: Path) -> list[str]:
        """The command line that starts it."""
        return [str(python), "-m", self.module, str(place), *self.arguments]


ENGINES: dict[str, Entry] = {
    "tasker-hosted": Entry("benchmarks.engines.tasker", ["hosted"], postgresql=True),
    "tasker-bare": Entry("benchmarks.engines.tasker", ["bare"], postgresql=True),
    "floor": Entry("benchmarks.engines.floor", postgresql=True),
    "celery-redis": Entry("benchmarks.engines.celery_canvas", ["redis"], "bench-celery", redis=True),
    "celery-rabbitmq": Entry(
        "benchmarks.engines.celery_canvas", ["rabbitmq"], "bench-celery", redis=True, rabbitmq=True
    ),
    "dbos": Entry("benchmarks.engines.dbos", [], "bench-dbos", postgresql=True),
    "absurd": Entry("benchmarks.engines.absurd", [], "bench-absurd", postgresql=True),
    **{
        f"{name}{suffix}": Entry(f"benchmarks.engines.{name}", [how], f"bench-{name}", postgresql=True, graphs=False)
        for name in ("procrastinate", "pgqueuer")
        for suffix, how in (("", "bulk"), ("-single", "single"))
    },
    "prefect": Entry("benchmarks.engines.prefect", [], "bench-prefect", small=True),
}
