"""A worker that grows and shrinks as load comes and goes, as a picture: ``python -m benchmarks.figures.scaling``.

One prefork worker is started with one executor and may host four; another hosts orchestration, and ticks where no beat
does. Tasks arrive at a rate that rises, stays, falls and stops. Recorded twice a second: what waits, how many executors
there are and shall be; and each decision with its reason. Nothing is judged but that no step lost an attempt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.engines.processes import ROOT
from benchmarks.engines.tasker_setup import CELERY_WORKER, NAMESPACE, environment, register, request
from benchmarks.figures.rolling_restart import UNLIKE, SomethingLost
from benchmarks.inside import CHAIN, database
from benchmarks.record import about
from benchmarks.servers import end_in_order, servers
from tasker import Tasker

MOST_EXECUTORS = 4
LOOK_SECONDS = 0.5
STEP_SECONDS = 0.02
SETTINGS = {
    "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": "1",
    "TASKER_ORCHESTRATION__SCALING_INTERVAL_SECONDS": "2",
    "TASKER_ORCHESTRATION__SCALING_COOLDOWN_SECONDS": "3",
    "TASKER_ORCHESTRATION__SCALING_DRAIN_SECONDS": "10",
    "TASKER_ORCHESTRATION__MAX_WORKER_SLOTS": str(MOST_EXECUTORS),
    "TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__MAX_EXECUTORS": str(MOST_EXECUTORS),
}
"""A tenth of the times of the settings as shipped, so that a curve takes a minute and not ten."""

LOOK = """
SELECT (SELECT count(*) FROM tasker.executors WHERE kind = 'step_executor' AND lost_at IS NULL),
       (SELECT target FROM tasker.executor_pools WHERE kind = 'step_executor' AND queue = %(queue)s),
       (SELECT (p->>'backlog')::integer FROM jsonb_array_elements(tasker.pool_measures('{"most": 100000}')) AS p
        WHERE p->>'kind' = 'step_executor' AND p->>'queue' = %(queue)s)
