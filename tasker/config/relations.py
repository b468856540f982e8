"""Rules between settings that are each valid alone: every rule with the reason why it must hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasker.config.sections import PoolSettings

if TYPE_CHECKING:
    from tasker.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Violation:
    """Two settings that contradict each other.

    Attributes:
        keys: dotted names of all settings involved, the one to blame first.
        message: what is wrong, and what is allowed.
    """

    keys: tuple[str, ...]
    message: str


def violations(settings: Settings) -> Iterator[Violation]:
    """All contradictions in ``settings``."""
    yield from _liveness(settings)
    yield from _executor_pools(settings)
    yield from _database(settings)
    yield from _messages(settings)
    yield from _sizes(settings)
    yield from _celery_steps(settings)


def _liveness(settings: Settings) -> Iterator[Violation]:
    orchestration = settings.orchestration
    heartbeat, lease = orchestration.heartbeat_interval_seconds, orchestration.executor_lease_seconds
    if lease < 3 * heartbeat:
        yield Violation(
            ("orchestration.executor_lease_seconds", "orchestration.heartbeat_interval_seconds"),
            f"must be at least three heartbeats ({3 * heartbeat:g} s): one late heartbeat would cost a living executor"
            " its steps",
        )
    claimer = settings.executor_pools.task_claimer.processing_timeout_ms
    if orchestration.default_claim_timeout_seconds * 1000 <= claimer:
        yield Violation(
            ("orchestration.default_claim_timeout_seconds", "executor_pools.task_claimer.processing_timeout_ms"),
            f"must be above executor_pools.task_claimer.processing_timeout_ms ({claimer} ms): a claim would expire"
            " during the drain that holds it",
        )
    finalizer = settings.executor_pools.task_finalizer.processing_timeout_ms
    if orchestration.finalization_claim_timeout_seconds * 1000 < finalizer:
        yield Violation(
            ("orchestration.finalization_claim_timeout_seconds", "executor_pools.task_finalizer.processing_timeout_ms"),
            f"must be at least executor_pools.task_finalizer.processing_timeout_ms ({finalizer} ms): a claim would"
            " expire during the drain that holds it",
        )


def _executor_pools(settings: Settings) -> Iterator[Violation]:
    for kind, pool in settings.executor_pools.by_kind():
        prefix = f"executor_pools.{kind}"
        if pool.min_executors > pool.max_executors:
            yield Violation(
                (f"{prefix}.min_executors", f"{prefix}.max_executors"),
                f"must not be above {prefix}.max_executors ({pool.max_executors})",
            )
        if pool.polling_interval_ms > pool.max_polling_interval_ms:
            yield Violation(
                (f"{prefix}.polling_interval_ms", f"{prefix}.max_polling_interval_ms"),
                f"must not be above {prefix}.max_polling_interval_ms ({pool.max_polling_interval_ms})",
            )


def _database(settings: Settings) -> Iterator[Violation]:
    statement = settings.database.statement_timeout_ms
    if settings.database.answer_timeout_seconds * 1000 <= statement:
        yield Violation(
            ("database.answer_timeout_seconds", "database.statement_timeout_ms"),
            f"must be above database.statement_timeout_ms ({statement} ms): a slow statement would be taken for a dead"
            " network, and be repeated while it runs",
        )
    pool = settings.database.pool
    if pool.min_connections > pool.max_connections:
        yield Violation(
            ("database.pool.min_connections", "database.pool.max_connections"),
            f"must not be above database.pool.max_connections ({pool.max_connections})",
        )
    if pool.idle_timeout_seconds > pool.max_lifetime_seconds:
        yield Violation(
            ("database.pool.idle_timeout_seconds", "database.pool.max_lifetime_seconds"),
            f"must not be above database.pool.max_lifetime_seconds ({pool.max_lifetime_seconds:g})",
        )
    retention = settings.database.retention
    if retention.audit_days and not 0 < retention.finished_task_days <= retention.audit_days:
        kept = f"{retention.finished_task_days:g} days" if retention.finished_task_days else "0, for ever"
        yield Violation(
            ("database.retention.audit_days", "database.retention.finished_task_days"),
            f"must not be below database.retention.finished_task_days ({kept}): a finished task would be shown without"
            " its history; 0 keeps history for ever",
        )


def _messages(settings: Settings) -> Iterator[Violation]:
    for kind in ("task_request_processor", "step_result_processor", "task_finalizer"):
        pool = settings.executor_pools[kind]
        assert isinstance(pool, PoolSettings)
        if settings.pgmq.visibility_timeout_seconds * 1000 <= pool.processing_timeout_ms:
            key = f"executor_pools.{kind}.processing_timeout_ms"
            yield Violation(
                ("pgmq.visibility_timeout_seconds", key),
                f"must be above {key} ({pool.processing_timeout_ms} ms): a message would come back while it is still"
                " worked on",
            )
        if pool.batch_size > settings.pgmq.max_batch_size:
            yield Violation(
                (f"executor_pools.{kind}.batch_size", "pgmq.max_batch_size"),
                f"must not be above pgmq.max_batch_size ({settings.pgmq.max_batch_size})",
            )


def _sizes(settings: Settings) -> Iterator[Violation]:
    system = settings.system
    for name in ("max_context_bytes", "max_result_bytes"):
        size: int = getattr(system, name)
        if size > system.max_claim_bytes:
            yield Violation(
                (f"system.{name}", "system.max_claim_bytes"),
                f"must not be above system.max_claim_bytes ({system.max_claim_bytes})",
            )
        if size > settings.pgmq.max_message_bytes:
            yield Violation(
                (f"system.{name}", "pgmq.max_message_bytes"),
                f"must not be above pgmq.max_message_bytes ({settings.pgmq.max_message_bytes}): requests and results"
                " travel as messages",
            )
    if system.backoff.base_seconds > system.backoff.max_seconds:
        yield Violation(
            ("system.backoff.base_seconds", "system.backoff.max_seconds"),
            f"must not be above system.backoff.max_seconds ({system.backoff.max_seconds:g})",
        )


def _celery_steps(settings: Settings) -> Iterator[Violation]:
    steps = settings.engine.celery_steps
    if steps.result_backend is not None and not steps.is_other_app:
        yield Violation(
            ("engine.celery_steps.result_backend", "engine.celery_steps.broker_url"),
            "means nothing without engine.celery_steps.broker_url or config_module: steps go through Tasker's own"
            " Celery app, whose result_backend stands in celeryconfig.py",
        )
