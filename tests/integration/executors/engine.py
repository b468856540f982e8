"""A database, a template, and step executors that a test drives by hand."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg

from tasker.config.settings import Settings
from tasker.database import functions
from tasker.database.connection import Database
from tasker.executors.grace import GracePeriod
from tasker.executors.heartbeat import Heartbeat
from tasker.executors.idle import IdleSchedule
from tasker.executors.loop import ExecutorLoop, Slot
from tasker.executors.step_executor import StepExecutor, StepLimits
from tasker.executors.stop import StopSignal
from tasker.executors.wake import WakePipe
from tasker.handlers.registry import HandlerRegistry
from tasker.resilience.circuits import CircuitBreakers

DEADLINE_SECONDS = 20.0


class Engine:
    """One database, its workflows, and what a test wants to know of them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.handlers = HandlerRegistry(settings)
        self.stop = StopSignal()
        self.circuits = CircuitBreakers()
        self.connection = database.connect(application_name="the test")
        self._loops: list[ExecutorLoop] = []
        self._executors: list[StepExecutor] = []

    # -- workflows ------------------------------------------------------------------------------------------------

    def workflow(self, *steps: dict[str, Any], name: str = "flow", namespace: str = "testing", **rest: Any) -> int:
        """Register a workflow; each step says at least ``name`` and ``handler`` (a function, or a mapping)."""
        described = []
        for step in steps:
            handler = step["handler"]
            if callable(handler):
                label = f"{name}_{step['name']}"
                self.handlers.register(label, handler)
                handler = {"callable": label, "method": None, "initialization": {}}
            described.append(
                {
                    "kind": "standard",
                    "namespace": namespace,
                    "depends_on": [],
                    "retryable": True,
                    "max_attempts": 3,
                    "backoff": "fixed",
                    "backoff_base_ms": 0,
                    "backoff_max_ms": 0,
                    "backoff_multiplier": 1,
                    "jitter_fraction": 0,
                    "timeout_seconds": 30,
                    "system_dependency": None,
                    "result_schema": None,
                    "delegated": False,
                    **step,
                    "handler": handler,
                }
            )
        definition = {
            "namespace": namespace,
            "name": name,
            "version": "1.0.0",
            "digest": str(uuid.uuid4()),
            "description": None,
            "document": {},
            "identity_strategy": "always_unique",
            "input_schema": None,
            "has_after_work": False,
            "max_context_bytes": 1_048_576,
            "steps": described,
            **rest,
        }
        answer = functions.run(self.connection, functions.register_template(definition))
        named_task_id: int = answer["named_task_id"]
        return named_task_id

    def create(self, count: int = 1, *, name: str = "flow", namespace: str = "testing", **rest: Any) -> list[str]:
        """Start tasks, and return their uuids."""
        requests = [
            {"namespace": namespace, "name": name, "context": {"number": number}, **rest} for number in range(count)
        ]
        return [task["task_uuid"] for task in functions.run(self.connection, functions.create_tasks(requests))]

    # -- executors ------------------------------------------------------------------------------------------------

    def executor(self, *, namespace: str = "testing", grace_seconds: float = 5.0, **options: Any) -> StepExecutor:
        """A step executor, without a loop or heartbeats; it serves the namespace's queue, or ``queues``."""
        limits = options.pop("limits", StepLimits(**options.pop("sizes", {})))
        stop = options.pop("stop", self.stop)
        executor = StepExecutor(
            options.pop("queues", (f"{namespace}_queue",)),
            database=options.pop("database", self.database),
            worker="test",
            handlers=self.handlers,
            circuit=self.circuits.get("database"),
            stop=stop,
            grace=GracePeriod(stop, grace_seconds),
            limits=limits,
            **options,
        )
        self._executors.append(executor)
        return executor

    def loop(self, *executors: Any, heartbeat_seconds: float = 0.2, **options: Any) -> ExecutorLoop:
        """A loop over ``executors``, with heartbeats (over ``database``)."""
        slots = [
            Slot(executor, batch_size=50, schedule=IdleSchedule(0.01, options.pop("longest_poll_seconds", 0.05)))
            for executor in executors
        ]
        heartbeat = Heartbeat(
            executors,
            database=options.pop("database", self.database),
            circuit=self.circuits.get("database"),
            interval_seconds=heartbeat_seconds,
            patience_seconds=options.pop("heartbeat_patience_seconds", None),
        )
        loop = ExecutorLoop(slots, stop=options.pop("stop", self.stop), wake=WakePipe(), heartbeat=heartbeat, **options)
        self._loops.append(loop)
        return loop

    def run_until_idle(self, executor: StepExecutor | None = None, **sizes: Any) -> StepExecutor:
        """Run everything that can be run."""
        executor = executor or self.executor(sizes=sizes)
        with self.loop(executor) as loop:
            loop.run_until_idle(DEADLINE_SECONDS)
        return executor

    # -- what is in the tables ------------------------------------------------------------------------------------

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self.connection.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        """The one value of a query."""
        return self.rows(query, *parameters)[0][0]

    def task_states(self) -> dict[str, int]:
        """How many tasks are in which state."""
        return dict(self.rows("SELECT state, count(*) FROM tasker.tasks GROUP BY state"))

    def step(self, task_uuid: str, position: int = 0) -> dict[str, Any]:
        """A step's row."""
        cursor = self.connection.cursor(row_factory=psycopg.rows.dict_row)
        return cursor.execute(
            "SELECT * FROM tasker.workflow_steps WHERE task_uuid = %s AND position = %s", (task_uuid, position)
        ).fetchone()

    def receipts(self) -> int:
        """How many receipts there are."""
        count: int = self.value("SELECT count(*) FROM tasker.step_claims")
        return count

    def close(self) -> None:
        """End everything, also what a failed test left behind."""
        for loop in self._loops:
            loop.close(0)
        for executor in self._executors:
            executor.grace.shorten(0)
            executor.close()
        self.connection.close()
        self.database.close()
        self.stop.close()
