"""Boot steps: what the worker and its consumer do for executors when they start, reconnect and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery import bootsteps

from tasker.hosting.event_publisher import EventPublisher
from tasker.hosting.host import find_host
from tasker.hosting.pools import PREFORK, SOLO, THREADS, spare_handed_over, stop_between_tasks
from tasker.hosting.resident import CHECK_SECONDS, ResidentExecutors
from tasker.hosting.run import close_kept
from tasker.hosting.sizing import WorkerSize


class StopExecutors(bootsteps.StartStopStep):
    """Sets the stop signal whenever the worker ends, also by ``control shutdown``, which sends no Celery signal."""

    label = "Tasker: stop"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._host = host = find_host(worker.hostname)
        if host is None:
            return
        # A soft shutdown first sleeps, then sends its signal: executors would work on through the sleep.
        wait = worker.wait_for_soft_shutdown

        def wait_for_soft_shutdown() -> Any:
            self._stop()
            # On a solo worker the thread that would sleep is the one that works.
            answer = None if host.pool == SOLO else wait()
            host.cold.value = 1
            return answer

        worker.wait_for_soft_shutdown = wait_for_soft_shutdown

    def include_if(self, worker: Any) -> bool:
        """Only workers of an app on which Tasker was installed."""
        return self._host is not None

    def create(self, worker: Any) -> None:
        """The pool has been made: be told when it has ended, at a warm end."""
        host, stop = self._host, worker.pool.stop
        assert host is not None

        def stop_pool() -> None:
            stop()
            host.pool_ended = True

        worker.pool.stop = stop_between_tasks(worker.pool, stop_pool) if host.pool == THREADS else stop_pool

    def close(self, worker: Any) -> None:
        """Before the pool waits for its tasks."""
        self._stop()

    def stop(self, worker: Any) -> None:
        """At a warm end."""
        self._stop()
        close_kept(worker.hostname)

    def terminate(self, worker: Any) -> None:
        """At a cold end."""
        self._stop()
        if self._host is not None:
            self._host.cold.value = 1
        close_kept(worker.hostname)

    def _stop(self) -> None:
        if self._host is not None:
            self._host.stop.set()


class HostExecutors(bootsteps.StartStopStep):
    """Fills the worker's slots with executors while its consumer runs, and again after each reconnect."""

    label = "Tasker: executors"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._host = find_host(consumer.hostname)
        self._timer: Any = None
        self._adopted = False
        self.residents: ResidentExecutors | None = None
        self.publisher: EventPublisher | None = None
        self.sizing: WorkerSize | None = None
        """What can be changed of its size, once it consumes."""
        if self._host is not None:
            self.residents = ResidentExecutors(self._host, consumer)
            if self._host.pool == PREFORK:
                _yield_at_restart(consumer.pool, self.residents)
            self.publisher = EventPublisher(self._host, consumer.app)

    def include_if(self, consumer: Any) -> bool:
        """Only workers of an app on which Tasker was installed."""
        return self._host is not None

    def start(self, consumer: Any) -> None:
        """Tasks can be consumed. With an event loop, the pool cannot take any yet: see below."""
        assert self._host is not None
        self._host.detached.value = 0
        if self._host.pool == PREFORK and not self._adopted:
            # Celery makes this method of the pool when it starts.
            self._adopted = True
            assert self.residents is not None
            consumer.pool.flush = spare_handed_over(consumer.pool, self.residents.requests)
        if consumer.hub is None:
            self._attach(consumer, consumer.timer)

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """The event loop is about to run, and the pool has been registered with it."""
        assert self._host is not None
        self._host.main_loop = lambda: tuple(hub.readers)
        self._attach(consumer, hub.timer, hub)

    def stop(self, consumer: Any) -> None:
        """The broker's connection was lost, or the worker ends."""
        assert self._host is not None
        assert self.residents is not None
        self._host.detached.value = 1
        self.residents.detach()
        if self._timer is not None:
            consumer.timer.cancel(self._timer)
            self._timer = None

    def _attach(self, consumer: Any, timer: Any, hub: Any = None) -> None:
        assert self._host is not None
        assert self.residents is not None
        assert self.publisher is not None
        residents, publisher = self.residents, self.publisher

        loop_thread = threading.get_ident()

        def call_later(seconds: float, function: Callable[[], Any]) -> None:
            if hub is None or threading.get_ident() == loop_thread:
                timer.call_after(seconds, function)
            else:
                # The timer belongs to the loop's thread, which this also wakes.
                hub.call_soon(timer.call_after, seconds, function)

        def look() -> None:
            # Celery tells nobody that events are switched on or off.
            publisher.heed(consumer.event_dispatcher)
            residents.check()
            if self.sizing is not None:
                self.sizing.tend()

        publisher.heed(consumer.event_dispatcher)
        residents.attach(call_later)
        self._timer = timer.call_repeatedly(CHECK_SECONDS, look)


def hosting_step(consumer: Any) -> HostExecutors | None:
    """What hosts executors in a worker's consumer."""
    return next((step for step in consumer.steps if isinstance(step, HostExecutors)), None)


def _yield_at_restart(pool: Any, residents: ResidentExecutors) -> None:
    """Have ``control pool_restart`` reach processes whose executor would run on for minutes."""
    restart = pool.restart

    def restart_all() -> None:
        restart()
        residents.restart()

    pool.restart = restart_all
