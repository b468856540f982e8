"""Which of Celery's pools can host executors, and making room in them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from celery import concurrency
from celery.worker import state

from tasker.errors import ConfigurationError

logger = logging.getLogger(__name__)

PREFORK, THREADS, SOLO = "prefork", "threads", "solo"
FIT = frozenset({PREFORK, THREADS, SOLO})
"""The pools that can host executors."""

_MODULES = {
    "celery.concurrency.prefork": PREFORK,
    "celery.concurrency.thread": THREADS,
    "celery.concurrency.solo": SOLO,
}


def pool_of(worker: Any) -> str:
    """``prefork``, ``threads``, ``solo``, or the module of another pool."""
    implementation = concurrency.get_implementation(worker.pool_cls)
    module = str(getattr(implementation, "__module__", implementation))
    return _MODULES.get(module, module)


def refuse_unfit(worker: Any, pool: str) -> None:
    """Make sure that the worker's pool can host executors.

    Raises:
        ConfigurationError: it is another pool, or its processes are not forked and could not be told to stop.
    """
    if pool not in FIT:
        raise ConfigurationError(
            f"worker {worker.hostname} is to host executors, which its pool ({pool}) cannot",
            hint="use -P prefork, threads or solo, or let it consume plain Celery queues only (-Q)",
            field="worker_pool",
        )
    if pool != PREFORK and _autoscale(worker) is not None:
        # Celery would end the worker with the first task beyond the fewest slots.
        raise ConfigurationError(
            f"worker {worker.hostname} is to scale its pool, which {pool} cannot",
            hint="use -c with a fixed number of slots, or -P prefork",
            field="worker_autoscaler",
        )
    spawned = getattr(worker, "pool_start_method", "fork") != "fork" or "FORKED_BY_MULTIPROCESSING" in os.environ
    if pool == PREFORK and spawned:
        raise ConfigurationError(
            f"worker {worker.hostname} is to host executors, which need pool processes that are forked: spawned ones "
            "inherit neither the flag nor the pipe by which they are told to stop",
            hint="set worker_pool_start_method = 'fork', or use -P threads",
            field="worker_pool_start_method",
        )
    if pool == PREFORK and worker.optimization in ("fast", "fcfs"):
        # It writes tasks into the pipes of processes that are busy, and an executor is busy for minutes.
        logger.warning(
            "Worker %s: -O%s is ignored, as executors occupy processes", worker.hostname, worker.optimization
        )
        worker.optimization = "fair"


def slots_of(worker: Any, pool: str) -> int:
    """How many slots the worker was asked for; of an autoscaling one, the fewest it has."""
    if pool == SOLO:
        return 1
    autoscale = _autoscale(worker)
    if autoscale is not None:
        return max(1, autoscale[1])
    if not isinstance(worker.concurrency, int):  # "auto", which Celery resolves a little later
        worker.pool_cls = concurrency.get_implementation(worker.pool_cls)
        worker._resolve_auto_concurrency()
    return int(worker.concurrency)


def size_of(worker: Any) -> int:
    """How many slots a worker's running prefork pool has, spare ones included; of an autoscaling one, the fewest.

    Remote control changes it: ``pool_grow``, ``pool_shrink``, ``autoscale``.
    """
    return int(worker.pool.num_processes if worker.autoscaler is None else worker.autoscaler.min_concurrency)


def add_slots(worker: Any, pool: str, count: int) -> int:
    """Add ``count`` slots to a worker that has not made its pool yet; how many were added."""
    if pool == SOLO:
        return 0
    autoscale = _autoscale(worker)
    if autoscale is None:
        worker.concurrency += count
    else:
        most, fewest = autoscale
        worker.options["autoscale"] = (most + count, max(1, fewest) + count)
    return count


def stop_between_tasks(pool: Any, stop: Callable[[], None]) -> Callable[[], None]:
    """Have a pool of threads stopped when no task is being handed to it; returns what stops it, instead of ``stop``.

    Celery stops the pool in the signal handler of a cold shutdown. If that interrupts the handing over of a task, both
    want the same lock, and the worker would wait for itself for ever.
    """
    apply, applying, asked = pool.on_apply, 0, False

    def on_apply(*arguments: Any, **options: Any) -> Any:
        nonlocal applying, asked
        applying = threading.get_ident()
        try:
            return apply(*arguments, **options)
        finally:
            applying = 0
            if asked:
                asked = False
                stop()

    def stop_pool() -> None:
        nonlocal asked
        if applying == threading.get_ident():
            asked = True
        else:
            stop()

    pool.on_apply = on_apply
    return stop_pool


def spare_handed_over(pool: Any, requests: Callable[[], Iterable[Any]]) -> Callable[[], None]:
    """What flushes a prefork pool, instead of its own ``flush``, and leaves alone some tasks that it has handed over.

    When the worker stops or loses its broker, Celery forgets tasks that no process has said to have begun, as the
    broker will deliver them again. Those that a process has been given run all the same. Then it waits for half a
    minute for a word that their end was heard of, and nobody fills the slot of a local one.

    Args:
        pool: the pool, started.
        requests: gives the requests to be left alone.
    """
    flush = pool.flush

    def flush_others() -> None:
        begun = [(request, job) for request in requests() if (job := _handed_over(request)) is not None]
        for _, job in begun:
            job._accepted = True
        try:
            flush()
        finally:
            for request, job in begun:
                job._accepted = False
                state.task_reserved(request)

    return flush_others


def _handed_over(request: Any) -> Any:
    """The pool's job of a request that was, at least in part, written to a process that has not begun it."""
    reference = request._apply_result
    job = None if reference is None else reference()
    if job is None or job._accepted or job._write_to is None or job.ready():
        return None
    return job


def _autoscale(worker: Any) -> tuple[int, int] | None:
    """The most and the fewest slots, as ``--autoscale`` says."""
    value = worker.options.get("autoscale")
    if not value:
        return None
    if isinstance(value, str):
        most, _, fewest = value.partition(",")
        return int(most), int(fewest or 0)
    most, fewest = value
    return int(most), int(fewest)
