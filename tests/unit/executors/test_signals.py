"""Stop signal, wake pipe and grace period, across threads and forks."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tasker.executors.grace import GracePeriod
from tasker.executors.stop import StopSignal
from tasker.executors.wake import WakePipe, wait_readable


def test_a_stop_signal_set_in_a_child_is_seen_by_its_parent_and_siblings() -> None:
    stop = StopSignal()
    child = os.fork()
    if child == 0:
        stop.set()
        os._exit(0)
    os.waitpid(child, 0)
    assert stop.is_set()
    assert wait_readable([stop], 5)
    sibling = os.fork()
    if sibling == 0:
        os._exit(0 if stop.is_set() and wait_readable([stop], 5) else 1)
    assert os.waitpid(sibling, 0)[1] == 0
    stop.close()


def test_a_stop_signal_can_be_set_often_and_stays_readable() -> None:
    stop = StopSignal()
    assert not wait_readable([stop], 0)
    for _ in range(100_000):
        stop.set()
    assert wait_readable([stop], 0)
    assert wait_readable([stop], 0)
    stop.close()
    stop.close()


def test_a_wake_ends_the_present_or_the_next_wait() -> None:
    pipe = WakePipe()
    pipe.wake()
    pipe.wake()
    assert wait_readable([pipe], 5)
    pipe.clear()
    assert not wait_readable([pipe], 0)

    threading.Timer(0.05, pipe.wake).start()
    assert wait_readable([pipe], 20)
    pipe.close()


def test_a_wake_after_close_does_nothing() -> None:
    pipe = WakePipe()
    pipe.close()
    pipe.wake()
    pipe.clear()
    pipe.close()


def test_a_full_pipe_never_blocks_the_waker() -> None:
    pipe = WakePipe()
    for _ in range(200_000):
        pipe.wake()
    pipe.clear()
    assert not wait_readable([pipe], 0)
    pipe.close()


def test_the_grace_period_begins_with_the_signal() -> None:
    stop = StopSignal()
    grace = GracePeriod(stop, 60)
    assert not grace.begun
    assert not grace.over()
    assert grace.remaining() == float("inf")
    stop.set()
    assert grace.begun
    assert 0 < grace.remaining() <= 60
    stop.close()


def test_who_sees_the_signal_late_does_not_lengthen_the_period_that_it_allows() -> None:
    stop = StopSignal()
    grace = GracePeriod(stop, 0)
    stop.set()
    grace.begin(60)
    assert grace.over()
    stop.close()


def test_the_grace_period_can_begin_for_another_reason_and_only_once() -> None:
    stop = StopSignal()
    grace = GracePeriod(stop, 60)
    grace.begin(0)
    grace.begin(60)
    assert grace.over()
    stop.close()


@pytest.mark.parametrize("begun", [False, True])
def test_a_sleep_ends_with_the_signal_or_the_period(begun: bool) -> None:
    stop = StopSignal()
    grace = GracePeriod(stop, 0.05)
    if begun:
        grace.begin()
    else:
        threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    grace.sleep(60)
    assert time.monotonic() - began < 30
    stop.close()
