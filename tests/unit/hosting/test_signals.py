"""The signals between a worker and its pool: across forks, without locks, each request taken once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from tasker.executors.stop import StopSignal
from tasker.executors.wake import wait_readable
from tasker.hosting.termination import termination_caught
from tasker.hosting.watching import AnyOf, Readable
from tasker.hosting.yielding import YieldPipe


def in_child(work: Callable[[], bool]) -> bool:
    """Whether ``work`` returned true in a forked child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_stop_signal_set_after_the_fork_wakes_the_child() -> None:
    stop = StopSignal()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if wait_readable([stop], 10) and stop.is_set() else 1)
    stop.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_forked_later_sees_the_stop_signal() -> None:
    stop = StopSignal()
    stop.set()
    assert in_child(lambda: wait_readable([stop], 0) and stop.is_set())


def test_a_stop_signal_stays_set_however_often_it_is_looked_at() -> None:
    stop = StopSignal()
    assert not stop.is_set()
    assert not wait_readable([stop], 0)
    for _ in range(100_000):  # far more than a pipe holds, were each set to write
        stop.set()
    assert stop.is_set()
    assert wait_readable([stop], 0)
    stop.close()
    stop.close()


def test_one_request_to_yield_is_taken_by_one_executor() -> None:
    pipe = YieldPipe()
    tickets = [pipe.ticket() for _ in range(3)]
    assert not any(ticket.is_set() for ticket in tickets)
    pipe.ask()
    assert [ticket.is_set() for ticket in tickets] == [True, False, False]
    # It remembers, for the rest of its run.
    assert tickets[0].is_set()
    pipe.close()


def test_a_request_to_yield_reaches_a_child_and_no_second_one() -> None:
    pipe = YieldPipe()
    pipe.ask()
    assert in_child(lambda: wait_readable([pipe.ticket()], 0) and pipe.ticket().is_set())
    assert not pipe.ticket().is_set()
    pipe.close()


def test_a_request_that_nobody_took_can_be_withdrawn() -> None:
    pipe = YieldPipe()
    pipe.ask()
    pipe.ask()
    assert pipe.withdraw() == 2
    assert pipe.withdraw() == 0
    assert not pipe.ticket().is_set()
    pipe.close()


@pytest.mark.parametrize("which", [0, 1])
def test_any_of_several_signals_is_raised_and_readable_with_each(which: int) -> None:
    signals = [StopSignal(), StopSignal()]
    either = AnyOf(*signals)
    assert not either.is_set()
    assert not wait_readable([either], 0)
    signals[which].set()
    assert either.is_set()
    assert wait_readable([either], 0)
    either.close()


def test_what_a_solo_worker_reads_raises_only_while_there_is_something() -> None:
    reader, writer = os.pipe()
    readable = Readable()
    readable.watch([reader])
    assert not readable.is_set()
    os.write(writer, b"x")
    assert wait_readable([readable], 0)
    assert readable.is_set()
    os.read(reader, 1)
    assert not readable.is_set()
    # After a reconnect other descriptors count, which may have the old ones' numbers.
    os.close(reader)
    os.close(writer)
    reader, writer = os.pipe()
    readable.watch([reader])
    os.write(writer, b"x")
    assert readable.is_set()
    readable.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_to_end_within_the_block_sets_ours_and_the_process_lives(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with termination_caught(lambda: 60) as stop:
        os.kill(os.getpid(), number)
        assert wait_readable([stop], 5)
        assert stop.is_set()
    assert signal.getsignal(number) is before


def test_a_process_that_goes_on_after_sigterm_ends_when_its_grace_does() -> None:
    pid = os.fork()
    if pid == 0:
        with termination_caught(lambda: 0.05):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(30)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGTERM


def test_all_executors_that_run_can_be_asked_to_yield_and_their_successors_go_on() -> None:
    pipe = YieldPipe()
    tickets = [pipe.ticket() for _ in range(3)]
    pipe.ask_all()
    assert wait_readable([tickets[2]], 0)
    assert all(ticket.is_set() for ticket in tickets)
    pipe.withdraw()
    assert not pipe.ticket().is_set()
    assert all(ticket.is_set() for ticket in tickets)
    pipe.close()
