"""Handlers are interrupted, and the interruption never reaches anything else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasker.executors.interrupts import SIGNAL, HandlerInterrupted, Interrupter


def run(interrupter: Interrupter, function: Callable[[], Any], after_seconds: float | None) -> Any:
    """Run ``function``, interrupting it after a while."""
    timers: list[threading.Timer] = []

    def expose(interrupt: Callable[[], None] | None) -> None:
        if interrupt is not None and after_seconds is not None:
            timers.append(threading.Timer(after_seconds, interrupt))
            timers[0].start()

    interrupter.install()
    try:
        return interrupter.run(function, expose)
    finally:
        interrupter.uninstall()
        for timer in timers:
            timer.join()


def on_thread(function: Callable[[], Any]) -> Any:
    """What ``function`` returns or raises on a thread of its own."""
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    return result[0]


def spin() -> None:
    while True:
        time.sleep(0.001)


def test_on_the_main_thread_a_blocking_call_is_interrupted() -> None:
    began = time.monotonic()
    with pytest.raises(HandlerInterrupted):
        run(Interrupter(), lambda: time.sleep(60), 0.05)
    assert time.monotonic() - began < 30


def test_on_another_thread_python_code_is_interrupted() -> None:
    assert isinstance(on_thread(lambda: run(Interrupter(), spin, 0.05)), HandlerInterrupted)


def test_results_and_errors_pass() -> None:
    interrupter = Interrupter()
    assert run(interrupter, lambda: 5, None) == 5
    with pytest.raises(ZeroDivisionError):
        run(interrupter, lambda: 1 / 0, None)


def test_except_exception_does_not_catch_it() -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue

    with pytest.raises(HandlerInterrupted):
        run(Interrupter(), stubborn, 0.05)


@pytest.mark.parametrize("on_main", [True, False])
def test_a_handler_that_swallows_it_is_interrupted_all_the_same_once_it_ends(on_main: bool) -> None:
    def swallow() -> str:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            try:
                time.sleep(0.01)
            except BaseException:
                pass
        return "swallowed"

    def attempt() -> Any:
        return run(Interrupter(), swallow, 0.05)

    if on_main:
        with pytest.raises(HandlerInterrupted):
            attempt()
    else:
        assert isinstance(on_thread(attempt), HandlerInterrupted)


@pytest.mark.parametrize("on_main", [True, False])
def test_an_interruption_that_meets_the_end_of_a_run_never_reaches_the_next(on_main: bool) -> None:
    interrupter_made = threading.Event()
    current: list[Callable[[], None] | None] = [None]
    done = threading.Event()

    def harass() -> None:
        interrupter_made.wait(10)
        while not done.is_set():
            interrupt = current[0]
            if interrupt is not None:
                interrupt()

    def expose(interrupt: Callable[[], None] | None) -> None:
        current[0] = interrupt

    def work() -> tuple[int, int]:
        interrupter = Interrupter()
        interrupter.install()
        interrupter_made.set()
        outcomes = [0, 0]
        try:
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                try:
                    interrupter.run(lambda: sum(range(50)), expose)
                    outcomes[0] += 1
                except HandlerInterrupted:
                    outcomes[1] += 1
                # Anything that is still to come would be raised here, outside of every run.
                for _ in range(20):
                    pass
        finally:
            done.set()
            interrupter.uninstall()
        return outcomes[0], outcomes[1]

    harasser = threading.Thread(target=harass)
    harasser.start()
    try:
        finished = work() if on_main else on_thread(work)
    finally:
        done.set()
        harasser.join()
    assert isinstance(finished, tuple), finished
    assert sum(finished) > 10


def test_somebody_elses_alarm_still_rings() -> None:
    rung: list[int] = []
    before = signal.signal(SIGNAL, lambda number, frame: rung.append(number))
    try:
        interrupter = Interrupter()
        interrupter.install()
        signal.raise_signal(SIGNAL)
        interrupter.uninstall()
        signal.raise_signal(SIGNAL)
    finally:
        signal.signal(SIGNAL, before)
    assert rung == [SIGNAL, SIGNAL]