"""
DECISIONS = """
SELECT extract(epoch FROM at), from_target, to_target, reason FROM tasker.scaling_decisions
WHERE kind = 'step_executor' AND queue = %(queue)s ORDER BY id
"""


@dataclass
class Curve:
    """What was recorded; times are seconds since the load began.

    Attributes:
        looks: (time, tasks per second that arrive, waiting messages, executors, target).
        decisions: (time, from, to, reason).
    """

    looks: list[tuple[float, float, int, int, int]] = field(default_factory=list)
    decisions: list[tuple[float, int, int, str]] = field(default_factory=list)


def rate_at(seconds: float, length: float, most: float) -> float:
    """Tasks per second: a third rising, a third at the top, a sixth at a quarter of it, then none."""
    share = seconds / length
    if share < 1 / 3:
        return most * 3 * share
    if share < 2 / 3:
        return most
    return most / 4 if share < 5 / 6 else 0.0


def record(url: str, folder: Path, *, length: float, most: float, rest: float) -> Curve:
    """Drive the load against real workers.

    Args:
        url: a migrated database.
        folder: for logs.
        length: seconds of load.
        most: tasks per second at the top, of four steps each.
        rest: seconds to watch after it.

    Raises:
        SomethingLost: a step or a task failed, or an attempt was spent in vain.
    """
    register(url, CHAIN, handler="paced")
    curve, created, debt = Curve(), [], 0.0
    queue = {"queue": f"{NAMESPACE}_queue"}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Tasker(url))
        looking = stack.enter_context(psycopg.connect(url, autocommit=True))
        for name, arguments in {
            "orchestration": ("-Q", "orchestration", "-P", "threads", "-c", "1"),
            "steps": ("-Q", NAMESPACE, "-P", "prefork", "-c", "1"),
        }.items():
            stack.enter_context(_worker(url, folder, name, arguments))
        while not looking.execute("SELECT 1 FROM tasker.executors WHERE kind = 'step_executor'").fetchone():
            time.sleep(0.1)
        began = last = time.time()
        while (now := time.time() - began) < length + rest:
            rate = rate_at(now, length, most)
            debt += rate * (time.time() - last)
            last = time.time()
            if debt >= 1:
                wanted = [
                    {**request(CHAIN, n), "context": {"n": n, "seconds": STEP_SECONDS}}
                    for n in range(len(created), len(created) + int(debt))
                ]
                created += [handle.task_uuid for handle in client.create_many(wanted)]
                debt -= len(wanted)
            found = looking.execute(LOOK.encode(), queue).fetchone()
            assert found is not None
            curve.looks.append((round(now, 2), round(rate, 2), int(found[2] or 0), int(found[0]), int(found[1] or 0)))
            time.sleep(LOOK_SECONDS)
        states = {each.state for each in client.wait_all(created, 120).values()}
        unlike = looking.execute(UNLIKE.encode()).fetchall()
        if states != {"complete"} or unlike:
            raise SomethingLost(f"tasks ended as {sorted(states)}; steps (state, attempts, losses, n): {unlike}")
        curve.decisions = [
            (round(float(at) - began, 2), before, after, reason)
            for at, before, after, reason in looking.execute(DECISIONS.encode(), queue)
        ]
    return curve


@contextlib.contextmanager
def _worker(url: str, folder: Path, name: str, arguments: Sequence[str]) -> Iterator[None]:
    env = environment(url, BENCH_RUNS=str(folder / "runs"), **SETTINGS)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*CELERY_WORKER, *arguments, "-n", f"{name}@bench"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def draw(curve: Curve, path: Path, subtitle: str) -> None:
    """The picture: what arrives and waits above, executors, their target and each decision's reason below."""
    from benchmarks.plots import LIMIT, PEER, TASKER, plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
    times, rates, waiting, executors, targets = zip(*curve.looks, strict=True)
    above.fill_between(times, waiting, color=LIMIT, alpha=0.6, linewidth=0, label="steps that wait")
    above.set_ylabel("steps that wait", fontsize=9)
    above.set_ylim(bottom=0)
    arriving = above.twinx()
    arriving.plot(times, rates, color=PEER, label="tasks/s that arrive")
    arriving.set_ylabel("tasks/s that arrive", fontsize=9, color=PEER)
    arriving.set_ylim(bottom=0)
    below.step(*_corners(times, executors), where="post", color=TASKER, label="executors")
    first = next((n for n, target in enumerate(targets) if target), 0)  # before, nobody has decided anything
    below.step(*_corners(times[first:], targets[first:]), where="post", color=PEER, linestyle="--", label="target")
    for at, before, after, reason in curve.decisions:
        below.annotate(
            reason,
            (at, max(before, after)),
            (-2, 5) if after > before else (2, 5),
            textcoords="offset points",
            ha="right" if after > before else "left",
            fontsize=8,
        )
        below.plot([at], [after], marker="^" if after > before else "v", color="#333333", markersize=4)
    below.set_ylim(0, MOST_EXECUTORS + 1)
    below.set_ylabel("executors", fontsize=9)
    below.set_xlabel("seconds", fontsize=9)
    below.legend(loc="upper right", fontsize=8, frameon=False)
    for axis in (above, arriving, below):
        axis.tick_params(labelsize=8)
        axis.spines["top"].set_visible(False)
    below.spines["right"].set_visible(False)
    figure.suptitle(subtitle, fontsize=9, color="#555555")
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _corners(times: Sequence[float], figures: Sequence[int]) -> tuple[list[float], list[int]]:
    """The moments at which a figure changed, the first and the last: enough for a line of steps."""
    kept = [n for n in range(len(times)) if n in (0, len(times) - 1) or figures[n] != figures[n - 1]]
    return [times[n] for n in kept], [figures[n] for n in kept]


def main() -> None:
    """Record, draw, and keep both beside the other results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures.scaling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long tasks arrive")
    parser.add_argument("--rest", type=float, default=80.0, help="how long is watched after that")
    parser.add_argument("--tasks-per-second", type=float, default=25.0, help="at the top, of four steps of 20 ms")
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="the picture; scaling.svg beside the results")
    parser.add_argument("--draw", type=Path, metavar="scaling.json", help="draw what was recorded before, and no more")
    parser.add_argument("--database-url", help="a PostgreSQL on this machine; else an embedded one is started")
    given = parser.parse_args()
    end_in_order()
    kept = json.loads(given.draw.read_text()) if given.draw else _measure(given)
    curve = Curve(**{name: [tuple(row) for row in kept[name]] for name in ("looks", "decisions")})
    for at, before, after, reason in curve.decisions:
        print(f"{at:6.1f} s: {before} → {after} ({reason})")
    path = given.plot or given.into / "scaling.svg"
    origin = kept["about"]
    machine = origin["machine"]
    draw(
        curve,
        path,
        f"One prefork worker that may host {MOST_EXECUTORS} executors; {machine['cores']} cores,"
        f" load before {machine['load_before'][0]:g}, {origin['date'][:10]}, {origin['revision']}",
    )
    print(f"Drawn in {path}")


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    given.into.mkdir(parents=True, exist_ok=True)
    with (
        servers(database_url=given.database_url, redis=False, rabbitmq=False) as found,
        database(found.postgresql) as url,
        tempfile.TemporaryDirectory(prefix="tasker-bench-") as folder,
    ):
        origin = about(found, ())
        curve = record(url, Path(folder), length=given.seconds, most=given.tasks_per_second, rest=given.rest)
    kept: dict[str, Any] = {"about": origin, **asdict(curve)}
    (given.into / "scaling.json").write_text(json.dumps(kept, indent=1))
    return kept


if __name__ == "__main__":
    main()
