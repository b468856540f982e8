"""What executors count, seen from the worker's main process."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from tasker.executors.counters import Counters
from tasker.hosting.tally import ROWS, Board, describe


class Executor:
    def __init__(self) -> None:
        self.counters = Counters()
        self.holds = 0


class Loop:
    def __init__(self, *executors: Executor) -> None:
        self.executors = executors


def loop_of(*executors: Executor) -> Any:
    return Loop(*executors)


def test_what_a_child_counts_is_seen_by_its_parent() -> None:
    board, task_id = Board(), str(uuid4())
    tally = board.allot()
    assert tally is not None
    tally.assign(task_id)
    assert tally.since is None
    pid = os.fork()
    if pid == 0:
        try:
            found = board.find(task_id)
            assert found is not None
            executor = Executor()
            found.follow(loop_of(executor))
            executor.holds = 3
            executor.counters.add(claimed=5, completed=2, unheard_of=1)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert (tally.counts["held"], tally.counts["claimed"], tally.counts["completed"]) == (3, 5, 2)
    described = describe("step_executor", ("shop",), tally)
    assert (described["kind"], described["namespaces"]) == ("step_executor", ["shop"])
    assert described["since"].endswith("+00:00")


def test_the_counts_of_all_executors_of_a_loop_are_added_up() -> None:
    board = Board()
    tally = board.allot()
    assert tally is not None
    one, other = Executor(), Executor()
    tally.follow(loop_of(one, other))
    one.counters.add(taken=1)
    other.counters.add(taken=2)
    assert tally.counts["taken"] == 3


def test_an_executor_whose_row_is_about_another_task_by_now_writes_no_more() -> None:
    board = Board()
    tally = board.allot()
    assert tally is not None
    tally.assign(str(uuid4()))
    executor = Executor()
    tally.follow(loop_of(executor))
    executor.counters.add(completed=1)
    tally.assign(str(uuid4()))
    executor.counters.add(completed=1)
    assert tally.counts["completed"] == 1


def test_where_all_rows_are_taken_there_is_nothing_to_tell_until_one_is_free() -> None:
    board = Board()
    tallies = [board.allot() for _ in range(ROWS)]
    assert board.allot() is None
    assert describe("step_executor", (), None)["counts"] == {}
    last = tallies[-1]
    assert last is not None
    last.free()
    assert board.allot() is not None
    assert board.find(str(uuid4())) is None
