"""``ExecutorPool``: the executors of one kind (of step executors: of one queue), and what they have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.config.settings import Settings
from tasker.coordinator.scaling import Decision, Load, ScalingPolicy, ScalingRules, growth_since
from tasker.database.pools import PoolMeasures

WINDOW_SECONDS = 300.0
"""Throughput is a mean over so long."""

RECENT_SECONDS = 30.0
"""Utilization is a mean over at least so long: what a tick sees alone is mostly noise."""

SAMPLE_SECONDS = 10.0
"""Samples are at least so far apart, however often a tick comes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pool's executors had done at a moment: all numbers only rise.

    Attributes:
        at: seconds since 1970.
        items: items of work.
        busy_ms: how long they worked.
        executor_ms: how long they lived, in sum.
    """

    at: float
    items: int
    busy_ms: int
    executor_ms: int


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a pool works.

    Attributes:
        throughput: items per second, over five minutes.
        utilization: share of its executors' time, 0 to 1, that they worked lately.
        recent: items per second, lately.
        executors: how many there were lately, on average.
    """

    throughput: float = 0.0
    utilization: float = 0.0
    recent: float = 0.0
    executors: float = 0.0


def samples_of(pool: PoolMeasures) -> tuple[Sample, ...]:
    """The samples that its row remembers, and what it is now."""
    kept = [
        Sample(float(at), int(items), int(busy), int(lived)) for at, items, busy, lived in pool.state.get("samples", ())
    ]
    now = Sample(pool.at, pool.items, pool.busy_ms, pool.executor_ms)
    return (*(sample for sample in kept if pool.at - WINDOW_SECONDS <= sample.at < pool.at), now)


def rates_of(pool: PoolMeasures) -> Rates:
    """How fast it works, by its samples; what it did since the last tick is not counted yet."""
    samples = samples_of(pool)
    # Without a count since then, the newest sample says nothing of the time that passed.
    counted = samples[:-1] if len(samples) > 1 and _same(samples[-1], samples[-2]) else samples
    return rates(counted)


def rates(samples: Sequence[Sample]) -> Rates:
    """How fast a pool works whose samples these are, the oldest first."""
    if len(samples) < 2:
        return Rates()
    last = samples[-1]
    first = samples[0]
    lately = next((each for each in reversed(samples[:-1]) if last.at - each.at >= RECENT_SECONDS), first)
    lived = last.executor_ms - lately.executor_ms
    return Rates(
        throughput=_per_second(first, last),
        utilization=min(1.0, (last.busy_ms - lately.busy_ms) / lived) if lived > 0 else 0.0,
        recent=_per_second(lately, last),
        executors=lived / 1000 / (last.at - lately.at) if last.at > lately.at else 0.0,
    )


def remember(samples: Sequence[Sample]) -> list[list[float]]:
    """The samples as a row keeps them: those of the window, none too close to the one before, the newest always."""
    kept: list[Sample] = []
    for sample in samples[:-1]:
        if not kept or sample.at - kept[-1].at >= SAMPLE_SECONDS:
            kept.append(sample)
    kept += samples[-1:]
    return [[round(each.at, 3), each.items, each.busy_ms, each.executor_ms] for each in kept]


def _per_second(first: Sample, last: Sample) -> float:
    return (last.items - first.items) / (last.at - first.at) if last.at > first.at else 0.0


def _same(one: Sample, other: Sample) -> bool:
    return (one.items, one.busy_ms, one.executor_ms) == (other.items, other.busy_ms, other.executor_ms)


class ExecutorPool:
    """One pool at one tick: what was measured, and what its row shall be from now on.

    The executors of a kind are one pool. Step executors are besides in the pool of each queue that they serve, and only
    those are scaled: ``min_executors`` counts the kind, so that a queue nobody uses needs none of its own.

    Args:
        measures: what was measured, after the tick's count.
        settings: bounds and rules.
    """

    def __init__(self, measures: PoolMeasures, settings: Settings) -> None:
        bounds = settings.executor_pools[measures.kind]
        self.measures = measures
        self._samples = samples_of(measures)
        self._memory: Mapping[str, Any] = measures.state.get("policy") or {}
        self._minimum = 0 if measures.queue else bounds.min_executors
        self._maximum = bounds.max_executors
        self._interval = settings.orchestration.scaling_interval_seconds
        self._rules = ScalingRules.of(settings)
        # A row comes with the first count of what its executors did, before anybody decided.
        self.target = self._minimum if self._is_new else measures.target or 0
        self.evaluated = False

    @property
    def _is_new(self) -> bool:
        return self.measures.evaluated_seconds is None

    @property
    def is_scaled(self) -> bool:
        """Whether its target follows what it has to do."""
        return self.measures.kind != "step_executor" or bool(self.measures.queue)

    def is_due(self, tick_seconds: float) -> bool:
        """Whether it is time to decide; ticks come every ``tick_seconds``."""
        since = self.measures.evaluated_seconds
        return self.is_scaled and (since is None or since >= self._interval - tick_seconds / 2)

    def load(self) -> Load:
        """What it has to do, by what its executors have done since the last decision."""
        found = rates(self._samples)
        measures = self.measures
        return Load(
            at=measures.at,
            executors=found.executors or measures.executors,
            utilization=found.utilization,
            rate=found.recent,
            backlog=measures.backlog,
            oldest_seconds=measures.oldest_seconds or 0.0,
            growth=growth_since(self._memory, measures.at, measures.backlog),
        )

    def decide(self) -> Decision:
        """Ask the policy; the target is what it says from now on."""
        known = None if self._is_new else self.measures.target
        decision = ScalingPolicy(self._minimum, self._maximum, self._rules).decide(self.load(), known, self._memory)
        self.target, self._memory, self.evaluated = decision.target, decision.memory, True
        return decision

    def row(self) -> dict[str, Any]:
        """What is stored of it."""
        state = {"samples": remember(self._samples), "policy": dict(self._memory)}
        named = {"kind": self.measures.kind, "queue": self.measures.queue}
        return {**named, "target": self.target, "state": state, "evaluated": self.evaluated}

    def record(self, decision: Decision) -> dict[str, Any]:
        """A decision as it is remembered for people and metrics."""
        load, measures = self.load(), self.measures
        return {
            "kind": measures.kind,
            "queue": measures.queue,
            "direction": decision.direction,
            "from_target": decision.before,
            "to_target": decision.target,
            "reason": decision.reason,
            "detail": decision.detail,
            "measures": {
                "executors": measures.executors,
                "utilization": round(load.utilization, 3),
                "rate": round(load.rate, 3),
                "backlog": load.backlog,
                "oldest_seconds": round(load.oldest_seconds, 3),
                "growth": round(load.growth, 3),
            },
        }
