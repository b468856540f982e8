"""Figures of a run, from its JSON alone.

A figure is the median of its rounds, with the lowest and the highest in parentheses. A ratio is formed within each
round, between neighbours in time, before the median is taken: what slows the whole machine down for a while does not
show in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Run = Mapping[str, Any]
Table = tuple[str, list[str], list[list[str]]]
"""Title, head, rows."""

HOSTED, BARE, FLOOR = "tasker-hosted", "tasker-bare", "floor"
OURS = (HOSTED, BARE, FLOOR)
NOTHING = "–"


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread | None:
        """None where there are no figures."""
        known = list(figures)
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def text(self, form: Callable[[float], str]) -> str:
        """Median (low–high); a single figure stands alone."""
        if self.low == self.high:
            return form(self.median)
        return f"{form(self.median)} ({form(self.low)}–{form(self.high)})"


def percentile(figures: Sequence[float], percent: float) -> float:
    """The smallest figure that at least so many percent do not exceed."""
    ordered = sorted(figures)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


# -- figures of a run -------------------------------------------------------------------------------------------


def engines(run: Run) -> list[str]:
    """Those that have samples, in the order of the run."""
    return [name for name in run["engines"] if any(sample["engine"] == name for sample in run["samples"])]


def shapes(run: Run) -> list[str]:
    """Those that have throughputs, in the order of the plan; ``plain`` last."""
    seen = {sample["shape"] for sample in run["samples"] if sample["mode"] == "throughput"}
    return [name for name in (*run["plan"]["shapes"], "plain") if name in seen]


def by_round(run: Run, engine: str, mode: str, figure: Callable[[Any], float], **wanted: Any) -> dict[int, float]:
    """A figure of each round in which the engine has a sample of that kind."""
    return {
        sample["round"]: figure(sample)
        for sample in run["samples"]
        if sample["engine"] == engine
        and sample["mode"] == mode
        and all(sample.get(name) == value for name, value in wanted.items())
    }


def throughput(run: Run, engine: str, shape: str) -> dict[int, float]:
    """Steps per second, by round."""
    return by_round(run, engine, "throughput", lambda sample: sample["steps"] / sample["seconds"], shape=shape)


def latency(run: Run, engine: str, percent: float, what: str = "seconds") -> dict[int, float]:
    """A percentile in milliseconds, by round."""
    return by_round(run, engine, "latency", lambda sample: percentile(sample[what], percent) * 1000)


def ratio(over: Mapping[int, float], under: Mapping[int, float]) -> Spread | None:
    """The ratio of two figures, formed within each round that has both."""
    return Spread.of(over[number] / under[number] for number in sorted(over) if under.get(number))


def per_step(run: Run, engine: str, name: str, shape: str = "linear4") -> Spread | None:
    """What a throughput took by ``name`` of its sample, for each step."""
    found = by_round(
        run, engine, "throughput", lambda sample: sample.get(name, math.nan) / sample["steps"], shape=shape
    )
    return Spread.of(value for value in found.values() if not math.isnan(value))


def cpu(run: Run, engine: str, name: str, shape: str = "linear4") -> Spread | None:
    """CPU seconds for 1,000 steps: of ``workers``, ``client``, a server, or ``servers`` (all); None if not counted."""

    def seconds(sample: Any) -> float:
        spent = sample["cpu"]
        if name == "servers":
            return sum(value for key, value in spent.items() if key not in ("workers", "client"))
        return float(spent.get(name, math.nan))

    found = by_round(run, engine, "throughput", lambda sample: 1000 * seconds(sample) / sample["steps"], shape=shape)
    return Spread.of(value for value in found.values() if not math.isnan(value))


def memory(run: Run, engine: str, *, first: bool = False) -> float | None:
    """Megabytes: the most that all workers, or the first one's tree, held in any round."""
    seen = [
        sample["memory"][0] if first else sum(sample["memory"])
        for sample in run["samples"]
        if sample["engine"] == engine and sample["mode"] == "throughput" and sample["memory"]
    ]
    return max(seen) / 2**20 if seen else None


def figure(run: Run, name: str, least_size: float = 0.0) -> Spread | None:
    """A figure of `benchmarks.figures`; None if it was measured with something smaller than that."""
    found = (run.get("figures") or {}).get(name)
    return Spread.of(found["values"]) if found and found["size"] >= least_size else None


# -- how they are written ----------------------------------------------------------------------------------------


def whole(number: float) -> str:
    """With commas, and no decimals where they say nothing."""
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"


def times(number: float) -> str:
    """A ratio."""
    return f"{number:,.0f}×" if number >= 20 else f"{number:.1f}×" if number >= 2 else f"{number:.2f}×"


def fine(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def single(figure: float | None) -> Spread | None:
    """The spread of a figure that was measured once."""
    return None if figure is None else Spread(figure, figure, figure)


def cell(spread: Spread | None, form: Callable[[float], str]) -> str:
    """The figure as tables show it."""
    return NOTHING if spread is None else spread.text(form)


def markdown(table: Table) -> str:
    """A table as Markdown that reads well as it is; empty when it has no rows."""
    title, head, rows = table
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, *rows)
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return f"### {title}\n\n" + "\n".join(lines) + "\n"
