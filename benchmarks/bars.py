"""The bars: figures that were to be reached, set before the engine was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.reading import (
    BARE,
    FLOOR,
    HOSTED,
    NOTHING,
    OURS,
    Run,
    Spread,
    by_round,
    engines,
    figure,
    fine,
    latency,
    memory,
    ratio,
    single,
    throughput,
    times,
    whole,
)

GROWTH = (
    ("finished", "finished tasks", 1_000_000),
    ("waiting", "tasks scheduled for later", 100_000),
    ("unserved", "tasks in a queue that nobody serves", 100_000),
    ("templates", "templates", 10_000),
)
"""What may grow without harm, and how large it has to be for its bars."""


@dataclass(frozen=True)
class Bar:
    """A figure and what it was to reach."""

    figure: str
    bar: str
    measured: Spread | None
    form: Callable[[float], str]
    met: Callable[[float], bool]

    @property
    def verdict(self) -> str:
        """By the median."""
        return "not measured" if self.measured is None else "met" if self.met(self.measured.median) else "NOT met"


def _at_least(figure: str, least: float, measured: Spread | None, form: Callable[[float], str]) -> Bar:
    return Bar(figure, f"≥ {least:,g}{_unit(form)}", measured, form, lambda value: value >= least)


def _at_most(figure: str, most: float, measured: Spread | None, form: Callable[[float], str]) -> Bar:
    return Bar(figure, f"≤ {most:,g}{_unit(form)}", measured, form, lambda value: value <= most)


def _unit(form: Callable[[float], str]) -> str:
    return "×" if form is times else ""


def bars(run: Run) -> list[Bar]:
    """Each bar with the figure of this run."""
    inside = run.get("inside") or {}

    def against(shape: str, peer: str) -> Spread | None:
        return ratio(throughput(run, HOSTED, shape), throughput(run, peer, shape))

    found = []
    for shape, least in (
        ("linear4", {"celery-redis": 40, "absurd": 20, "dbos": 60}),
        ("fan100", {"celery-redis": 40, "absurd": 10, "dbos": 60}),
    ):
        found += [_at_least(f"{shape}, against {peer}", n, against(shape, peer), times) for peer, n in least.items()]
    for shape in ("linear4", "fan100"):
        found.append(_at_least(f"{shape}, against the floor", 0.5, against(shape, FLOOR), times))
    for shape in ("fan100", "wide2000"):
        spread = ratio(throughput(run, HOSTED, shape), throughput(run, HOSTED, "linear4"))
        found.append(_at_least(f"{shape} against linear4, steps/s", 0.5, spread, times))
    found.append(_at_least("linear4, hosted by Celery against bare", 0.9, against("linear4", BARE), times))
    found.append(_at_most("latency p50, ms", 6, Spread.of(latency(run, HOSTED, 50).values()), fine))
    found.append(_at_most("latency p99, ms", 20, Spread.of(latency(run, HOSTED, 99).values()), fine))
    others = {name: Spread.of(latency(run, name, 50).values()) for name in engines(run) if name not in OURS}
    fastest = min((spread.median for spread in others.values() if spread), default=None)
    ours = Spread.of(latency(run, HOSTED, 50).values())
    lowest = None if fastest is None or ours is None else Spread(ours.median, ours.low, ours.high)
    found.append(
        Bar(
            "latency p50, ms, the lowest of all",
            NOTHING if fastest is None else f"< {fine(fastest)}",
            lowest,
            fine,
            lambda value: fastest is not None and value < fastest,
        )
    )
    found.append(_at_most("handoff p50, same executor, ms", 1, figure(run, "handoff_same_ms"), fine))
    found.append(_at_most("handoff p50, another process, ms", 4, figure(run, "handoff_other_ms"), fine))
    found.append(
        _at_least(
            "dependencies by counters, 10 steps, 50 completions at once", 10, figure(run, "dependencies_ratio"), times
        )
    )
    found.append(_at_least("create_many, tasks/s", 5000, Spread.of(inside.get("create_many", [])), whole))
    found.append(_at_least("create, tasks/s", 500, Spread.of(inside.get("create", [])), whole))
    found.append(_at_least("results of other languages/s", 10_000, figure(run, "other_languages_per_second"), whole))
    for name, what, size in GROWTH:
        rate, p50 = (figure(run, f"growth_{name}{part}", size) for part in ("", "_p50"))
        found.append(_at_least(f"{size:,} {what}: throughput, against none", 0.9, rate, times))
        found.append(_at_most(f"{size:,} {what}: latency p50, against none", 1.1, p50, times))
    idle = single(inside.get("idle", {}).get("executor"))
    found.append(_at_most("idle executor, statements/s", 1, idle, fine))
    found.append(_at_most("CPU s for 1,000 steps, servers and workers", 0.15, _servers_and_workers(run), fine))
    held = single(memory(run, HOSTED, first=True))
    found.append(_at_most("Celery worker of two executors, MB", 250, held, whole))
    found.append(
        _at_most("memory after 1,000,000 steps, against 10,000", 1.1, figure(run, "memory_growth", 1_000_000), times)
    )
    return found


def _servers_and_workers(run: Run) -> Spread | None:
    return Spread.of(
        by_round(
            run,
            HOSTED,
            "throughput",
            lambda s: 1000 * sum(value for name, value in s["cpu"].items() if name != "client") / s["steps"],
            shape="linear4",
        ).values()
    )
