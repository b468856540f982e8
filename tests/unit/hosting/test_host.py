"""What a worker shares with its pool follows the pool and the queues, as remote control changes them."""

from __future__ import annotations

import pytest

from tasker.hosting.host import WorkerHost


@pytest.mark.parametrize(
    ("sizes", "executors", "spare"),
    [
        ([4], 3, 1),
        ([1], 1, 0),
        # There and back again: what was taken from ordinary tasks is theirs again.
        ([1, 2], 1, 1),
        ([1, 4], 3, 1),
    ],
)
def test_executors_take_all_slots_but_the_spare_ones_and_one_at_least(
    sizes: list[int], executors: int, spare: int
) -> None:
    host = WorkerHost("w@test", "prefork", executor_slots=1, spare_slots=1)
    for size in sizes:
        host.resize(size, 1)
    assert (host.executor_slots, host.spare_slots) == (executors, spare)


def test_a_worker_of_all_queues_leaves_out_those_that_it_was_told_to_cancel() -> None:
    host = WorkerHost("w@test", "prefork", executor_slots=1, every_queue_but=frozenset({"b"}))
    assert host.also_consumed(["a", "b", "c"]) == {"a", "c"}
    host.leave_out("c")
    assert host.also_consumed(["a", "b", "c", "d"]) == {"a", "d"}


def test_a_worker_of_named_queues_consumes_no_others() -> None:
    host = WorkerHost("w@test", "prefork", executor_slots=1)
    host.leave_out("a")
    assert host.also_consumed(["a", "b"]) == set()
