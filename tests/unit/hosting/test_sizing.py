"""How a worker's executors and its pool follow each other, whoever resizes: remote control, or the coordinator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasker.hosting.host import WorkerHost
from tasker.hosting.sizing import WorkerSize


class _Pool:
    """A prefork pool: as many processes as ``busy`` says run executors.

    As Celery's, it refuses half-way, and takes processes again that are on their way out.
    """

    def __init__(self, processes: int) -> None:
        self.num_processes = processes
        self.busy = 0
        self.processes = [SimpleNamespace(_controlled_termination=False) for _ in range(processes)]
        self.jobs: dict[int, SimpleNamespace] = {}
        self._pool = SimpleNamespace(
            _pool=self.processes, _cache=self.jobs, _iterinactive=lambda: iter(self.processes[self.busy :])
        )

    def grow(self, count: int) -> None:
        self.num_processes += count
        self.processes += [SimpleNamespace(_controlled_termination=False) for _ in range(count)]

    def shrink(self, count: int) -> None:
        idle = self.processes[self.busy :]
        for process in idle[:count]:
            self.num_processes -= 1
            process._controlled_termination = True
        if len(idle) < count:
            raise ValueError("Can't shrink pool. All processes busy!")

    def bury(self) -> None:
        """Processes that were on their way out have ended."""
        self.processes[:] = [process for process in self.processes if not process._controlled_termination]


class _Worker:
    """One with two executors and a spare slot, that may grow to ``most`` executors."""

    def __init__(self, most: int = 0, autoscaler: object = None) -> None:
        self.pool = _Pool(3)
        self.pool.busy = 2
        self.prefetched = 3
        self.adapted: list[int] = []
        self.host = WorkerHost("w@test", "prefork", executor_slots=2, spare_slots=1)
        consumer = SimpleNamespace(
            pool=self.pool,
            controller=SimpleNamespace(autoscaler=autoscaler, pool=self.pool),
            _update_prefetch_count=self._prefetch,
        )
        self.size = WorkerSize(
            self.host, consumer, most=most, spare=1, adapt=lambda: self.adapted.append(self.host.executor_slots)
        )

    def _prefetch(self, more: int) -> None:
        self.prefetched += more

    @property
    def slots(self) -> tuple[int, int]:
        return self.host.executor_slots, self.host.spare_slots


def test_what_was_taken_from_the_spare_slots_comes_back_to_them() -> None:
    worker = _Worker()
    worker.pool.busy = 1
    worker.pool.shrink(2)
    worker.pool.bury()
    worker.size.follow()
    assert (worker.pool.num_processes, worker.slots) == (1, (1, 0))
    for slots in ((1, 1), (2, 1), (3, 1)):
        worker.pool.grow(1)
        worker.size.follow()
        assert worker.slots == slots


def test_processes_that_run_executors_leave_the_pool_when_executors_have_left_them() -> None:
    worker = _Worker()
    worker.pool.grow(1)
    worker.pool.busy = 3
    worker.pool.shrink(2)  # as `control pool_shrink` does
    assert worker.pool.num_processes == 3
    worker.size.follow()
    assert worker.slots == (1, 1)
    worker.size.tend()
    assert worker.pool.num_processes == 3
    worker.pool.busy = 1
    worker.size.tend()  # the one that goes has not gone
    assert worker.pool.num_processes == 3
    worker.pool.bury()
    worker.size.tend()
    worker.pool.bury()
    worker.size.tend()
    assert (worker.pool.num_processes, len(worker.pool.processes)) == (2, 2)
    worker.size.follow()
    assert worker.slots == (1, 1)


def test_no_process_is_taken_while_one_is_given_a_task() -> None:
    worker = _Worker()
    job = worker.pool.jobs[0] = SimpleNamespace(_write_to=worker.pool.processes[2], _accepted=False)
    worker.pool.shrink(1)
    assert worker.pool.num_processes == 3
    job._accepted = True
    worker.size.tend()
    assert worker.pool.num_processes == 2


@pytest.mark.parametrize("count", [0, -1, 2, 99])
def test_a_pool_keeps_a_process_and_does_not_grow_by_shrinking(count: int) -> None:
    worker = _Worker()
    worker.pool.shrink(1)
    worker.pool.bury()
    with pytest.raises(ValueError, match=f"cannot take {count} of 2"):
        worker.pool.shrink(count)
    worker.size.tend()
    assert worker.pool.num_processes == 2


def test_an_autoscaling_pool_refuses_as_ever() -> None:
    worker = _Worker(autoscaler=SimpleNamespace(min_concurrency=3, max_concurrency=5))
    worker.pool.busy = 3
    with pytest.raises(ValueError, match="All processes busy"):
        worker.pool.shrink(1)
    worker.pool.busy = 0
    worker.size.tend()
    assert worker.pool.num_processes == 3


def test_a_worker_is_resized_within_its_bounds_and_keeps_its_spare_slot() -> None:
    worker = _Worker(most=4)
    assert [worker.size.set(executors) for executors in (3, 99, 4)] == [3, 4, 4]
    assert (worker.pool.num_processes, worker.slots, worker.prefetched) == (5, (4, 1), 5)
    worker.pool.busy = 4
    assert worker.size.set(0) == 2
    worker.size.tend()
    worker.pool.bury()
    worker.size.tend()
    # One process did nothing; of the others, one may go as soon as it runs no executor.
    assert (worker.pool.num_processes, worker.slots, worker.prefetched) == (4, (2, 1), 3)
    assert worker.size.set(3) == 3
    worker.size.tend()
    assert (worker.pool.num_processes, worker.slots, worker.prefetched) == (4, (3, 1), 4)
    assert worker.adapted == [3, 4, 2, 3]


def test_a_resized_worker_whose_pool_was_shrunk_by_hand_gets_its_spare_slot_back() -> None:
    worker = _Worker(most=4)
    worker.pool.busy = 0
    worker.pool.shrink(2)
    worker.size.follow()
    assert worker.slots == (1, 0)
    assert worker.size.set(2) == 2
    worker.size.follow()
    assert (worker.pool.num_processes, worker.slots) == (3, (2, 1))
