"""What all that measures Tasker begins with: the schema, and each shape as a registered workflow."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from benchmarks.engines.processes import Workers
from benchmarks.shapes import Shape
from tasker.config.manager import ConfigManager
from tasker.database.connection import Database
from tasker.database.migrations import migrate
from tasker.workflows.loading import load_template
from tasker.workflows.registry import TemplateRegistry

NAMESPACE = "bench"
QUEUE = "bench_queue"
HANDLERS = "benchmarks.engines.tasker_handlers"
CELERY_CONFIG = "benchmarks.engines.tasker_celery"
LEARNED_SECONDS = 3.5
"""After so long each executor knows how long steps take: they tell one another with their heartbeats, every 3 s."""

CELERY_WORKER = (sys.executable, "-m", "celery", "-A", "tasker", "worker", "-l", "warning")
EXECUTORS = "SELECT count(*) FROM tasker.executors WHERE lost_at IS NULL AND kind IN ('step_executor', 'step_enqueuer')"


def environment(database_url: str, **more: str) -> dict[str, str]:
    """The environment of a process that works on this database, with the settings as shipped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKER_", "CELERY_", "PG"))}
    return {
        **kept,
        "DATABASE_URL": database_url,
        "CELERY_CONFIG_MODULE": CELERY_CONFIG,
        "TASKER_ENV": "production",
        "TASKER_ENGINE__HANDLER_MODULES": f'["{HANDLERS}"]',
        **more,
    }


def template_of(shape: Shape, namespaces: Sequence[str] = (NAMESPACE,), handler: str = "step") -> str:
    """The shape as a YAML template; several namespaces take turns at its steps, the first is the workflow's own."""
    lines = [f"name: {shape.name}", f"namespace_name: {namespaces[0]}", "version: 1.0.0", "steps:"]
    for (step, parents), namespace in zip(shape.parents.items(), itertools.cycle(namespaces), strict=False):
        lines.append(f"  - name: {step}")
        lines.append(f"    namespace: {namespace}")
        lines.append(f'    handler: {{callable: "{HANDLERS}:{handler}"}}')
        if parents:
            lines.append(f"    depends_on: [{', '.join(parents)}]")
    return "\n".join(lines) + "\n"


def set_up(database_url: str, *shapes: Shape) -> dict[str, int]:
    """Migrate the database and register these shapes; each one's number there, by its name."""
    migrate(database_url)
    return {shape.name: register(database_url, shape) for shape in shapes}


def register(database_url: str, shape: Shape, namespaces: Sequence[str] = (NAMESPACE,), handler: str = "step") -> int:
    """Register the shape as a workflow (`template_of`); its number there."""
    database = Database(database_url)
    try:
        registry = TemplateRegistry(database, ConfigManager.load(environ=environment(database_url)))
        return registry.register(load_template(template_of(shape, namespaces, handler))).named_task_id
    finally:
        database.close()


def request(shape: Shape, n: int) -> Mapping[str, Any]:
    """A task of this shape, as `Tasker.create_many` takes it."""
    return {"namespace": NAMESPACE, "name": shape.name, "context": {"n": n}}


def start_celery_worker(workers: Workers, database_url: str, executors: int) -> None:
    """A Celery worker whose prefork slots are step executors."""
    workers.start(
        "steps",
        [*CELERY_WORKER, "-Q", NAMESPACE, "-c", str(executors), "-n", "steps@%h"],
        environment(database_url),
    )


def start_plain_executor(workers: Workers, name: str, kind: str, database_url: str, queue: str = QUEUE) -> None:
    """A process with one executor loop (``steps`` or ``orchestration``), without Celery."""
    program = [sys.executable, "-m", "benchmarks.engines.tasker_executor", kind, queue]
    workers.start(name, program, environment(database_url))


def count_executors(database_url: str) -> int:
    """How many executors of steps, and of orchestration where that runs, are at work."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(EXECUTORS).fetchone()
    return 0 if row is None else int(row[0])
