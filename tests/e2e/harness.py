"""Real Celery processes for tests: started with captured logs, asked about, stopped or killed, never left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
from celery import Celery
from psycopg.rows import dict_row

from tasker import Tasker
from tasker.client.handle import TaskHandle
from tasker.config.manager import ConfigManager
from tasker.database.connection import Database
from tasker.messaging.transport.address import broker_url_of
from tasker.messaging.transport.registration import register as register_transport
from tasker.workflows.declaration import Workflow
from tasker.workflows.registry import TemplateRegistry
from tests.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
LOG_TAIL_LINES = 60


class CeleryProcess:
    """One ``celery -A … …`` process, in a session of its own so that all of it can be killed."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path, app: str = "tasker"
    ) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self.ended_at = 0.0
        """``time.monotonic()`` when ``wait`` saw its end."""

        self._log = self.log_path.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, *arguments],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, pattern: str, *, times: int = 1) -> re.Match[str]:
        """The ``times``-th match of ``pattern`` in the log."""

        def found() -> re.Match[str] | None:
            matches = list(re.finditer(pattern, self.log))
            if len(matches) < times:
                assert self._process.poll() is None, f"{self.name} ended:\n{self.tail()}"
                return None
            return matches[times - 1]

        return wait_until(found, f"{pattern!r} in the log of {self.name}:\n{self.tail()}")

    def signal(self, number: int) -> float:
        """Send a signal to the main process alone; ``time.monotonic()`` then."""
        os.kill(self.pid, number)
        return time.monotonic()

    def wait(self, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code."""
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.tail()}") from None
        self.ended_at = time.monotonic()
        return code

    def terminate(self) -> int:
        """End it by SIGTERM, as a service manager does; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill_all(self) -> None:
        """kill -9 of the main process; Celery's children die with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def children(self) -> list[psutil.Process]:
        """Processes of its pool that run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                child
                for child in psutil.Process(self.pid).children()
                if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(child.cmdline())
            ]
        return []

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def clean_up(self, timeout_seconds: float) -> None:
        """After SIGTERM was sent: whatever is left of it goes."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def tail(self) -> str:
        return "\n".join(self.log.splitlines()[-LOG_TAIL_LINES:])


class Cluster:
    """Celery workers and beats on one database, and a client of it.

    Args:
        database_url: a migrated database.
        folder: logs, and the working directory of all processes.
        env: settings of this cluster, as environment variables.
        broker_url: where its broker is; on the database unless said otherwise. Processes are told by ``env``, or by a
            ``celeryconfig.py`` in ``folder``.
    """

    def __init__(
        self, database_url: str, folder: Path, env: Mapping[str, str] | None = None, *, broker_url: str | None = None
    ) -> None:
        self.database_url = database_url
        self.folder = folder
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TASKER_", "CELERY_", "PG"))},
            "DATABASE_URL": database_url,
            "TASKER_ENV": "test",
            "TASKER_ENGINE__HANDLER_MODULES": "tests.e2e.workflows",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **(env or {}),
        }
        self.settings = ConfigManager.load(environ=self.env)
        self.database = Database.from_settings(self.settings.database, database_url, application_name="test")
        self.client = Tasker(self.database)
        # A program that has only Celery, and the broker's address.
        register_transport()
        self.app = Celery("somebody", broker=broker_url or broker_url_of(database_url), set_as_current=False)
        self.processes: list[CeleryProcess] = []
        self._numbers = itertools.count(1)

    # -- processes ------------------------------------------------------------------------------------------------

    def worker(
        self,
        *arguments: str,
        name: str | None = None,
        ready: bool = True,
        env: Mapping[str, str] | None = None,
        app: str = "tasker",
    ) -> CeleryProcess:
        """A worker, ready to work unless ``ready`` is false."""
        name = name or f"w{next(self._numbers)}"
        process = self._start(name, ["worker", "-n", f"{name}@test", "-l", "info", *arguments], env, app)
        if ready:
            process.wait_for_log(rf"{name}@test ready\.")
        return process

    def beat(self, name: str | None = None) -> CeleryProcess:
        """A beat."""
        name = name or f"beat{next(self._numbers)}"
        process = self._start(name, ["beat", "-l", "info", "-s", str(self.folder / f"{name}.schedule")])
        process.wait_for_log("beat: Starting")
        return process

    def flower(self, port: int) -> CeleryProcess:
        """A Flower that listens on ``port`` of 127.0.0.1, and answers everybody who asks its API."""
        arguments = ["flower", "--address=127.0.0.1", f"--port={port}"]
        return self._start("flower", arguments, {"FLOWER_UNAUTHENTICATED_API": "true"})

    def start_celery(self, name: str, arguments: Sequence[str], **env: str) -> CeleryProcess:
        """Any other of Celery's programs."""
        return self._start(name, arguments, env)

    def send(self, task: str, *args: object, queue: str, **kwargs: object) -> None:
        """Send a Celery task by its name."""
        self.app.send_task(task, args, kwargs, queue=queue)

    def active(self, task: str) -> list[dict[str, Any]]:
        """The tasks of that name which workers say they run."""
        replies = self.app.control.inspect(timeout=2).active() or {}
        return [found for tasks in replies.values() for found in tasks if found["name"] == task]

    def _start(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None, app: str = "tasker"
    ) -> CeleryProcess:
        process = CeleryProcess(name, arguments, {**self.env, **(env or {})}, self.folder, app)
        self.processes.append(process)
        return process

    # -- workflows ------------------------------------------------------------------------------------------------

    def register(self, *workflows: Workflow) -> None:
        """Make workflows known."""
        registry = TemplateRegistry(self.database, self.settings)
        for workflow in workflows:
            registry.register(workflow)

    def start(self, workflow: Workflow, *contexts: Mapping[str, Any]) -> list[TaskHandle]:
        """Start the workflow once for each context."""
        requests = [
            {"namespace": workflow.namespace, "name": workflow.name, "context": dict(context)} for context in contexts
        ]
        return list(self.client.create_many(requests))

    def wait(self, handles: Sequence[TaskHandle], timeout_seconds: float = PATIENCE_SECONDS) -> list[str]:
        """The states in which the tasks ended."""
        deadline = time.monotonic() + timeout_seconds
        for handle in handles:
            handle.wait(max(0.1, deadline - time.monotonic()))
        return [handle.state for handle in handles]

    # -- looking --------------------------------------------------------------------------------------------------

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """What the database says."""
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        """The one value that the database says."""
        (row,) = self.rows(query, *parameters)
        (value,) = row.values()
        return value

    def executors(self, kind: str = "step_executor") -> list[dict[str, Any]]:
        """Executors of a kind that are registered and not lost."""
        return self.rows("SELECT * FROM tasker.executors WHERE kind = %s AND lost_at IS NULL", kind)

    def wait_for_executors(self, count: int, kind: str = "step_executor") -> list[dict[str, Any]]:
        """Exactly ``count`` executors of a kind."""
        return wait_until(
            lambda: found if len(found := self.executors(kind)) == count else None, f"{count} {kind}s are registered"
        )

    def steps_in(self, state: str) -> int:
        """How many steps are in a state."""
        return int(self.value("SELECT count(*) FROM tasker.workflow_steps WHERE state = %s", state))

    def losses(self, handles: Sequence[TaskHandle]) -> list[tuple[int, int]]:
        """Attempts and losses of every step of the tasks."""
        uuids: list[UUID] = [handle.task_uuid for handle in handles]
        return [
            (row["attempts"], row["losses"])
            for row in self.rows("SELECT attempts, losses FROM tasker.workflow_steps WHERE task_uuid = ANY (%s)", uuids)
        ]

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all processes, however they do."""
        try:
            for process in self.processes:
                if process.running:
                    process.signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            for process in self.processes:
                process.clean_up(max(0.0, deadline - time.monotonic()))
        finally:
            self.app.close()
            self.client.close()
            self.database.close()

    def report(self) -> str:
        """The ends of all logs, for those who look at a failure."""
        return "\n".join(f"--- {process.log_path}\n{process.tail()}" for process in self.processes)
