"""What the modules of this folder share: a test is one kind, and its cases are all places of all shapes.

``-s`` prints how many there were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasker.config.sections import DatabaseSettings
from tasker.config.settings import Settings
from tasker.core import OrchestrationCore
from tasker.database.scratch import ScratchDatabases
from tests.integration.executors.engine import Engine
from tests.integration.executors.failures.kinds import Kind
from tests.integration.executors.matrix import SHAPES, Bench

KINDS_PER_DATABASE = 8


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "misbehaviour" in metafunc.fixturenames:
        kinds = list(metafunc.module.kind)
        metafunc.parametrize("misbehaviour", kinds, ids=[each.name.replace(" ", "_") for each in kinds])


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Counter[tuple[str, str]]]:
    """How many cases passed, by kind and shape; printed at the end."""
    counted: Counter[tuple[str, str]] = Counter()
    yield counted
    kinds = list(request.module.kind)
    width = max(len(each.name) for each in kinds)
    print(f"\n\n{'':{width}}  " + " ".join(f"{shape:>8}" for shape in SHAPES) + "    total")
    for each in kinds:
        row = [counted[each.name, shape] for shape in SHAPES]
        print(f"{each.name:{width}}  " + " ".join(f"{number:8}" for number in [*row, sum(row)]))
    print(f"{len(kinds)} kinds, {counted.total()} cases")


class Databases:
    """Databases for several kinds each: making one takes as long as running a kind. After a failure comes a new one."""

    def __init__(self, server: ScratchDatabases) -> None:
        self._server = server
        self._url: str | None = None
        self._used = 0

    def take(self) -> str:
        if self._url is None:
            self._url, self._used = self._server.create(), 0
        self._used += 1
        return self._url

    def give_back(self, *, good: bool) -> None:
        if self._url is not None and not (good and self._used < KINDS_PER_DATABASE):
            self._server.drop(self._url)
            self._url = None


@pytest.fixture(scope="module")
def databases(tasker_server: ScratchDatabases) -> Iterator[Databases]:
    made = Databases(tasker_server)
    yield made
    made.give_back(good=False)


@pytest.fixture
def ended_well() -> list[bool]:
    """Not empty once a test has come to its end."""
    return []


@pytest.fixture
def tasker_database_url(databases: Databases, ended_well: list[bool]) -> Iterator[str]:
    yield databases.take()
    databases.give_back(good=bool(ended_well))


@pytest.fixture
def revoked() -> list[str]:
    return []


@pytest.fixture
def core(engine: Engine, revoked: list[str]) -> Iterator[OrchestrationCore]:
    settings = Settings(database=DatabaseSettings(url=engine.database.url))
    with OrchestrationCore.from_settings(settings, revoke=revoked.extend) as core:
        yield core


@pytest.fixture
def tell(
    engine: Engine,
    core: OrchestrationCore,
    tasker_clock: Any,
    revoked: list[str],
    table: Counter[tuple[str, str]],
    ended_well: list[bool],
) -> Callable[[Kind], None]:
    """Tells the story of a kind at every place of every shape."""

    def play(kind: Kind) -> None:
        bench = Bench(engine, core, tasker_clock, acts=kind.acts, step=kind.step, revoked=revoked)
        kind.play(bench)
        table.update((kind.name, case.shape) for case in bench.cases)
        ended_well.append(True)

    return play
