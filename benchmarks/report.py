"""What a run says, from its JSON alone: tables of figures, of ratios, and of the bars that were set beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from benchmarks.bars import bars
from benchmarks.figures import tables
from benchmarks.reading import (
    BARE,
    FLOOR,
    HOSTED,
    NOTHING,
    Run,
    Spread,
    Table,
    by_round,
    cell,
    cpu,
    engines,
    fine,
    latency,
    markdown,
    memory,
    per_step,
    ratio,
    shapes,
    single,
    throughput,
    times,
    whole,
)


def throughput_table(run: Run) -> Table:
    """Steps per second."""
    rows = [
        [engine, *(cell(Spread.of(throughput(run, engine, shape).values()), whole) for shape in shapes(run))]
        for engine in engines(run)
    ]
    return "Throughput, steps/s", ["engine", *shapes(run)], rows


def ratio_table(run: Run) -> Table:
    """How many times as fast Tasker is."""

    def against(peer: str, shape: str) -> str:
        return cell(ratio(throughput(run, HOSTED, shape), throughput(run, peer, shape)), times)

    peers = [engine for engine in engines(run) if engine not in (HOSTED, FLOOR)] if HOSTED in engines(run) else []
    rows = [[peer, *(against(peer, shape) for shape in shapes(run))] for peer in peers]
    return f"{HOSTED} against each other engine, steps/s", ["engine", *shapes(run)], rows


def floor_table(run: Run) -> Table:
    """How far from the limit."""
    rows = [
        [ours, *(cell(ratio(throughput(run, ours, s), throughput(run, FLOOR, s)), times) for s in shapes(run))]
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
        rows.append([engine, *(cell(spread, fine) for spread in (*of, final))])
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
            rows.append([f"one executor, batches of at most {batch}: {name} for each step", cell(spread, fine)])
    batches = inside.get("batches", {})
    for least, most in itertools.pairwise(batches):
        spread = ratio(*({n: f["microseconds"] for n, f in enumerate(batches[batch])} for batch in (least, most)))
        rows.append([f"the same, batch {most} against batch {least}", cell(spread, times)])
    for name, text in (
        ("cold", "one executor, the first four fan100 of an empty database, steps/s"),
        ("create_many", "create_many, a thousand at a time, tasks/s"),
        ("create", "create, tasks/s"),
    ):
        rows.append([text, cell(Spread.of(inside.get(name, [])), whole)])
    for name, text in (("executor", "an idle executor"), ("worker", "an idle Celery worker with two executors, all")):
        rows.append([f"{text}, statements/s", cell(single(inside.get("idle", {}).get(name)), fine)])
    return "Tasker from within, linear4", ["figure", "measured"], rows if inside else []


def bar_table(run: Run) -> Table:
    """The bars."""
    rows = [[b.figure, b.bar, cell(b.measured, b.form), b.verdict] for b in bars(run)]
    return f"Bars ({HOSTED})", ["figure", "bar", "measured", ""], rows


def failure_table(run: Run) -> Table:
    """What was not measured."""
    rows = [[engine, "", "FAILED: " + text.splitlines()[0]] for engine, text in run["failed"].items()]
    rows += [[f"figures: {name}", "", f"FAILED: {text}"] for name, text in run.get("figures_failed", {}).items()]
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
    *tables.TABLES,
    bar_table,
    failure_table,
)


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
