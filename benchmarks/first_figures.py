"""First figures of the engine: ``python -m benchmarks.first_figures`` prints them, with the machine they are from.

A durable embedded PostgreSQL (fsync and synchronous_commit on, audit rows written) in a folder of its own; one Celery
worker with two prefork executors. Measured:

* throughput of chains of four, submitted at once, until the last is final;
* latency of one chain at a time on an idle system, as the client sees it;
* transactions per step of one executor, at batch 1 and 50 (each statement is a transaction of its own);
* transactions per second of an idle executor.

Every run checks its results: each task complete with the right value, each step run once.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.chain import linear4
from tasker import Tasker
from tasker.config.manager import ConfigManager
from tasker.core import OrchestrationCore
from tasker.database.connection import Database
from tasker.database.embedded import EmbeddedServer
from tasker.database.migrations import migrate
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.workflows.registry import TemplateRegistry

ROOT = Path(__file__).parents[1]
STEPS = 4
SETTINGS = {"TASKER_ENGINE__HANDLER_MODULES": '["benchmarks"]', "TASKER_ENV": "production"}


@contextlib.contextmanager
def fresh_database(server: EmbeddedServer, name: str) -> Iterator[str]:
    """A migrated database with the workflow registered."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    url = server.database_url(name)
    migrate(url)
    database = Database(url)
    try:
        TemplateRegistry(database, ConfigManager.load()).register(linear4)
    finally:
        database.close()
    yield url


@contextlib.contextmanager
def worker(url: str, log: Path, executors: int) -> Iterator[None]:
    """A Celery worker with so many prefork step executors."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "tasker",
                "worker",
                "-Q",
                "bench",
                "-c",
                str(executors),
                "-l",
                "warning",
            ],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        with psycopg.connect(url, autocommit=True) as connection:
            while _one(connection, "SELECT count(*) FROM tasker.executors WHERE kind = 'step_executor'") < executors:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"no executors:\n{log.read_text()}")
                time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _one(connection: psycopg.Connection[tuple[int]], query: str) -> int:
    row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def _transactions(connection: psycopg.Connection[tuple[int]]) -> int:
    """Transactions of the database so far; its statistics arrive up to a second late."""
    time.sleep(1.2)
    return _one(
        connection, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )


def check(url: str, tasks: int) -> None:
    """Every task complete with the right value, every step run exactly once."""
    with psycopg.connect(url) as connection:
        wrong = connection.execute(
            """SELECT count(*) FILTER (
                          WHERE t.state <> 'complete' OR s.attempts <> 1 OR s.losses <> 0
                             OR (s.position = 3 AND (s.results->>'value')::int <> (c.context->>'n')::int * 2 + 1)),
                      count(DISTINCT t.task_uuid)
               FROM tasker.tasks AS t JOIN tasker.workflow_steps AS s USING (task_uuid)
               JOIN tasker.task_contexts AS c USING (task_uuid)"""
        ).fetchone()
    assert wrong == (0, tasks), wrong


def throughput(server: EmbeddedServer, log: Path, tasks: int) -> float:
    """Steps per second of ``tasks`` chains on two prefork executors."""
    with fresh_database(server, "throughput") as url, worker(url, log, 2), Tasker(url) as client:
        warm = client.create_many([_request(n) for n in range(500)])
        for handle in warm:
            handle.wait(timeout=60)
        begun = time.perf_counter()
        for first in range(0, tasks, 1000):
            client.create_many([_request(n) for n in range(first, min(first + 1000, tasks))])
        with psycopg.connect(url, autocommit=True) as connection:
            while _one(
                connection, "SELECT count(*) FROM tasker.tasks WHERE finished_at IS NULL AND admitted_at IS NOT NULL"
            ):
                time.sleep(0.02)
        seconds = time.perf_counter() - begun
        check(url, tasks + 500)
    return tasks * STEPS / seconds


def latency(server: EmbeddedServer, log: Path, tasks: int) -> list[float]:
    """Milliseconds of one chain at a time on an idle system, created and awaited by a client."""
    with fresh_database(server, "latency") as url, worker(url, log, 2), Tasker(url) as client:
        seen = []
        for n in range(tasks + 20):
            begun = time.perf_counter()
            client.create("bench", "linear4", {"n": n}).wait(timeout=60)
            seen.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.03)
        check(url, tasks + 20)
    return sorted(seen[20:])


def per_step(server: EmbeddedServer, batch: int, tasks: int) -> tuple[float, float]:
    """Transactions per step and microseconds per step of one bare executor."""
    with fresh_database(server, "per_step") as url:
        settings = ConfigManager.load(
            environ={**os.environ, **SETTINGS, "TASKER_EXECUTOR_POOLS__STEP_EXECUTOR__BATCH_SIZE": str(batch)}
        )
        with Tasker(url) as client, psycopg.connect(url, autocommit=True) as connection:
            stop = StopSignal()
            with OrchestrationCore.from_settings(settings, database_url=url) as core:
                loop = core.build_loop([ExecutorKind.STEP_EXECUTOR], ["bench_queue"], stop=stop, worker="bench@here")
                client.create_many([_request(n) for n in range(200)])
                loop.run_until_idle(60)
                client.create_many([_request(n) for n in range(tasks)])
                before, begun = _transactions(connection), time.perf_counter()
                loop.run_until_idle(120)
                seconds = time.perf_counter() - begun
                after = _transactions(connection)
                loop.close()
        check(url, tasks + 200)
    return (after - before) / (tasks * STEPS), seconds / (tasks * STEPS) * 1e6


def idle(server: EmbeddedServer, log: Path, seconds: float) -> float:
    """Transactions per second of an idle worker with two executors, for each of them."""
    with fresh_database(server, "idle") as url, worker(url, log, 2):
        time.sleep(12)  # until polling has slowed down to its longest interval
        with psycopg.connect(url, autocommit=True) as connection:
            before, begun = _transactions(connection), time.monotonic()
            time.sleep(seconds)
            after = _transactions(connection)
            return (after - before) / (time.monotonic() - begun) / 2


def _request(n: int) -> dict[str, object]:
    return {"namespace": "bench", "name": "linear4", "context": {"n": n}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="chains of the throughput run")
    parser.add_argument("--runs", type=int, default=3, help="runs of the throughput figure")
    arguments = parser.parse_args()
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryDirectory(prefix="tasker-", dir="/tmp") as data:
        log = Path(logs) / "worker.log"
        with EmbeddedServer.start(Path(data)) as server:
            today, python = dt.datetime.now(tz=dt.UTC).date(), platform.python_version()
            print(f"{today}, {platform.platform()}, {os.cpu_count()} cores, Python {python}")
            rates = sorted(throughput(server, log, arguments.tasks) for _ in range(arguments.runs))
            print(
                f"linear4, two prefork executors, {arguments.tasks} tasks: "
                f"{statistics.median(rates):,.0f} steps/s (of {arguments.runs}: {rates[0]:,.0f} to {rates[-1]:,.0f})"
            )
            seen = latency(server, log, 300)
            print(
                f"linear4, idle, one at a time: p50 {seen[150]:.1f} ms, p95 {seen[285]:.1f} ms, p99 {seen[297]:.1f} ms"
            )
            for batch, tasks in ((1, 500), (50, 5000)):
                transactions, microseconds = per_step(server, batch, tasks)
                print(
                    f"one executor, batch {batch}: {transactions:.3f} transactions and {microseconds:.0f} µs per step"
                )
            print(f"an idle executor: {idle(server, log, 20):.2f} transactions/s")


if __name__ == "__main__":
    main()
