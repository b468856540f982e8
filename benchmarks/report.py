"""What a run says, from its JSON alone: tables of figures, of ratios, and of the bars that were set beforehand.

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


# -- tables -----------------------------------------------------------------------------------------------------


def whole(number: float) -> str:
    """With commas, and no decimals where they say nothing."""
    return f"{number:,.0f}" if number >= 100 else f"{number:,.1f}"


def times(number: float) -> str:
    """A ratio."""
    return f"{number:,.0f}×" if number >= 20 else f"{number:.1f}×" if number >= 2 else f"{number:.2f}×"


def fine(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _single(figure: float | None) -> Spread | None:
    return None if figure is None else Spread(figure, figure, figure)


def _cell(spread: Spread | None, form: Callable[[float], str]) -> str:
    return NOTHING if spread is None else spread.text(form)


def throughput_table(run: Run) -> Table:
    """Steps per second."""
    rows = [
        [engine, *(_cell(Spread.of(throughput(run, engine, shape).values()), whole) for shape in shapes(run))]
        for engine in engines(run)
    ]
    return "Throughput, steps/s", ["engine", *shapes(run)], rows


def ratio_table(run: Run) -> Table:
    """How many times as fast Tasker is."""

    def against(peer: str, shape: str) -> str:
        return _cell(ratio(throughput(run, HOSTED, shape), throughput(run, peer, shape)), times)

    peers = [engine for engine in engines(run) if engine not in (HOSTED, FLOOR)] if HOSTED in engines(run) else []
    rows = [[peer, *(against(peer, shape) for shape in shapes(run))] for peer in peers]
    return f"{HOSTED} against each other engine, steps/s", ["engine", *shapes(run)], rows


def floor_table(run: Run) -> Table:
    """How far from the limit."""
    rows = [
        [ours, *(_cell(ratio(throughput(run, ours, s), throughput(run, FLOOR, s)), times) for s in shapes(run))]
        for ours in (HOSTED, BARE)
        if ours in engines(run) and FLOOR in engines(run)
    ]
    return "Against the floor, steps/s", ["engine", *shapes(run)], rows


def latency_table(run: Run) -> Table:
    """Milliseconds of a chain of four."""
    rows = []
    for engine in engines(run):
        if not latency(run, engine, 50):
            continue
        of = [Spread.of(latency(run, engine, percent).values()) for percent in (50, 95, 99)]
        final = Spread.of(latency(run, engine, 50, "final").values())
        rows.append([engine, *(_cell(spread, fine) for spread in (*of, final))])
    head = ["engine", "p50", "p95", "p99", "p50 until known to be final"]
    return "Latency of linear4, idle, one at a time, until the client has the value, ms", head, rows


def cost_table(run: Run) -> Table:
    """What a chain of four costs."""
    servers = [
        name
        for name in ("PostgreSQL", "Redis", "RabbitMQ")
        if any(name in sample.get("cpu", {}) for sample in run["samples"])
    ]
    rows = []
    for engine in engines(run):
        shape = "linear4" if throughput(run, engine, "linear4") else "plain"
        statements = Spread.of(by_round(run, engine, "statements", lambda s: s["statements"] / s["steps"]).values())
        written = Spread.of(by_round(run, engine, "rows", lambda s: s["rows"] / s["steps"]).values())
        held = memory(run, engine)
        rows.append(
            [
                engine,
                *(_short(cpu(run, engine, name, shape)) for name in ("workers", *servers, "client")),
                NOTHING if held is None else f"{held:.0f}",
                _short(statements),
                _short(per_step(run, engine, "commits", shape)),
                _short(written),
                _short(per_step(run, engine, "wal_bytes", shape)),
            ]
        )
    head = ["engine", "workers", *servers, "client", "MB of workers", "statements", "commits", "rows", "WAL bytes"]
    title = (
        "Cost of linear4: CPU s for 1,000 steps; peak memory; statements, commits that wrote, rows, WAL for each step"
    )
    return title, head, rows


def _short(spread: Spread | None) -> str:
    return NOTHING if spread is None else fine(spread.median)


def inside_table(run: Run) -> Table:
    """Tasker by itself."""
    inside = run.get("inside") or {}
    rows = []
    for batch, figures in inside.get("batches", {}).items():
        for name in ("microseconds", "commits", "statements"):
            spread = Spread.of(figure[name] for figure in figures if name in figure)
            rows.append([f"one executor, batches of at most {batch}: {name} for each step", _cell(spread, fine)])
    batches = inside.get("batches", {})
    if {"1", "50"} <= set(batches):
        spread = ratio(*({n: f["microseconds"] for n, f in enumerate(batches[batch])} for batch in ("1", "50")))
        rows.append(["the same, batch 50 against batch 1", _cell(spread, times)])
    for name, text in (
        ("cold", "one executor, the first four fan100 of an empty database, steps/s"),
        ("create_many", "create_many, a thousand at a time, tasks/s"),
        ("create", "create, tasks/s"),
    ):
        rows.append([text, _cell(Spread.of(inside.get(name, [])), whole)])
    for name, text in (("executor", "an idle executor"), ("worker", "an idle Celery worker with two executors, all")):
        rows.append([f"{text}, statements/s", _cell(_single(inside.get("idle", {}).get(name)), fine)])
    return "Tasker from within, linear4", ["figure", "measured"], rows if inside else []


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
    """Each bar with the figure of this run. ``figures`` of a run are those of programs beside the engines' rounds."""
    figures: Mapping[str, float] = run.get("figures") or {}
    inside = run.get("inside") or {}

    def against(shape: str, peer: str) -> Spread | None:
        return ratio(throughput(run, HOSTED, shape), throughput(run, peer, shape))

    def known(name: str) -> Spread | None:
        return _single(figures.get(name))

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
    found.append(_at_most("handoff p50, same executor, ms", 1, known("handoff_same_ms"), fine))
    found.append(_at_most("handoff p50, another process, ms", 4, known("handoff_other_ms"), fine))
    found.append(_at_least("dependencies by counters, 10 steps", 10, known("dependencies_ratio"), times))
    found.append(_at_least("create_many, tasks/s", 5000, Spread.of(inside.get("create_many", [])), whole))
    found.append(_at_least("create, tasks/s", 500, Spread.of(inside.get("create", [])), whole))
    found.append(_at_least("results of other languages/s", 10_000, known("other_languages_per_second"), whole))
    found.append(_at_least("1,000,000 finished tasks, against none", 0.9, known("growth_finished"), times))
    found.append(_at_least("100,000 waiting tasks, against none", 0.9, known("growth_waiting"), times))
    found.append(_at_least("10,000 templates, against one", 0.9, known("growth_templates"), times))
    idle = _single(inside.get("idle", {}).get("executor"))
    found.append(_at_most("idle executor, statements/s", 1, idle, fine))
    found.append(_at_most("CPU s for 1,000 steps, servers and workers", 0.15, _servers_and_workers(run), fine))
    held = _single(memory(run, HOSTED, first=True))
    found.append(_at_most("Celery worker of two executors, MB", 250, held, whole))
    found.append(_at_most("memory after 1,000,000 steps, against 10,000", 1.1, known("memory_growth"), times))
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


