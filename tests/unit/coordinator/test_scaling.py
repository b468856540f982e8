"""The scaling policy against load curves, with a clock that is moved: it follows them, and is free of flapping."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasker.coordinator.scaling import (
    CALM_COOLDOWNS,
    REASONS,
    Decision,
    Load,
    ScalingPolicy,
    ScalingRules,
    by_backlog,
    by_rate,
    by_utilization,
    growth_since,
)

RULES = ScalingRules()
INTERVAL_SECONDS = 30.0
ITEMS_PER_SECOND = 10.0
"""What one executor of the simulated pool does."""

Curve = Callable[[float], float]
"""Items per second that arrive, by time."""

random_of_noise = random.Random(7)
_noise = [random_of_noise.uniform(0.92, 1.08) for _ in range(10_000)]

CURVES: dict[str, Curve] = {
    "idle": lambda at: 0.0,
    "steady": lambda at: 37.0,
    "ramp": lambda at: min(70.0, at / 60),
    "burst": lambda at: 70.0 if 1800 <= at < 2100 else 5.0,
    "sawtooth": lambda at: 60.0 * (at % 240) / 240,
    "noise": lambda at: 40.0 * _noise[int(at // 30) % len(_noise)],
}


@dataclass
class Pool:
    """A pool whose executors are there at once, and do what arrives in turn."""

    minimum: int = 1
    maximum: int = 12
    rules: ScalingRules = RULES
    at: float = 0.0
    target: int | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    backlog: float = 0.0
    decisions: list[tuple[float, Decision]] = field(default_factory=list)

    def step(self, arriving: float) -> Decision:
        executors = self.minimum if self.target is None else self.target
        self.at += INTERVAL_SECONDS
        room = executors * ITEMS_PER_SECOND * INTERVAL_SECONDS
        offered = self.backlog + arriving * INTERVAL_SECONDS
        done = min(room, offered)
        self.backlog = offered - done
        load = Load(
            at=self.at,
            executors=executors,
            utilization=done / room if room else 0.0,
            rate=done / INTERVAL_SECONDS,
            backlog=int(self.backlog),
            oldest_seconds=self.backlog / (done / INTERVAL_SECONDS) if done else 0.0,
            growth=growth_since(self.memory, self.at, int(self.backlog)),
        )
        decision = ScalingPolicy(self.minimum, self.maximum, self.rules).decide(load, self.target, self.memory)
        # As a row keeps it.
        self.target, self.memory = decision.target, json.loads(json.dumps(decision.memory))
        if decision.direction != "hold":
            self.decisions.append((self.at, decision))
        return decision

    def run(self, curve: Curve, seconds: float) -> Pool:
        end = self.at + seconds
        while self.at < end:
            self.step(curve(self.at))
        return self


def right_size(rate: float) -> int:
    return max(1, math.ceil(rate / ITEMS_PER_SECOND / RULES.target_utilization))


def assert_calm(pool: Pool) -> None:
    """Bounds hold, changes are a cooldown apart, and nothing shrinks soon after it grew or shrank."""
    for at, decision in pool.decisions:
        assert pool.minimum <= decision.target <= pool.maximum, (at, decision)
        assert decision.reason in REASONS
        assert decision.detail
    for (first, _), (second, decision) in itertools.pairwise(pool.decisions):
        apart = pool.rules.cooldown_seconds * (CALM_COOLDOWNS if decision.direction == "down" else 1)
        assert second - first >= apart, (first, second, decision)


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_is_followed_without_flapping(name: str) -> None:
    pool = Pool().run(CURVES[name], 4 * 3600)
    assert_calm(pool)
    assert pool.backlog < 10 * RULES.backlog_per_executor


def test_an_idle_pool_stays_at_its_minimum() -> None:
    assert Pool().run(CURVES["idle"], 7200).decisions == []


def test_a_steady_load_gets_what_it_needs_and_then_nothing_changes() -> None:
    pool = Pool().run(CURVES["steady"], 1800)
    assert pool.target is not None
    assert right_size(37.0) <= pool.target
    settled = pool.run(CURVES["steady"], 1800).target
    assert settled is not None
    assert right_size(37.0) <= settled <= right_size(37.0) + 1
    before = len(pool.decisions)
    pool.run(CURVES["steady"], 4 * 3600)
    assert len(pool.decisions) == before


def test_noise_around_a_load_changes_nothing_once_it_is_served() -> None:
    pool = Pool().run(CURVES["noise"], 3600)
    before = len(pool.decisions)
    pool.run(CURVES["noise"], 6 * 3600)
    assert len(pool.decisions) - before <= 1


def test_teeth_shorter_than_the_calm_are_served_as_their_tips() -> None:
    pool = Pool().run(CURVES["sawtooth"], 3600)
    before = len(pool.decisions)
    pool.run(CURVES["sawtooth"], 3600)
    assert len(pool.decisions) - before <= 1


def test_a_ramp_is_climbed_step_by_step() -> None:
    pool = Pool().run(CURVES["ramp"], 4200)
    assert {decision.direction for _, decision in pool.decisions} == {"up"}
    assert pool.target is not None
    assert pool.target >= right_size(70.0) - 1


def test_a_burst_is_answered_at_once_and_forgotten_after_the_calm() -> None:
    pool = Pool().run(CURVES["burst"], 1800)
    assert pool.target == 1
    pool.run(CURVES["burst"], 300)
    assert pool.decisions[0][0] <= 1800 + 2 * INTERVAL_SECONDS
    assert pool.target >= right_size(70.0)
    pool.run(CURVES["burst"], 3600)
    assert pool.target <= 2
    assert [decision.direction for _, decision in pool.decisions].count("up") <= 3


def test_a_pool_that_was_served_by_more_than_it_needs_shrinks_only_after_the_calm() -> None:
    pool = Pool(target=8)
    pool.memory = {}
    pool.run(CURVES["idle"], CALM_COOLDOWNS * RULES.cooldown_seconds - INTERVAL_SECONDS)
    assert pool.target == 8
    pool.run(CURVES["idle"], 3 * INTERVAL_SECONDS)
    assert (pool.target, pool.decisions[0][1].reason) == (1, "idle")


# -- strategies -----------------------------------------------------------------------------------------------


def test_utilization_asks_for_as_many_as_would_be_busy_as_wanted() -> None:
    assert by_utilization(Load(0, executors=3, utilization=0.75), RULES).executors == pytest.approx(3)
    assert by_utilization(Load(0, executors=3, utilization=1.0), RULES).executors == pytest.approx(4)


def test_backlog_asks_for_one_executor_per_so_many_messages() -> None:
    assert by_backlog(Load(0, executors=1, backlog=450), RULES).executors == pytest.approx(4.5)


def test_few_messages_that_wait_for_long_ask_for_more_than_there_are() -> None:
    demand = by_backlog(Load(0, executors=4, backlog=3, oldest_seconds=31), RULES)
    assert (demand.executors, demand.reason) == (6.0, "age")


def test_the_rate_that_arrives_and_what_waits_are_worked_off_in_time() -> None:
    # Two executors, always busy, do 20/s; 30/s arrive, so 10/s stay; 600 wait and are to go within a minute.
    load = Load(0, executors=2, utilization=1.0, rate=20, backlog=600, growth=10)
    demand = by_rate(load, RULES)
    assert demand is not None
    assert demand.executors == pytest.approx((30 + 10) / 10 / 0.75)


def test_a_pool_that_has_hardly_worked_foretells_nothing() -> None:
    assert by_rate(Load(0, executors=2, utilization=0.01, rate=3, backlog=500), RULES) is None


# -- properties -----------------------------------------------------------------------------------------------

loads = st.lists(st.floats(min_value=0, max_value=200, allow_nan=False), min_size=1, max_size=120)
bounds = st.tuples(st.integers(0, 5), st.integers(1, 20)).map(lambda pair: (min(pair), max(pair)))


@settings(max_examples=150, deadline=None)
@given(curve=loads, bounds=bounds, cooldown=st.sampled_from([30.0, 60.0, 100.0]))
def test_whatever_arrives_bounds_hold_and_changes_keep_their_distance(
    curve: list[float], bounds: tuple[int, int], cooldown: float
) -> None:
    pool = Pool(minimum=bounds[0], maximum=bounds[1], rules=ScalingRules(cooldown_seconds=cooldown))
    for arriving in curve:
        pool.step(arriving)
    assert_calm(pool)


@settings(max_examples=100, deadline=None)
@given(rate=st.floats(min_value=0, max_value=80), wobble=st.lists(st.floats(0.96, 1.04), min_size=5, max_size=20))
def test_any_steady_load_comes_to_rest(rate: float, wobble: list[float]) -> None:
    factors = itertools.cycle(wobble)
    pool = Pool(maximum=20).run(lambda at: rate * next(factors), 3600)
    before = len(pool.decisions)
    pool.run(lambda at: rate * next(factors), 3600)
    # What came to catch up may go again; then all is quiet.
    assert len(pool.decisions) - before <= 1
    pool.run(lambda at: rate * next(factors), 3600)
    assert len(pool.decisions) - before <= 1


@settings(max_examples=100, deadline=None)
@given(
    memory=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["since", "needs", "x"]), inner),
        max_leaves=5,
    ),
    at=st.floats(min_value=0, max_value=1e9),
)
def test_whatever_a_row_remembers_a_decision_is_made(memory: Any, at: float) -> None:
    remembered = memory if isinstance(memory, dict) else {"since": memory, "needs": memory}
    decision = ScalingPolicy(1, 4, RULES).decide(Load(at, executors=2), 2, remembered)
    assert 1 <= decision.target <= 4


def test_a_clock_that_was_set_back_begins_anew() -> None:
    pool = Pool(maximum=8).run(CURVES["steady"], 3600)
    pool.at -= 1000
    pool.run(CURVES["steady"], 600)
    assert_calm(Pool(decisions=pool.decisions[-1:]))


def test_other_settings_are_kept_to_at_once() -> None:
    pool = Pool(maximum=8).run(CURVES["steady"], 3600)
    pool.maximum = 2
    assert pool.step(37.0).target == 2
    assert pool.decisions[-1][1].reason == "bounds"
