"""``ScalingPolicy``: how many executors a pool shall have, by what it has to do.

Pure functions of measures and of what a pool's row remembers: each tick may be made by another process. Three
strategies each say how many executors would be right; the largest of them counts, within the pool's bounds. What keeps
it calm:

- growing needs a tenth more than there is, and shrinking a tenth of room afterwards (hysteresis);
- two changes are at least a cooldown apart;
- a pool shrinks to what was needed at the busiest moment of the last five cooldowns, never while it grew within them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasker.config.settings import Settings

TOLERANCE = 0.1
"""Share by which need may differ from what is there without a change."""

CALM_COOLDOWNS = 5
"""So many cooldowns must have needed fewer executors before some go."""

LEAST_UTILIZATION = 0.05
"""Below it, the time that one item takes is not known well enough to foretell anything."""

REASONS = ("utilization", "backlog", "age", "rate", "idle", "surplus", "bounds")
"""Why a target changes; the last three: nothing to do, less to do, other settings."""


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """What the settings ask for; see ``orchestration`` there."""

    target_utilization: float = 0.75
    cooldown_seconds: float = 60.0
    backlog_per_executor: int = 100
    message_age_seconds: float = 30.0
    drain_seconds: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> ScalingRules:
        """The rules of ``settings``."""
        orchestration = settings.orchestration
        return cls(
            target_utilization=orchestration.target_utilization,
            cooldown_seconds=orchestration.scaling_cooldown_seconds,
            backlog_per_executor=orchestration.scaling_backlog_per_executor,
            message_age_seconds=orchestration.scaling_message_age_seconds,
            drain_seconds=orchestration.scaling_drain_seconds,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool has to do.

    Attributes:
        at: when it was measured, in seconds.
        executors: how many there are; on average since the last measure, where that is known.
        utilization: share of their time, 0 to 1, that they worked.
        rate: items per second that they did.
        backlog: messages that wait.
        oldest_seconds: age of the oldest.
        growth: messages per second by which the backlog grew since the last measure; negative when it shrank.
    """

    at: float
    executors: float = 0.0
    utilization: float = 0.0
    rate: float = 0.0
    backlog: int = 0
    oldest_seconds: float = 0.0
    growth: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """How many executors would be right, as a fraction, and why."""

    executors: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decided.

    Attributes:
        target: how many executors there shall be.
        before: how many there were to be.
        reason: one of ``REASONS``; empty where nothing changes.
        detail: the same in words.
        memory: what to hand to the next decision, as plain JSON values.
    """

    target: int
    before: int
    reason: str
    detail: str
    memory: Mapping[str, Any]

    @property
    def direction(self) -> str:
        """``up``, ``down`` or ``hold``."""
        return "hold" if self.target == self.before else "up" if self.target > self.before else "down"


# -- strategies -----------------------------------------------------------------------------------------------


def by_utilization(load: Load, rules: ScalingRules) -> Demand:
    """As many as would do what is done now at the wanted utilization."""
    needed = load.executors * load.utilization / rules.target_utilization
    return Demand(
        needed, "utilization", f"{load.executors:.1f} executors are busy for {load.utilization:.0%} of their time"
    )


def by_backlog(load: Load, rules: ScalingRules) -> Demand:
    """No more messages for each than the rules allow, and none that waits too long."""
    needed = load.backlog / rules.backlog_per_executor
    if load.backlog and load.oldest_seconds > rules.message_age_seconds:
        # How many messages there are says nothing where each takes minutes. A half more, again and again.
        late = max(1.0, load.executors) * 1.5
        if late > needed:
            return Demand(late, "age", f"a message waits for {load.oldest_seconds:.0f} s")
    return Demand(needed, "backlog", f"{load.backlog} messages wait")


def by_rate(load: Load, rules: ScalingRules) -> Demand | None:
    """As many as keep up with what arrives, and work off what waits in time; ``None``: not known."""
    busy = load.executors * load.utilization
    if load.rate <= 0 or load.utilization < LEAST_UTILIZATION or busy <= 0:
        return None
    arriving = max(0.0, load.rate + load.growth)
    wanted = arriving + load.backlog / rules.drain_seconds
    needed = wanted / (load.rate / busy) / rules.target_utilization
    return Demand(
        needed, "rate", f"{arriving:.1f}/s arrive, {load.backlog} wait, {busy:.1f} busy executors do {load.rate:.1f}/s"
    )


STRATEGIES: tuple[Callable[[Load, ScalingRules], Demand | None], ...] = (by_utilization, by_backlog, by_rate)


# -- the policy -----------------------------------------------------------------------------------------------


class ScalingPolicy:
    """Decides about one pool.

    Args:
        minimum: fewest executors.
        maximum: most executors.
        rules: the settings.
    """

    def __init__(self, minimum: int, maximum: int, rules: ScalingRules) -> None:
        self._minimum = minimum
        self._maximum = max(minimum, maximum)
        self._rules = rules

    def decide(self, load: Load, target: int | None, memory: Mapping[str, Any]) -> Decision:
        """How many executors there shall be from now on.

        Args:
            load: what was measured.
            target: how many there were to be; ``None``: this is the first time.
            memory: what the last decision handed on; a broken one counts as none.
        """
        since, needs = _remembered(memory, load.at)
        if target is None:
            first = self._within(round(load.executors))
            return Decision(first, first, "", "", _memory(load.at, [(load.at, 0.0)], load))
        bounded = self._within(target)
        if bounded != target:
            detail = f"between {self._minimum} and {self._maximum} are allowed"
            return Decision(bounded, target, "bounds", detail, _memory(load.at, [], load))
        demand = self._demand(load)
        needs = [*(each for each in needs if each[0] > load.at - self._calm), (load.at, demand.executors)]
        waited = load.at - since
        if waited >= self._rules.cooldown_seconds:
            wanted = self._within(math.ceil(demand.executors))
            if wanted > target and demand.executors > target * (1 + TOLERANCE):
                return Decision(wanted, target, demand.reason, demand.detail, _memory(load.at, [], load))
        if waited >= self._calm:
            most = max(need for _, need in needs)
            wanted = self._within(math.ceil(most * (1 + TOLERANCE)))
            if wanted < target:
                reason = "surplus" if most > 0 else "idle"
                detail = f"at most {most:.1f} were needed during {self._calm:.0f} s"
                return Decision(wanted, target, reason, detail, _memory(load.at, [], load))
        return Decision(target, target, "", "", _memory(since, needs, load))

    @property
    def _calm(self) -> float:
        return CALM_COOLDOWNS * self._rules.cooldown_seconds

    def _within(self, executors: int) -> int:
        return min(max(executors, self._minimum), self._maximum)

    def _demand(self, load: Load) -> Demand:
        demands = [demand for strategy in STRATEGIES if (demand := strategy(load, self._rules)) is not None]
        return max(demands, key=lambda demand: demand.executors)


def growth_since(memory: Mapping[str, Any], at: float, backlog: int) -> float:
    """Messages per second by which the backlog grew since the decision that left ``memory``; 0: not known."""
    last = memory.get("backlog")
    if not isinstance(last, (list, tuple)) or len(last) != 2 or at <= float(last[0]):
        return 0.0
    return (backlog - float(last[1])) / (at - float(last[0]))


def _remembered(memory: Mapping[str, Any], now: float) -> tuple[float, list[tuple[float, float]]]:
    """Since when the target is what it is, and what was needed since; a clock that was set back begins anew."""
    try:
        since = float(memory["since"])
        needs = [(float(at), float(need)) for at, need in memory["needs"]]
    except (KeyError, TypeError, ValueError):
        return now, []
    if since > now or any(at > now for at, _ in needs):
        return now, []
    return since, needs


def _memory(since: float, needs: Sequence[tuple[float, float]], load: Load) -> dict[str, Any]:
    return {
        "since": round(since, 3),
        "needs": [[round(at, 3), round(need, 4)] for at, need in needs],
        "backlog": [round(load.at, 3), load.backlog],
    }
