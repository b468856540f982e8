"""A deploy under load: workers are replaced one after the other, and nobody loses anything by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures.rolling_restart import roll
from tests.sql_kit import assert_legal


@pytest.mark.parametrize(
    ("pool", "restarts"),
    [
        ("prefork", 2),
        *(pytest.param(pool, 8, marks=pytest.mark.long) for pool in ("prefork", "threads", "solo")),
    ],
)
def test_workers_replaced_one_after_the_other_under_a_steady_load_lose_no_step_and_no_attempt(
    tasker_database_url: str, tmp_path: Path, pool: str, restarts: int
) -> None:
    # It raises if anything is lost.
    rolled = roll(tasker_database_url, tmp_path, pool=pool, restarts=restarts, steady_seconds=1)
    assert len(rolled.replacements) == restarts
    for each, share in zip(rolled.replacements, rolled.dips(), strict=True):
        ended, serving = each.ended_at - each.told_at, each.serving_at - each.told_at
        print(
            f"{pool}: ended after {ended:.1f} s, successor at work after {serving:.1f} s, {share:.0%} of the work done"
        )
    print(f"{pool}: {len(rolled.released)} of {len(rolled.completed)} steps were given back")  # pytest -s shows it
    assert_legal(tasker_database_url)
