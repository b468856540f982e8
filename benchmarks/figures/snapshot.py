"""A snapshot held open for minutes, as by a backup or a forgotten session: nothing that is deleted goes away meanwhile.

Two databases take the same work in turn; in one of them a transaction of another session holds its snapshot all the
time. Its tables keep every version of every row; the question is what that costs the engine, the longer it lasts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.figures.found import Found
from benchmarks.figures.growth import dearer
from benchmarks.figures.pairs import LARGE, SMALL, Pair, Turns, measure_pair
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.watching import HOLDER
from benchmarks.servers import Servers


@contextlib.contextmanager
def held(url: str) -> Iterator[None]:
    """Hold a snapshot."""
    with psycopg.connect(url, application_name=HOLDER) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM tasker.tasks").fetchone()
        yield
        connection.rollback()


def measure(found: Servers, sizes: Sizes) -> Found:
    """Ratios over all rounds, and those of the last ones alone; dead rows at the end."""
    pair = measure_pair(
        found,
        held,
        rounds=sizes.rounds,
        seconds=sizes.seconds / 2,
        latencies=max(1, sizes.latencies // 2),
        until_seconds=sizes.snapshot_seconds,
    )
    rate = Turns.of(pair.samples, lambda sample: sample["steps"] / sample["seconds"])
    p50 = Turns.of(pair.samples, lambda sample: sample["p50"] * 1000)
    cpu = Turns.of(pair.samples, lambda sample: sum(sample["cpu"].values()) / sample["steps"])
    late = max(1, len(rate.ratios) // 4)
    figures = {
        "snapshot_rate": rate.ratios,
        "snapshot_p50": p50.ratios,
        "snapshot_cpu": cpu.ratios,
        "snapshot_rate_late": rate.ratios[-late:],
        "snapshot_p50_late": p50.ratios[-late:],
        "snapshot_cpu_late": cpu.ratios[-late:],
    }
    return Found(figures, size=pair.samples[-1]["at"], details={"over_time": _over_time(pair), **dearer(pair)})


def _over_time(pair: Pair) -> list[dict[str, Any]]:
    """By round: when, steps done there so far, the ratios, and the tables of the one that is held and of the other."""
    rate = Turns.of(pair.samples, lambda sample: sample["steps"] / sample["seconds"]).ratios
    p50 = Turns.of(pair.samples, lambda sample: sample["p50"]).ratios
    found = []
    for number, (one, other) in enumerate(zip(rate, p50, strict=True)):
        sides = {sample["side"]: sample for sample in pair.samples if sample["round"] == number}
        tables = {"tables": sides[LARGE]["tables"], "tables_without": sides[SMALL]["tables"]}
        found.append({"seconds": sides[LARGE]["at"], "rate": one, "p50": other, **tables})
    return found
