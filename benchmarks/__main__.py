"""Tasker beside its peers, on this machine, in one run: ``python -m benchmarks``.

Prints tables, and writes the run as JSON with its pictures to ``benchmarks/results``. Ends with 1 if an engine failed
or ended a task with a wrong result, if one that was named cannot run here, or if a figure failed; with 2 if the request
is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import inside, report
from benchmarks.engines.registry import ENGINES
from benchmarks.figures.programs import PROGRAMS, measure_into
from benchmarks.figures.sizes import FULL as FULL_SIZES
from benchmarks.measuring import measure, say
from benchmarks.names import names_of
from benchmarks.plan import FULL, SHORT, Plan
from benchmarks.record import about
from benchmarks.servers import Servers, end_in_order, servers
from benchmarks.shapes import SHAPES

RESULTS = Path(__file__).parent / "results"
INSIDE_STEPS = 40_000


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all shapes, more and longer rounds; else the short form")
    parser.add_argument("--engines", type=names_of(list(ENGINES), "engine"), metavar="A,B", help="all, otherwise")
    parser.add_argument("--shapes", type=names_of(list(SHAPES), "shape"), metavar="A,B")
    parser.add_argument("--rounds", type=int, help="how often each engine is measured; at least 3 tell anything")
    parser.add_argument("--seconds", type=float, help="how long each throughput takes, roughly")
    parser.add_argument("--longest", type=float, help="no throughput shall take longer (seconds)")
    parser.add_argument("--latencies", type=int, help="tasks of a latency")
    parser.add_argument("--budget", type=float, help="begin no round that would likely end later (seconds)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each engine")
    parser.add_argument("--no-inside", action="store_true", help="leave out Tasker's own figures")
    parser.add_argument("--no-figures", action="store_true", help="leave out what `python -m benchmarks.figures` adds")
    parser.add_argument("--database-url", help="a PostgreSQL to use; else an embedded one is started for the run")
    parser.add_argument("--redis-url", default=os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0"))
    parser.add_argument("--amqp-url", default=os.environ.get("BENCH_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for what the run found")
    return parser.parse_args()


def plan_of(given: argparse.Namespace) -> Plan:
    """The form, and what the command line changes of it."""
    plan = FULL if given.full else SHORT
    names = ("shapes", "rounds", "seconds", "longest", "latencies", "budget")
    changed = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return dataclasses.replace(plan, inside=not given.no_inside, **changed)


def _lacks(engine: str, found: Servers) -> str:
    """Why this engine cannot run here; empty if it can."""
    entry = ENGINES[engine]
    for server, needs in (("Redis", entry.redis), ("RabbitMQ", entry.rabbitmq)):
        if needs and server in found.missing:
            return f"{server} is missing: {found.missing[server]}"
    return ""


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure; the run as it is kept."""
    plan, engines = plan_of(given), given.engines or list(ENGINES)
    needed = [ENGINES[name] for name in engines]
    with servers(
        database_url=given.database_url,
        redis_url=given.redis_url,
        amqp_url=given.amqp_url,
        redis=any(entry.redis for entry in needed),
        rabbitmq=any(entry.rabbitmq for entry in needed),
    ) as found:
        for name, why in found.missing.items():
            say(f"{name} is missing: {why}")
        lacking = {engine: reason for engine in engines if (reason := _lacks(engine, found))}
        for engine, reason in lacking.items():
            say(f"{engine} is left out: {reason}")
        able = [engine for engine in engines if engine not in lacking]
        origin = about(found, able)
        measured = measure(able, plan, found, given.workers)
        within = None
        if plan.inside and {"tasker-hosted", "tasker-bare"} & set(engines):
            say("Tasker from within")
            within = inside.look(
                found.postgresql,
                rounds=plan.rounds,
                steps=INSIDE_STEPS if given.full else INSIDE_STEPS // 5,
                idle_seconds=60 if given.full else 10,
            )
    return {
        "about": origin,
        "plan": dataclasses.asdict(plan),
        "workers": given.workers,
        "engines": engines,
        "rounds": measured.rounds,
        "samples": measured.samples,
        "sizes": measured.sizes,
        "failed": measured.failed,
        "left_out": {**measured.left_out, **{engine: {"all": reason} for engine, reason in lacking.items()}},
        "inside": within,
    }


def keep(found: dict[str, Any], folder: Path) -> Path:
    """Write the run, and ``latest.json`` beside it; the pictures, too, where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{dt.datetime.now(tz=dt.UTC):%Y%m%d-%H%M%S}-{found['about']['revision'] or 'unknown'}"
    path = folder / f"{stem}.json"
    write(found, path)
    try:
        from benchmarks import plots
    except ModuleNotFoundError as error:
        say(f"no pictures: {error} (make bench installs it)")
    else:
        plots.draw(found, folder, stem)
    return path


def write(found: dict[str, Any], path: Path) -> None:
    """Write the run, and ``latest.json`` beside it."""
    path.write_text(json.dumps(found, indent=1))
    (path.parent / "latest.json").write_text(path.read_text())


def add_figures(found: dict[str, Any], given: argparse.Namespace, path: Path) -> None:
    """The whole form measures the single figures, too, where it is about Tasker."""
    if given.full and found["inside"] is not None and not given.no_figures:
        keep_it = functools.partial(write, found, path)
        measure_into(found, list(PROGRAMS), FULL_SIZES, database_url=given.database_url, keep=keep_it)


def main() -> int:
    """Run, keep, print."""
    end_in_order()
    given = arguments()
    found = run(given)
    path = keep(found, given.results)
    add_figures(found, given, path)
    print(report.text(found))
    print(f"Kept as {path}")
    failed = {**found["failed"], **found.get("figures_failed", {})}
    for name, reason in failed.items():
        print(f"FAILED: {name}: {reason}", file=sys.stderr)
    # Who names an engine wants its figures; of all that there are, those are measured that can be.
    unmeasured = [engine for engine in given.engines or () if "all" in found["left_out"].get(engine, {})]
    return 1 if failed or unmeasured else 0


if __name__ == "__main__":
    sys.exit(main())
