"""Storms: real workers do real work while things die, freeze, repeat themselves, jump and fill up; nothing is violated.

The short form of each kind; ``make chaos`` is the long one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.storm.kinds import KINDS
from tests.chaos.storm.server import StormServer, storm_server
from tests.chaos.storm.storm import storm

TASKS = 300
SECONDS = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[StormServer]:
    with storm_server() as made:
        yield made


@pytest.fixture(scope="module")
def seed() -> str:
    return os.environ.get("TASKER_TEST_SEED") or str(random.SystemRandom().randint(0, 2**32))


# The others take their turn in the long form; all of them have a part in this one.
ALWAYS = {"everything"}


@pytest.mark.timeout(420)  # above what the storm itself waits for, of which it says what is missing
@pytest.mark.parametrize(
    "kind", [kind if kind in ALWAYS else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]
)
def test_every_task_ends_and_every_effect_is_explained_whatever_happens(
    kind: str, server: StormServer, seed: str, tmp_path: Path
) -> None:
    print(f"TASKER_TEST_SEED={seed}")
    outcome = storm(server, tmp_path, kind, tasks=TASKS, seconds=SECONDS, seed=seed)
    print(outcome)
    assert outcome.violations == {}, outcome.examples
    assert outcome.tasks == TASKS
    assert outcome.harm, "nothing happened"
