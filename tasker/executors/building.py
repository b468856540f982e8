"""Making executors and their loop out of what a process has: settings, database, registries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.config.settings import Settings
from tasker.database.connection import Database
from tasker.executors.admission import AdmissionControl
from tasker.executors.base import RegisteredExecutor
from tasker.executors.delegation import StepSender
from tasker.executors.executor import ExecutorKind
from tasker.executors.grace import GracePeriod
from tasker.executors.heartbeat import Heartbeat
from tasker.executors.idle import IdleSchedule
from tasker.executors.link import Link
from tasker.executors.loop import DEFAULT_GRACE_SECONDS, ExecutorLoop, Slot, Subscribe, Subscription
from tasker.executors.progress import stall_seconds
from tasker.executors.step_enqueuer import StepEnqueuer
from tasker.executors.step_events import EventSink
from tasker.executors.step_executor import StepExecutor, StepLimits
from tasker.executors.step_result_processor import Revoke, StepResultProcessor
from tasker.executors.task_claimer import TaskClaimer
from tasker.executors.task_finalizer import TaskFinalizer
from tasker.executors.task_request_processor import TaskRequestProcessor
from tasker.executors.wake import Raised, WakePipe
from tasker.handlers.registry import HandlerRegistry
from tasker.hooks.completion import CompletionHooks
from tasker.hooks.events import Publishing
from tasker.messaging.listener import Listener
from tasker.messaging.queues import channel_name
from tasker.resilience.circuits import CircuitBreakers
from tasker.workflows.registry import TemplateRegistry


@dataclass(frozen=True, slots=True)
class LoopBuilder:
    """What executors are made of.

    Attributes:
        settings: all settings.
        database: where they work.
        handlers: finds the code of steps.
        templates: knows the schemas of contexts and results.
        hooks: runs completion hooks.
        circuits: the process's circuits.
        listener: hears notifications; ``None`` leaves executors to polling.
        send: sends steps that are Celery tasks.
        revoke: revokes them.
    """

    settings: Settings
    database: Database
    handlers: HandlerRegistry
    templates: TemplateRegistry
    hooks: CompletionHooks
    circuits: CircuitBreakers
    listener: Listener | None
    send: StepSender | None
    revoke: Revoke | None

    def build(
        self,
        kinds: Sequence[ExecutorKind],
        queues: Sequence[str],
        *,
        stop: Raised,
        yield_signal: Raised | None,
        worker: str,
        grace_seconds: float | None = None,
        sink: EventSink | None = None,
        requested: bool = False,
    ) -> ExecutorLoop:
        """A loop over one executor of each of ``kinds``. Nothing is opened or registered before it runs."""
        seconds = DEFAULT_GRACE_SECONDS if grace_seconds is None else grace_seconds
        grace = GracePeriod(stop, seconds)

        def link(purpose: str) -> Link:
            return Link(
                self.database,
                name=f"tasker {purpose}",
                circuit=self.circuits.get("database"),
                give_up=grace.over,
                sleep=grace.sleep,
                patience=grace.patience,
            )

        shared_link = link("orchestration")
        executors: list[RegisteredExecutor] = []
        for kind in dict.fromkeys(kinds):
            if kind is ExecutorKind.STEP_EXECUTOR:
                executors.append(self._step_executor(tuple(queues), worker=worker, stop=stop, grace=grace, sink=sink))
            else:
                executors.append(
                    self._orchestration(kind, worker=worker, link=shared_link, grace=grace, make_link=link)
                )
        for executor in executors:
            executor.stall_seconds = stall_seconds(self.settings, executor.kind)
            executor.requested = requested
        orchestration = self.settings.orchestration
        heartbeat = Heartbeat(
            executors,
            database=self.database,
            circuit=self.circuits.get("database"),
            interval_seconds=orchestration.heartbeat_interval_seconds,
            # One heartbeat that is not answered, and another one, before the lease is over.
            patience_seconds=(orchestration.executor_lease_seconds - orchestration.heartbeat_interval_seconds) / 2,
        )
        return ExecutorLoop(
            [self._slot(executor) for executor in executors],
            stop=stop,
            wake=WakePipe(),
            heartbeat=heartbeat,
            yield_signal=yield_signal,
            subscribe=self._subscribe(),
            grace_seconds=seconds,
        )

    def _slot(self, executor: RegisteredExecutor) -> Slot:
        pool = self.settings.executor_pools[executor.kind]
        schedule = IdleSchedule(pool.polling_interval_ms / 1000, pool.max_polling_interval_ms / 1000)
        threshold = pool.circuit_breaker_threshold if pool.circuit_breaker_enabled else None
        return Slot(executor, batch_size=pool.batch_size, schedule=schedule, failure_threshold=threshold)

    def _subscribe(self) -> Subscribe | None:
        listener = self.listener
        if listener is None:
            return None

        def subscribe(queue: str, poke: Callable[[], None]) -> Subscription:
            return listener.subscribe(channel_name(queue), poke)

        return subscribe

    def _step_executor(
        self, queues: tuple[str, ...], *, worker: str, stop: Raised, grace: GracePeriod, sink: EventSink | None
    ) -> StepExecutor:
        system = self.settings.system
        return StepExecutor(
            queues,
            database=self.database,
            worker=worker,
            handlers=self.handlers,
            circuit=self.circuits.get("database"),
            circuits=self.circuits,
            stop=stop,
            grace=grace,
            limits=StepLimits(
                batch_size=self.settings.executor_pools.step_executor.batch_size,
                max_result_bytes=system.max_result_bytes,
                max_claim_bytes=system.max_claim_bytes,
            ),
            send=self.send,
            sink=sink,
        )

    def _orchestration(
        self,
        kind: ExecutorKind,
        *,
        worker: str,
        link: Link,
        grace: GracePeriod,
        make_link: Callable[[str], Link],
    ) -> RegisteredExecutor:
        orchestration, pgmq = self.settings.orchestration, self.settings.pgmq
        pool: Any = self.settings.executor_pools[kind]
        shared: dict[str, Any] = {
            "worker": worker,
            "link": link,
            "grace": grace,
            "processing_timeout_ms": pool.processing_timeout_ms,
        }
        reading: dict[str, Any] = {
            "visibility_timeout_seconds": pgmq.visibility_timeout_seconds,
            "max_receive_count": pgmq.max_receive_count,
            "max_message_bytes": pgmq.max_message_bytes,
        }
        match kind:
            case ExecutorKind.TASK_REQUEST_PROCESSOR:
                return TaskRequestProcessor(templates=self.templates, **reading, **shared)
            case ExecutorKind.TASK_CLAIMER:
                seconds = orchestration.default_claim_timeout_seconds
                return TaskClaimer(
                    templates=self.templates,
                    claim_timeout_seconds=seconds,
                    admission=AdmissionControl(self.settings),
                    **shared,
                )
            case ExecutorKind.STEP_ENQUEUER:
                return StepEnqueuer(**shared)
            case ExecutorKind.STEP_RESULT_PROCESSOR:
                return StepResultProcessor(
                    templates=self.templates,
                    revoke=self.revoke,
                    circuits=self.circuits,
                    handlers=self.handlers,
                    max_result_bytes=self.settings.system.max_result_bytes,
                    **reading,
                    **shared,
                )
            case ExecutorKind.TASK_FINALIZER:
                return TaskFinalizer(
                    hooks=self.hooks,
                    publishing=lambda count: Publishing(self.handlers, self.settings.system.max_result_bytes, count),
                    claim_timeout_seconds=orchestration.finalization_claim_timeout_seconds,
                    keeper_link=lambda: make_link("claim keeper"),
                    **shared,
                )
            case ExecutorKind.STEP_EXECUTOR:
                raise ValueError("step executors are made by _step_executor")
