"""How far a chain of steps stays with one executor."""

from __future__ import annotations

from tasker.executors import outcomes
from tasker.executors.outcomes import MAX_CHAIN_SECONDS, MAX_HOPS
from tests.unit.executors.test_held import held


def may_continue(*, hops: int, seconds: float) -> bool:
    step = held(now=100.0)
    step.chain_hops, step.chain_started = hops, 100.0
    return outcomes.completed(step, b"{}").may_continue(100.0 + seconds)


def test_a_chain_stays_for_a_while() -> None:
    assert may_continue(hops=0, seconds=0)
    assert may_continue(hops=MAX_HOPS - 1, seconds=MAX_CHAIN_SECONDS / 2)


def test_a_chain_returns_to_the_queue_after_so_many_hops_however_quick_they_were() -> None:
    assert not may_continue(hops=MAX_HOPS, seconds=0)


def test_a_chain_returns_to_the_queue_after_so_long_however_few_steps_that_were() -> None:
    assert not may_continue(hops=0, seconds=MAX_CHAIN_SECONDS * 1.01)
