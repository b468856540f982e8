"""A soak as a picture: what should be flat, and what goes on meanwhile."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import PEER, TASKER, plt
from benchmarks.soak.looks import Look
from benchmarks.soak.series import series_of

MOST_POINTS = 60
COLORS = (TASKER, PEER, "#4c956c", "#9b5094", "#9aa5b1")


def draw(looks: Sequence[Look], path: Path) -> None:
    """Six small pictures over the same minutes: rate, latency, memory, rows, sizes, tasks so far."""
    found = {series.name: series.points for series in series_of(looks)}
    figure, axes = plt.subplots(3, 2, figsize=(10, 8), sharex=True, layout="constrained")
    _lines(
        axes[0][0],
        "tasks/s",
        {
            "created": [
                (look.at, (look.created - before.created) / look.seconds) for before, look in itertools.pairwise(looks)
            ],
            "finished": [(look.at, look.finished / look.seconds) for look in looks[1:]],
        },
    )
    _lines(
        axes[0][1],
        "latency of a chain, ms",
        {f"p{percent}": found.get(f"latency of a chain, p{percent}, ms", []) for percent in (50, 95)},
    )
    memory = {name.removeprefix("memory of ").removesuffix(", MB"): name for name in found if name.startswith("memory")}
    _lines(axes[1][0], "memory, MB", {role: found[name] for role, name in memory.items()})
    _lines(axes[1][1], "rows", {name: found[name] for name in ("tasks there", "dead rows")})
    _lines(
        axes[2][0],
        "on disk, MB",
        {name: found[f"{name}, MB"] for name in ("tables", "queues", "history") if f"{name}, MB" in found},
    )
    _lines(
        axes[2][1],
        "tasks so far",
        {
            "created": [(look.at, look.created) for look in looks],
            "pruned": [(look.at, max(0, look.created - look.counts["tasks"])) for look in looks],
        },
    )
    for axis in axes[2]:
        axis.set_xlabel("minutes")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _lines(axis: Any, title: str, lines: dict[str, Sequence[tuple[float, float]]]) -> None:
    for (name, points), color in zip(lines.items(), COLORS, strict=False):
        times, figures = zip(*_thinned(points), strict=True) if points else ((), ())
        axis.plot([at / 60 for at in times], figures, label=name, color=color, linewidth=1.2)
    axis.set_title(title, fontsize=10)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="best")


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points, each the median of its neighbours: a small file that shows the same."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        (statistics.fmean(at for at, _ in group), statistics.median(figure for _, figure in group)) for group in groups
    ]
