"""Where the time of a step goes: ``python -m benchmarks.profiling``.

One executor in a process of its own works off chains of four that wait for it, once with batches of one step and once
with batches of up to two hundred, on a durable embedded PostgreSQL. Each is run twice: first as it is, for the time of
a step and the CPU of both sides; then watched, for the shares. py-spy looks at the executor's stack from outside,
hundreds of times a second; PostgreSQL adds up the time of each function (``track_functions``). Shares are of the
watched run, times are those shares of the undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import linecache
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import inside
from benchmarks.engines.tasker_setup import LEARNED_SECONDS, environment
from benchmarks.meters import Meter
from benchmarks.reading import Table, fine, markdown
from benchmarks.servers import PostgreSQL, end_in_order, name_of, servers
from benchmarks.shapes import SHAPES, Shape
from tasker import Tasker

SAMPLES_PER_SECOND = 400
FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+):(?P<line>\d+)\)")
DATABASE, DRIVER, HANDLER, JSON, IDLE, EXECUTOR = (
    "waiting for the database",
    "Python: the driver (psycopg)",
    "Python: the handler",
    "Python: serialization (JSON)",
    "waiting for work",
    "Python: the executor",
)

ENTRIES = ("claim_steps", "complete_steps")


def kind_of(stack: str) -> str:
    """Which part of the work a stack of py-spy's (outermost frame first, by semicolons) belongs to."""
    frames = [match for match in map(FRAME.fullmatch, stack.split(";")) if match is not None]
    if any(frame["function"].endswith("wait_readable") for frame in frames):
        return IDLE
    if any(frame["file"].endswith("tasker_handlers.py") for frame in frames):
        return HANDLER
    if not frames:
        return EXECUTOR
    leaf = frames[-1]
    if re.search(r"orjson\.|\b(loads|dumps)\(", linecache.getline(leaf["file"], int(leaf["line"]))):
        return JSON
    if "psycopg" in leaf["file"]:
        return DATABASE if leaf["function"].rpartition(".")[2].startswith("wait") else DRIVER
    return EXECUTOR


def shares(raw: str) -> dict[str, float]:
    """The share of each kind in the main thread's samples, without the waiting for work."""
    counted: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, _, frames = stack.partition(";")
        # Frames before the loop's are the start and the end of the process.
        if "MainThread" in thread and "run_until_idle" in frames:
            counted[kind_of(frames)] += int(count)
    del counted[IDLE]
    total = counted.total()
    return {kind: count / total for kind, count in counted.items()} if total else {}


