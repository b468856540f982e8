"""Tasker's own Celery tasks: what each does, and under which name it is registered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psycopg

from tasker.errors import CircuitOpen, InvalidRequest
from tasker.executors.executor import ExecutorKind
from tasker.executors.stop import StopSignal
from tasker.hosting.delegation import (
    STEP_FAILED,
    STEP_SUCCEEDED,
    exception_message,
    success_message,
    unexplained_message,
)
from tasker.hosting.host import find_host, host_of
from tasker.hosting.messages import LOCAL
from tasker.hosting.resident import RUN_EXECUTORS
from tasker.hosting.roles import ORCHESTRATION_QUEUE, Role
from tasker.hosting.run import run_executors
from tasker.hosting.tick_watch import watch_ticks

if TYPE_CHECKING:
    from tasker.hosting.hosting import Hosting

DRAIN_EXECUTOR = "tasker.drain_executor"
COORDINATOR_TICK = "tasker.coordinator_tick"
CREATE = "tasker.create"

DATABASE_AWAY = (psycopg.OperationalError, CircuitOpen)
LONGEST_WAIT_SECONDS = 30
"""Between two attempts to post an outcome."""


class Tasks:
    """The tasks of one app.

    Args:
        hosting: the app, and the core of this process.
    """

    def __init__(self, hosting: Hosting) -> None:
        self._hosting = hosting

    def register(self) -> None:
        """Register them on the app."""
        app = self._hosting.app

        def task(name: str, function: Any, **options: Any) -> None:
            # Of this app alone: Celery would share them with all that there are in a program.
            app.task(function, name=name, shared=False, **options)

        # As plain functions: Celery reads their signatures, and sees through no bound methods.
        def run_executors(self: Any, kind: str, queues: Sequence[str]) -> dict[str, Any]:
            return tasks.run_executors(self.request, kind, queues)

        def drain_executor(self: Any, kind: str) -> int:
            return tasks.drain_executor(self.request, kind)

        def coordinator_tick() -> dict[str, Any]:
            return tasks.coordinator_tick()

        def create(self: Any, namespace: str, name: str, context: Any = None, **options: Any) -> str:
            return tasks.create(self.request, namespace, name, context, **options)

        def step_succeeded(result: Any, *, step: Mapping[str, Any]) -> None:
            tasks.step_succeeded(result, step=step)

        def step_failed(
            request: Any,
            error: BaseException | None = None,
            traceback: Any = None,
            *,
            step: Mapping[str, Any],
            outcome: Mapping[str, Any] | None = None,
        ) -> None:
            tasks.step_failed(request, error, step=step, outcome=outcome)

        tasks = self
        # Late, for those that no broker delivered: how their slots learn that they ended. See ExecutorRequest.
        task(
            RUN_EXECUTORS,
            run_executors,
            bind=True,
            acks_late=True,
            Request="tasker.hosting.request:ExecutorRequest",
            time_limit=None,
            soft_time_limit=None,
        )
        task(DRAIN_EXECUTOR, drain_executor, bind=True)
        task(COORDINATOR_TICK, coordinator_tick)
        # These must happen, and twice does no harm: a task's identity is its message's, an outcome has its fence.
        surely = {"acks_late": True, "reject_on_worker_lost": True}
        task(CREATE, create, bind=True, **surely)
        patiently = {
            "autoretry_for": DATABASE_AWAY,
            "retry_backoff": True,
            "retry_backoff_max": LONGEST_WAIT_SECONDS,
            "max_retries": None,
        }
        task(STEP_SUCCEEDED, step_succeeded, **surely, **patiently)
        task(STEP_FAILED, step_failed, **surely, **patiently)

    # -- executors ------------------------------------------------------------------------------------------------

    def run_executors(self, request: Any, kind: str, namespaces: Sequence[str]) -> dict[str, Any]:
        """Run executors of ``kind`` in the worker slot of this task; the loop's statistics.

        Args:
            request: Celery's.
            kind: an executor kind, ``orchestration`` for all five kinds that run no steps, or ``all``.
            namespaces: whose steps they run.
        """
        host = host_of(request.hostname)
        role = Role(kind, tuple(namespaces))
        core = self._hosting.process.get()
        if any(kind != ExecutorKind.STEP_EXECUTOR for kind in role.kinds):
            watch_ticks(core, host, self.coordinator_tick)
        requested = (request.delivery_info or {}).get("routing_key") != LOCAL
        return run_executors(core, host, role, host.board.find(request.id), requested=requested)

    def drain_executor(self, request: Any, kind: str) -> int:
        """Drain one orchestration kind until it finds nothing more; how many items there were."""
        host = find_host(request.hostname or "")
        stop = StopSignal() if host is None else host.stop
        loop = self._hosting.process.get().build_loop(
            [ExecutorKind(kind)], stop=stop, worker=request.hostname or "celery"
        )
        total = 0
        try:
            while not stop.is_set() and (taken := loop.drain_all()):
                total += taken
            return total
        finally:
            loop.close()
            if host is None:
                stop.close()

    def coordinator_tick(self) -> dict[str, Any]:
        """One tick of the coordinator, unless there was one just now; what it did."""
        return asdict(self._hosting.coordinator().tick())

    # -- workflows ------------------------------------------------------------------------------------------------

    def create(self, request: Any, namespace: str, name: str, context: Any, **options: Any) -> str:
        """Create a workflow's task; its uuid.

        Where the workflow leaves identity open and no key is given, the message's id is the key, so that a message
        that is delivered twice makes one task.

        Args:
            request: Celery's.
            namespace: the workflow's namespace.
            name: the workflow's name.
            context: what it is started with.
            options: as for ``Tasker.create``; ``run_at`` as an ISO 8601 text.
        """
        if isinstance(options.get("run_at"), str):
            options["run_at"] = dt.datetime.fromisoformat(options["run_at"])
        options.setdefault("requested_by", request.origin)
        client = self._hosting.client()
        if options.get("identity_key") is None and options.get("identity_strategy") is None:
            try:
                handle = client.create(namespace, name, context, **{**options, "identity_key": f"celery:{request.id}"})
                return str(handle.task_uuid)
            except InvalidRequest as error:
                if error.field != "identity_key":
                    raise
        return str(client.create(namespace, name, context, **options).task_uuid)

    def step_succeeded(self, result: Any, *, step: Mapping[str, Any]) -> None:
        """Post the outcome of a step whose Celery task returned ``result``."""
        core = self._hosting.process.get()
        self._hosting.post(success_message(step, result, max_bytes=core.settings.system.max_result_bytes))

    def step_failed(
        self,
        request: Any,
        error: BaseException | None,
        *,
        step: Mapping[str, Any],
        outcome: Mapping[str, Any] | None = None,
    ) -> None:
        """Post the outcome of a step whose Celery task failed.

        Args:
            request: Celery's, when called in the worker that ran the task; else the task's id: then what went wrong
                is in the result backend, if the apps share one.
            error: what the task raised, if that is known.
            step: which run of which step.
            outcome: what to post, where it is known already.
        """
        if outcome is not None:
            self._hosting.post(outcome)
        elif error is None:
            found = self._hosting.steps.error_of(str(request))
            self._hosting.post(unexplained_message(step) if found is None else exception_message(step, found))
        else:
            outcome = exception_message(step, error)
            try:
                self._hosting.post(outcome)
            except DATABASE_AWAY:
                # Called by the task that failed, so nobody repeats this call. A message can wait.
                task_id = getattr(request, "id", None)
                self._hosting.app.send_task(
                    STEP_FAILED, (task_id,), {"step": dict(step), "outcome": outcome}, queue=ORCHESTRATION_QUEUE
                )
