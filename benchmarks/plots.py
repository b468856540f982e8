"""Pictures of a run: throughput and latency of all engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "tasker"  # the same picture is the same file
mpl.rcParams["svg.fonttype"] = "none"  # letters, not their outlines: half the size, and readers can search it
mpl.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana", "sans-serif"]  # as wide as each other, where there is one
from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

from benchmarks.reading import FLOOR, HOSTED, OURS, Run, Spread, engines, latency, throughput, whole  # noqa: E402

TASKER, LIMIT, PEER = "#2f6fb0", "#9aa5b1", "#d98032"
SHAPES = ("linear4", "fan100")


def draw(run: Run, folder: Path, name: str = "performance", forms: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw the picture in each form; returns the files."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 0.9 + 0.42 * len(engines(run))), layout="constrained")
    for axis, shape in zip(axes, SHAPES, strict=False):
        _bars(axis, run, f"{shape}, steps/s (log)", {e: Spread.of(_steps(run, e, shape)) for e in engines(run)})
    medians = {engine: Spread.of(latency(run, engine, 50).values()) for engine in engines(run) if engine != FLOOR}
    _bars(axes[2], run, "latency of linear4, p50, ms (log)", medians)
    about = run["about"]
    figure.suptitle(
        f"Medians of {run.get('rounds', run['plan']['rounds'])} rounds, with lowest and highest; "
        f"{about['machine']['cores']} cores, {about['date'][:10]}",
        fontsize=9,
        color="#555555",
    )
    files = []
    for form in forms:
        path = folder / f"{name}.{form}"
        figure.savefig(path, dpi=150, metadata={"Date": None} if form == "svg" else None)
        files.append(path)
    plt.close(figure)
    return files


def _steps(run: Run, engine: str, shape: str) -> list[float]:
    found = throughput(run, engine, shape) or (throughput(run, engine, "plain") if shape == "linear4" else {})
    return list(found.values())


def _bars(axis: Any, run: Run, title: str, spreads: dict[str, Spread | None]) -> None:
    shown = [(engine, spread) for engine, spread in spreads.items() if spread is not None]
    shown.sort(key=lambda entry: entry[1].median, reverse="ms" in title)
    names = [f"{engine} (plain jobs)" if _is_plain(run, engine) else engine for engine, _ in shown]
    medians = [spread.median for _, spread in shown]
    errors = [[s.median - s.low for _, s in shown], [s.high - s.median for _, s in shown]]
    colors = [LIMIT if engine == FLOOR else TASKER if engine in OURS else PEER for engine, _ in shown]
    axis.barh(names, medians, color=colors, xerr=errors, error_kw={"elinewidth": 1, "ecolor": "#333333"})
    for place, (engine, spread) in enumerate(shown):
        weight = "bold" if engine == HOSTED else "normal"
        axis.annotate(
            whole(spread.median),
            (spread.high, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight=weight,
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.6g}")  # a power would be set in one font only
    axis.xaxis.set_minor_formatter("")
    if medians:
        low, high = min(medians) / 3, max(spread.high for _, spread in shown) * 5
        axis.set_xlim(low, max(high, 100 * low))
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _is_plain(run: Run, engine: str) -> bool:
    return not throughput(run, engine, "linear4") and bool(throughput(run, engine, "plain"))