def work(url: str, batch: int) -> None:
    """The watched process: a warm-up; then, after a line of input, the work, and how long it took."""
    with inside.executor_here(url, batch) as loop:
        loop.run_until_idle(600)
        sys.stdin.readline()
        cpu, begun = time.process_time(), time.perf_counter()
        loop.run_until_idle(600)
        print(json.dumps({"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}), flush=True)


def profile(postgresql: PostgreSQL, shape: Shape, batch: int, tasks: int, postmaster: int | None) -> dict[str, Any]:
    """Both runs at one batch size."""
    plain = _run(postgresql, shape, batch, tasks, postmaster, watched=False)
    return {**_run(postgresql, shape, batch, tasks, postmaster, watched=True), **plain}


def _run(
    postgresql: PostgreSQL, shape: Shape, batch: int, tasks: int, postmaster: int | None, *, watched: bool
) -> dict[str, Any]:
    with inside.database(postgresql, shape) as url, tempfile.TemporaryDirectory() as folder, Tasker(url) as client:
        if watched:
            _track_functions(url)
        raw = Path(folder) / "stacks"
        watcher = ["py-spy", "record", "--format", "raw", "--idle", "--threads", "--nonblocking"]
        watcher += ["--rate", str(SAMPLES_PER_SECOND), "--output", str(raw), "--"]
        program = [sys.executable, "-m", "benchmarks.profiling", "--work", url, "--batch", str(batch)]
        inside.create(client, shape, max(100, tasks // 10))
        process = subprocess.Popen(
            [*(watcher if watched else []), *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if watched else None,
            text=True,
            env=environment(url),
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _until_done(client)  # the warm-up
            time.sleep(LEARNED_SECONDS)
            inside.create(client, shape, tasks)
            meter = Meter({"PostgreSQL": [postmaster]} if postmaster else {})
            process.stdin.write("\n")
            process.stdin.flush()
            answer = json.loads(next(line for line in process.stdout if line.startswith("{")))
            spent = meter.spent()
            process.wait(60)
        finally:
            process.kill()
            process.communicate()
        if watched:
            return {
                "watched_wall": answer["seconds"] / (tasks * shape.steps) * 1e6,
                "shares": shares(raw.read_text()),
                "functions": _functions(url),
                "all_steps": _all_steps(url),
            }
    steps = tasks * shape.steps
    return {
        "batch": batch,
        "wall": answer["seconds"] / steps * 1e6,
        "python_cpu": answer["cpu"] / steps * 1e6,
        "server_cpu": spent["PostgreSQL"] / steps * 1e6 if spent else None,
    }


def _until_done(client: Tasker) -> None:
    deadline = time.monotonic() + 300
    while client.list(states=["pending", "in_progress"], limit=1).tasks:
        if time.monotonic() > deadline:
            raise RuntimeError("the warm-up does not end")
        time.sleep(0.05)


def _track_functions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name_of(url)} SET track_functions = 'pl'")


def _functions(url: str) -> list[tuple[str, int, float, float]]:
    """Name, calls, own milliseconds and total milliseconds of each function, the executor's connections closed."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT funcname, calls, self_time, total_time FROM pg_stat_user_functions ORDER BY self_time DESC"
        ).fetchall()


def _all_steps(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM tasker.workflow_steps").fetchone()
    assert row is not None
    return int(row[0])


def time_table(found: list[dict[str, Any]]) -> Table:
    """Where the wall time goes, µs of a step."""
    head = ["µs for each step", *(f"batch {one['batch']}" for one in found)]
    rows = [["all", *(fine(one["wall"]) for one in found)]]
    for kind in (DATABASE, EXECUTOR, JSON, DRIVER, HANDLER):
        rows.append([kind, *(fine(one["wall"] * one["shares"].get(kind, 0.0)) for one in found)])
        if kind == DATABASE:
            rows.append(["  of which in SQL functions", *(fine(_in_functions(one)) for one in found)])
            rest = [max(0.0, one["wall"] * one["shares"].get(kind, 0.0) - _in_functions(one)) for one in found]
            rows.append(["  of which commit, network, parsing", *map(fine, rest)])
    rows.append(["CPU of the executor's process", *(fine(one["python_cpu"]) for one in found)])
    server = [one["server_cpu"] for one in found]
    rows.append(["CPU of PostgreSQL, all processes", *("–" if cpu is None else fine(cpu) for cpu in server)])
    return "Where the time of a step goes (linear4, one executor)", head, rows


def function_table(found: list[dict[str, Any]]) -> Table:
    """The own time of SQL functions, µs of a step."""
    names: Counter[str] = Counter()
    for one in found:
        for name, _, own, _ in one["functions"]:
            names[name] += own / one["all_steps"]
    rows = []
    for name, _ in names.most_common(15):
        cells = []
        for one in found:
            entry = next((entry for entry in one["functions"] if entry[0] == name), (name, 0, 0.0, 0.0))
            cells += [fine(entry[2] * 1000 / one["all_steps"]), fine(entry[1] / one["all_steps"])]
        rows.append([name, *cells])
    head = ["own time of SQL functions", *(c for o in found for c in (f"batch {o['batch']}: µs", "calls/step"))]
    return "SQL functions, for each step, watched", head, rows


def _in_functions(one: dict[str, Any]) -> float:
    """Microseconds of a step that the server works on claims and completions."""
    total = sum(milliseconds for name, _, _, milliseconds in one["functions"] if name in ENTRIES)
    share = total * 1000 / one["all_steps"] / one["watched_wall"]
    return float(one["wall"] * share)


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000, help="chains at the large batch; a tenth at batch 1")
    parser.add_argument("--shape", choices=[name for name in SHAPES if name != "wide2000"], default="linear4")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.batch)
        return
    if shutil.which("py-spy") is None:
        sys.exit("py-spy is missing: `make profile` installs it, or pip install --group bench")
    end_in_order()
    with servers(database_url=None, redis_url="", amqp_url="", redis=False, rabbitmq=False) as found:
        postmaster = found.processes.get("PostgreSQL")
        profiles = [
            profile(found.postgresql, SHAPES[given.shape], batch, given.tasks // (10 if batch == 1 else 1), postmaster)
            for batch in inside.BATCHES
        ]
    for table in (time_table(profiles), function_table(profiles)):
        print(markdown(table))


if __name__ == "__main__":
    main()
