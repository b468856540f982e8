"""A soak: real workers on an embedded PostgreSQL of their own, at a steady rate, looked at every few seconds.

    python -m benchmarks.soak --minutes 120 --rate 20 --into build/soak.json [--plot build/soak.svg]

Finished tasks are pruned by the coordinator's ticks as it runs. At the end, or once Ctrl-C or SIGTERM ends it, it waits
for what was created, runs `tasker db verify`, and tells how fast memory, latency and sizes rose over the second half of
the time. Ends with 1 if a task was lost, ended otherwise than it has to, or anything is illegal; never for its figures.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.record import about
from benchmarks.servers import servers
from benchmarks.soak.run import Plan, Soak, soak, table


def main() -> int:
    """Soak, keep, draw, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="how long tasks are created")
    parser.add_argument("--rate", type=float, default=20.0, help="tasks per second")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two looks")
    parser.add_argument("--keep", type=float, metavar="MINUTES", help="of finished tasks; a twelfth of the time")
    parser.add_argument("--lifetime", type=float, default=30.0, metavar="SECONDS", help="of an executor, about")
    parser.add_argument("--into", type=Path, required=True, metavar="FILE.json", help="where all figures are kept")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="where they are drawn; needs matplotlib")
    parser.add_argument("--database-url", help="a PostgreSQL on this machine; else an embedded one is started")
    given = parser.parse_args()
    plan = Plan(
        minutes=given.minutes,
        rate=given.rate,
        every_seconds=given.every,
        # Longer than a window, so that each look finds what finished in it.
        keep_minutes=given.keep or max(given.minutes / 12, given.every / 20),
        lifetime_seconds=given.lifetime,
        tick_seconds=min(10.0, given.every),
    )
    over = threading.Event()

    def end(number: int, _frame: object) -> None:
        if over.is_set():  # asked a second time
            sys.exit(128 + number)
        over.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    with (
        servers(database_url=given.database_url, redis=False, rabbitmq=False) as found,
        tempfile.TemporaryDirectory(prefix="tasker-soak-") as folder,
    ):
        origin = about(found, ())

        def keep(so_far: Soak) -> None:
            # Whoever reads it, or ends this by force, finds a whole file.
            half = given.into.with_suffix(".part")
            half.write_text(json.dumps({"about": origin, **so_far.as_json()}))
            half.replace(given.into)

        def watch(so_far: Soak) -> None:
            keep(so_far)
            _tell(so_far)

        done = soak(found, Path(folder), plan, over, watch)
        keep(done)
        if done.violations:
            _show_logs(Path(folder))
    if given.plot:
        from benchmarks.soak.picture import draw

        given.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(done.looks, given.plot)
    print(summary(done))
    print(f"Kept in {given.into}" + (f" and {given.plot}" if given.plot else ""))
    return int(bool(done.violations))


def summary(done: Soak) -> str:
    """What it comes to, in lines of text."""
    lines = [table(done.trends())]
    if done.looks:
        created = done.looks[-1].created
        load = statistics.fmean(look.load for look in done.looks)
        lines.append(
            f"{created} tasks in {done.seconds / 60:.1f} minutes ({created / done.seconds:.1f}/s);"
            f" the machine's load was {load:.1f} on average"
        )
    if done.verdict is not None:
        tally: dict[str, Any] = done.verdict.tally
        lines.append(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in tally.items()))
        lines.append(f"taken back from executors: {done.verdict.given_back or 'nothing'}")
    lines += [f"VIOLATION: {violation}" for violation in done.violations] or ["nothing lost, nothing illegal"]
    return "\n".join(lines)


def _tell(so_far: Soak) -> None:
    look = so_far.looks[-1]
    chain = look.latency.get("chain")
    memory = ", ".join(f"{role} {sum(used.values()) / 2**20:.0f}" for role, used in look.memory.items())
    print(
        f"{look.at:6.0f} s: created {look.created}, there {look.counts['tasks']}, open {look.counts['open_tasks']},"
        f" {look.finished / look.seconds:.1f} finished/s,"
        f" chain p50 {chain[0] if chain else float('nan'):.0f} ms; memory {memory} MB;"
        f" tables {look.state_bytes / 2**20:.1f} MB, queues {look.queue_bytes / 2**20:.1f} MB; load {look.load}",
        flush=True,
    )


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
