"""One soak: a server, workers and a stream of tasks, looked at until the time is up or somebody ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.engines.base import Place
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker_setup import CELERY_WORKER, environment
from benchmarks.servers import Servers
from benchmarks.soak.looks import CLIENT, Look, Looker
from benchmarks.soak.series import Trend, series_of, trend
from benchmarks.soak.stream import Stream
from benchmarks.soak.verdict import Verdict, judge
from benchmarks.soak.workflows import NAMESPACE, WORKFLOWS
from tasker import Tasker
from tasker.config.manager import ConfigManager
from tasker.database.connection import Database
from tasker.database.migrations import migrate
from tasker.workflows.registry import TemplateRegistry

EXECUTORS = 2
LONGEST_END_SECONDS = 120.0
_READY = "SELECT count(*) FROM tasker.executors WHERE kind = 'step_executor' AND lost_at IS NULL"
_OPEN = "SELECT count(*) FROM tasker.tasks WHERE finalized_at IS NULL"


@dataclass(frozen=True)
class Plan:
    """What is soaked.

    Attributes:
        minutes: how long tasks are created.
        rate: tasks per second.
        every_seconds: between two looks.
        keep_minutes: how long finished tasks are kept.
        lifetime_seconds: about how long an executor lives.
        tick_seconds: between two ticks of the coordinator.
    """

    minutes: float
    rate: float
    every_seconds: float
    keep_minutes: float
    lifetime_seconds: float
    tick_seconds: float

    @property
    def settings(self) -> dict[str, str]:
        """What differs from the settings as shipped."""
        return {
            "TASKER_ENGINE__HANDLER_MODULES": '["benchmarks.soak.workflows"]',
            "TASKER_DATABASE__RETENTION__FINISHED_TASK_DAYS": repr(self.keep_minutes / (24 * 60)),
            "TASKER_ORCHESTRATION__EXECUTOR_LIFETIME_SECONDS": repr(self.lifetime_seconds),
            "TASKER_ORCHESTRATION__HEALTH_CHECK_INTERVAL_SECONDS": repr(self.tick_seconds),
        }


@dataclass
class Soak:
    """What came of it.

    Attributes:
        plan: what was soaked.
        looks: what was seen, from the first task to the last.
        seconds: how long tasks were created.
        violations: what may not be; ``verdict`` has those of the tables, too.
        verdict: ``None`` where it did not come to that.
    """

    plan: Plan
    looks: list[Look] = field(default_factory=list)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    verdict: Verdict | None = None

    def trends(self) -> list[Trend]:
        """Of the second half of the time in which tasks were created."""
        found = (trend(series, self.seconds / 2, self.seconds) for series in series_of(self.looks))
        return [each for each in found if each is not None]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "plan": {**dataclasses.asdict(self.plan), "settings": self.plan.settings},
            "seconds": round(self.seconds, 1),
            "violations": self.violations,
            "verdict": None if self.verdict is None else dataclasses.asdict(self.verdict),
            "trends": [dataclasses.asdict(each) for each in self.trends()],
            "looks": [dataclasses.asdict(look) for look in self.looks],
        }


def soak(
    found: Servers,
    folder: Path,
    plan: Plan,
    over: threading.Event,
    watch: Callable[[Soak], object] = lambda so_far: None,
) -> Soak:
    """Do it.

    Args:
        found: where a database is made, and dropped at the end.
        folder: for logs.
        plan: what to do.
        over: set by whoever wants it to end before its time; what was created is waited for and judged all the same.
        watch: called after each look.
    """
    done = Soak(plan)
    url = found.postgresql.create()
    with contextlib.ExitStack() as stack:
        stack.callback(found.postgresql.drop, url)
        _set_up(url, plan)
        workers = Workers(Place(url, "", "", str(folder)))
        stack.callback(workers.stop, 60)
        roles = _start(workers, url, folder, plan)
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        workers.until(lambda: _count(connection, _READY) == EXECUTORS, "step executors")
        if "PostgreSQL" in found.processes:
            roles["PostgreSQL"] = found.processes["PostgreSQL"]
        roles[CLIENT] = os.getpid()
        looker = Looker(connection, roles)
        stream = stack.enter_context(Stream(stack.enter_context(Tasker(url)), plan.rate))
        began = time.monotonic()
        for turn in range(1, 1 + max(1, round(plan.minutes * 60 / plan.every_seconds))):
            is_over = over.wait(max(0.0, began + turn * plan.every_seconds - time.monotonic()))
            _look(looker, stream, done, watch)
            if is_over or workers.ended:
                break
        stream.end()
        done.seconds = time.monotonic() - began
        _wait_for_the_last(connection, workers)
        _look(looker, stream, done, watch)
        done.violations += [f"{name} ended with {code} before its time" for name, code in workers.ended.items()]
        done.verdict = judge(url, stream.created, stream.refused)
        done.violations += done.verdict.violations
    return done


def _set_up(url: str, plan: Plan) -> None:
    migrate(url)
    database = Database(url)
    try:
        registry = TemplateRegistry(database, ConfigManager.load(environ=environment(url, **plan.settings)))
        for workflow in WORKFLOWS.values():
            registry.register(workflow)
    finally:
        database.close()


def _start(workers: Workers, url: str, folder: Path, plan: Plan) -> dict[str, int]:
    """Start all processes; the first one of each role."""
    env = environment(url, **plan.settings)
    steps = ("-Q", NAMESPACE, "-P", "prefork", "-c", str(EXECUTORS), "-n", "steps@soak")
    orchestration = ("-Q", "orchestration", "-P", "threads", "-c", "1", "-n", "orchestration@soak")
    workers.start("steps", [*CELERY_WORKER, *steps], env)
    workers.start("orchestration", [*CELERY_WORKER, *orchestration], env)
    schedule = str(folder / "beat.schedule")
    workers.start(
        "beat", [sys.executable, "-m", "celery", "-A", "tasker", "beat", "-l", "warning", "-s", schedule], env
    )
    return dict(zip(("steps", "orchestration", "beat"), workers.pids, strict=True))


def _look(looker: Looker, stream: Stream, done: Soak, watch: Callable[[Soak], object]) -> None:
    done.looks.append(looker.look(sum(stream.created.values())))
    watch(done)


def _wait_for_the_last(connection: psycopg.Connection[Any], workers: Workers) -> None:
    """Until all tasks are final, or the patience ends: the verdict says then which are not."""
    deadline = time.monotonic() + LONGEST_END_SECONDS
    while _count(connection, _OPEN) and time.monotonic() < deadline and not workers.ended:
        time.sleep(0.2)


def _count(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def table(trends: Sequence[Trend]) -> str:
    """The trends as lines of text."""
    width = max((len(each.name) for each in trends), default=0)
    lines = [f"{'':{width}}  {'mean':>10}  {'per hour':>10}"]
    for each in trends:
        share = "" if each.share_per_hour is None else f"  ({each.share_per_hour:+.1%})"
        lines.append(f"{each.name:{width}}  {each.mean:10,.1f}  {each.per_hour:+10,.2f}{share}")
    return "\n".join(lines)