def bar_table(run: Run) -> Table:
    """The bars."""
    rows = [[b.figure, b.bar, _cell(b.measured, b.form), b.verdict] for b in bars(run)]
    return f"Bars ({HOSTED})", ["figure", "bar", "measured", ""], rows


def failure_table(run: Run) -> Table:
    """What was not measured."""
    rows = [[engine, "", "FAILED: " + text.splitlines()[0]] for engine, text in run["failed"].items()]
    rows += [[engine, shape, reason] for engine, found in run["left_out"].items() for shape, reason in found.items()]
    rows += [[name, "", reason] for name, reason in run["about"]["missing"].items()]
    done, wanted = run.get("rounds", run["plan"]["rounds"]), run["plan"]["rounds"]
    if done < wanted:
        rows.append(["all", "", f"{done} of {wanted} rounds: the time was up"])
    return "Not measured", ["engine", "shape", "why"], rows


TABLES: Sequence[Callable[[Run], Table]] = (
    throughput_table,
    ratio_table,
    floor_table,
    latency_table,
    cost_table,
    inside_table,
    bar_table,
    failure_table,
)


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


def origin(run: Run) -> str:
    """Where the figures are from, in a few lines."""
    about, plan = run["about"], run["plan"]
    machine = about["machine"]
    versions = "; ".join(
        f"{name}: {', '.join(f'{package} {version}' for package, version in found.items())}"
        for name, found in about["versions"].items()
    )
    server = about["servers"].get("PostgreSQL", {})
    rounds = run.get("rounds", plan["rounds"])
    return (
        f"{about['date'][:10]}, revision {about['revision']}{' with changes' if about['changed'] else ''}. "
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB, {machine['system']}; "
        f"8 kB are on disk after {machine['fsync_ms']} ms; load before the run {machine['load_before'][0]}. "
        f"PostgreSQL {server.get('server_version')}, fsync {server.get('fsync')}, "
        f"synchronous_commit {server.get('synchronous_commit')}; Python {about['python']}. "
        f"{run['workers']} worker processes each, {rounds} rounds, about {plan['seconds']} s a throughput, "
        f"{plan['latencies']} tasks a latency. {versions}."
    )


def text(run: Run) -> str:
    """The whole report."""
    return "\n".join(part for part in (origin(run) + "\n", *(markdown(table(run)) for table in TABLES)) if part)
