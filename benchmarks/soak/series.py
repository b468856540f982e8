"""The figures of a soak over time, and whether they rise: a straight line through the second half."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.soak.looks import Look

MEGABYTE = 2**20


@dataclass(frozen=True)
class Series:
    """One figure over time.

    Attributes:
        name: with its unit.
        points: seconds since the soak began, and the figure then.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Trend:
    """A figure in the second half of a soak.

    Attributes:
        name: with its unit.
        mean: of all looks.
        per_hour: how fast the line through them rises, in its unit.
        share_per_hour: the same, as a share of the mean; ``None`` where that is 0.
    """

    name: str
    mean: float
    per_hour: float
    share_per_hour: float | None


def series_of(looks: Sequence[Look]) -> list[Series]:
    """All figures that should stay as they are once the first tasks are old enough to be pruned."""
    if not looks:
        return []
    found = [
        *(
            Series(f"memory of {role}, MB", _over(looks, lambda look, role=role: _memory(look, role)))
            for role in looks[0].memory
        ),
        *(
            Series(f"latency of a chain, p{percent}, ms", _latency(looks, "chain", place))
            for place, percent in enumerate((50, 95, 99))
        ),
        Series("CPU of a task, ms", _cpu(looks)),
        Series("tables, MB", _over(looks, lambda look: look.state_bytes / MEGABYTE)),
        Series("queues, MB", _over(looks, lambda look: look.queue_bytes / MEGABYTE)),
        Series("dead rows", _over(looks, lambda look: look.dead_rows)),
        *(
            Series(title, _over(looks, lambda look, name=name: look.counts[name]))
            for name, title in (
                ("tasks", "tasks there"),
                ("open_tasks", "tasks not final"),
                ("dead_letters", "dead letters"),
                ("connections", "connections"),
            )
        ),
        Series("executors", _over(looks, lambda look: sum(look.executors.values()))),
        Series("history, MB", _over(looks, lambda look: look.history_bytes / MEGABYTE)),
    ]
    return [each for each in found if each.points]


def trend(series: Series, begin: float, end: float) -> Trend | None:
    """The trend between two moments; ``None`` where fewer than three looks are."""
    points = [(at, figure) for at, figure in series.points if begin <= at <= end]
    if len(points) < 3:
        return None
    times, figures = zip(*points, strict=True)
    mean = statistics.fmean(figures)
    per_hour = statistics.linear_regression(times, figures).slope * 3600
    return Trend(series.name, round(mean, 2), round(per_hour, 3), round(per_hour / mean, 4) if mean else None)


def _over(looks: Sequence[Look], figure: Callable[[Look], float]) -> list[tuple[float, float]]:
    return [(look.at, float(figure(look))) for look in looks]


def _memory(look: Look, role: str) -> float:
    # Whatever of its shared buffers a session has touched counts as resident; only what is private can leak.
    used = look.private[role] if role == "PostgreSQL" else sum(look.memory[role].values())
    return used / MEGABYTE


def _latency(looks: Sequence[Look], workflow: str, place: int) -> list[tuple[float, float]]:
    return [(look.at, look.latency[workflow][place]) for look in looks if workflow in look.latency]


def _cpu(looks: Sequence[Look]) -> list[tuple[float, float]]:
    """Of workers and server, for each task that finished."""
    found: list[tuple[float, float]] = []
    for before, look in itertools.pairwise(looks):
        spent = sum(seconds - before.cpu[role] for role, seconds in look.cpu.items())
        if look.finished:
            found.append((look.at, spent * 1000 / look.finished))
    return found
