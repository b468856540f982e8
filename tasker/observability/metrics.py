"""Metrics for Prometheus: which there are, and how they are made of what the database knows.

Nothing is counted here: whoever is asked, of however many processes, answers the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from tasker.database.figures import (
    CALL_BOUNDS,
    HOLD_BOUNDS,
    MAX_SERIES,
    RECOVERY_BOUNDS,
    STEP_BOUNDS,
    WAIT_BOUNDS,
    MetricFigures,
    QueueFigures,
)

OTHER = "other"
"""Label of what has no line of its own, where there would be too many."""

CIRCUIT_CALLS = "circuit_calls_"
"""What executors count of calls under circuits, by outcome."""

CIRCUIT_STATES = {"closed": 0, "half_open": 1, "open": 2}

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

HISTORY = "history"
EXECUTORS = "executors"
NOW = "now"


@dataclass(frozen=True)
class MetricKind:
    """One metric.

    Attributes:
        name: as Prometheus shows it.
        type: ``counter``, ``gauge`` or ``histogram``.
        help: what it says.
        labels: names of its labels.
        source: ``history`` (counted from the database's history, exactly), ``executors`` (what executors count in their
            process and tell with their heartbeats) or ``now`` (read when asked).
        bounds: upper bounds of a histogram's buckets, in seconds.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    source: str = HISTORY
    bounds: tuple[float, ...] = ()


_STEP = ("namespace", "task", "step")

METRICS: tuple[MetricKind, ...] = (
    MetricKind("tasks_created_total", COUNTER, "Tasks created."),
    MetricKind("tasks_finalized_total", COUNTER, "Tasks that came to their end, by end state.", ("state",)),
    MetricKind("steps_completed_total", COUNTER, "Steps completed.", _STEP),
    MetricKind("steps_failed_total", COUNTER, "Steps that ended in error.", _STEP),
    MetricKind("steps_retried_total", COUNTER, "Attempts that failed and are made again.", _STEP),
    MetricKind("steps_recovered_total", COUNTER, "Steps taken back from executors that are gone, by why.", ("reason",)),
    MetricKind(
        "stale_results_total",
        COUNTER,
        "Outcomes refused because the step had gone on without them, by why.",
        ("reason",),
        EXECUTORS,
    ),
    MetricKind(
        "events_published_total", COUNTER, "Durable domain events of steps and tasks sent.", ("namespace",), EXECUTORS
    ),
    MetricKind(
        "step_duration_seconds",
        HISTOGRAM,
        "How long handlers ran, each attempt.",
        ("namespace",),
        EXECUTORS,
        STEP_BOUNDS,
    ),
    MetricKind(
        "step_queue_wait_seconds",
        HISTOGRAM,
        "From when a step was sent to its queue until an executor claimed it.",
        ("namespace",),
        EXECUTORS,
        WAIT_BOUNDS,
    ),
    MetricKind(
        "step_handoff_seconds",
        HISTOGRAM,
        "From when a step could run until its handler began, by queue or handed on directly.",
        ("namespace",),
        EXECUTORS,
        WAIT_BOUNDS,
    ),
    MetricKind("queue_depth", GAUGE, "Messages in a queue of steps, or of orchestration.", ("queue",), NOW),
    MetricKind("queue_oldest_message_seconds", GAUGE, "Age of the oldest message in such a queue.", ("queue",), NOW),
    MetricKind(
        "domain_events_oldest_seconds",
        GAUGE,
        "Age of the oldest domain event that no consumer has handled.",
        ("namespace",),
        NOW,
    ),
    MetricKind("executor_pool_size", GAUGE, "Executors that work.", ("kind",), NOW),
    MetricKind("executor_pool_utilization", GAUGE, "Share of their time that executors work, 0 to 1.", ("kind",), NOW),
    MetricKind("executor_pool_throughput", GAUGE, "Items per second over the last five minutes.", ("kind",), NOW),
    MetricKind(
        "executor_pool_scaling_events_total",
        COUNTER,
        "Changes of the number of executors that are wanted.",
        ("kind", "direction", "reason"),
    ),
    MetricKind("executor_health_transitions_total", COUNTER, "Changes of executors' health.", ("kind", "from", "to")),
    MetricKind("circuit_breaker_state", GAUGE, "0 closed, 1 half open, 2 open.", ("name",), NOW),
    MetricKind(
        "circuit_breaker_transitions_total", COUNTER, "Changes of circuits that all share.", ("name", "from", "to")
    ),
    MetricKind(
        "circuit_breaker_calls_total",
        COUNTER,
        "Steps guarded by a circuit: success, failure, neutral (says nothing of the system), rejected (it was open).",
        ("outcome",),
        EXECUTORS,
    ),
    MetricKind(
        "circuit_breaker_recovery_seconds",
        HISTOGRAM,
        "How long a circuit was not closed.",
        ("name",),
        HISTORY,
        RECOVERY_BOUNDS,
    ),
    MetricKind("finalization_claim_attempts_total", COUNTER, "Attempts to claim a task for finalization."),
    MetricKind("finalization_claim_success_total", COUNTER, "Attempts that got the claim."),
    MetricKind("finalization_claim_contention_total", COUNTER, "Attempts that did not."),
    MetricKind("finalization_claim_contention_by_reason_total", COUNTER, "Attempts that did not, by why.", ("reason",)),
    MetricKind("finalization_claim_duration_seconds", HISTOGRAM, "How long such an attempt took.", bounds=CALL_BOUNDS),
    MetricKind("finalization_claim_extend_total", COUNTER, "Extensions of claims, by outcome.", ("outcome",)),
    MetricKind(
        "finalization_claim_extend_duration_seconds", HISTOGRAM, "How long an extension took.", bounds=CALL_BOUNDS
    ),
    MetricKind("finalization_claim_release_total", COUNTER, "Claims given back, by outcome.", ("outcome",)),
    MetricKind(
        "finalization_claim_release_duration_seconds", HISTOGRAM, "How long giving back took.", bounds=CALL_BOUNDS
    ),
    MetricKind("finalization_claims_active", GAUGE, "Claims that are held.", (), NOW),
    MetricKind("finalization_claims_expired_total", COUNTER, "Claims taken over after they had expired."),
    MetricKind(
        "finalization_duration_seconds", HISTOGRAM, "From the claim until the task was final.", bounds=HOLD_BOUNDS
    ),
    MetricKind(
        "database_pool_in_use", GAUGE, "Database sessions of all of Tasker's processes that do something.", (), NOW
    ),
    MetricKind("database_dead_tuples", GAUGE, "Dead rows that are not vacuumed yet.", ("table",), NOW),
    MetricKind(
        "metrics_counted_until_seconds",
        GAUGE,
        "Up to when counters know the history, in seconds since 1970.",
        (),
        NOW,
    ),
)
"""Every metric; the reference is made of this."""

Samples = Mapping[str, Mapping[tuple[str, ...], float]]
"""Name of a metric (of a histogram with ``_bucket`` or ``_sum``) → labels → value."""


class PoolFigures(Protocol):
    """What is shown of a pool; ``PoolHealth`` has it."""

    @property
    def healthy(self) -> int:
        """Executors that make progress."""
        ...

    @property
    def starting(self) -> int:
        """Executors that have just begun."""
        ...

    @property
    def utilization(self) -> float:
        """Share of their time that they work."""
        ...

    @property
    def throughput(self) -> float:
        """Items per second."""
        ...


def samples(
    figures: MetricFigures,
    queues: Mapping[str, QueueFigures],
    pools: Mapping[str, PoolFigures],
    circuits: Mapping[str, str],
) -> Samples:
    """What was read, by metric and labels.

    Args:
        figures: totals and counts.
        queues: by name.
        pools: by kind of executor.
        circuits: state by name.
    """
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric, labels, value in figures.totals:
        found.setdefault(metric, {})[labels] = value
    for name, value in figures.executors.items():
        if name.startswith(CIRCUIT_CALLS):
            name = f"circuit_breaker_calls_total|{name.removeprefix(CIRCUIT_CALLS)}"
        # "stale_results_total|fence_is_old"; all else that executors count is no metric.
        metric, *labels_of = name.split("|")
        if labels_of:
            found.setdefault(metric, {})[tuple(labels_of)] = value
    found |= {
        "queue_depth": {(name,): queue.depth for name, queue in queues.items()},
        "queue_oldest_message_seconds": {(name,): queue.oldest_seconds or 0.0 for name, queue in queues.items()},
        "domain_events_oldest_seconds": {(name,): age for name, age in figures.event_ages.items()},
        "executor_pool_size": {(kind,): pool.healthy + pool.starting for kind, pool in pools.items()},
        "executor_pool_utilization": {(kind,): pool.utilization for kind, pool in pools.items()},
        "executor_pool_throughput": {(kind,): pool.throughput for kind, pool in pools.items()},
        "circuit_breaker_state": {(name,): CIRCUIT_STATES[state] for name, state in circuits.items()},
        "finalization_claims_active": {(): figures.finalization_claims},
        "database_pool_in_use": {(): figures.sessions_in_use},
        "database_dead_tuples": {(table,): dead for table, dead in figures.dead_tuples.items()},
        "metrics_counted_until_seconds": {(): figures.counted_until},
    }
    return found


def families(found: Samples) -> Iterable[Metric]:
    """Each metric with its samples, in the order of ``METRICS``; one without labels that nobody counted yet is 0."""
    for metric in METRICS:
        match metric.type:
            case "histogram":
                yield _histogram(metric, found)
            case "counter":
                yield _simple(CounterMetricFamily(metric.name, metric.help, labels=metric.labels), metric, found)
            case _:
                yield _simple(GaugeMetricFamily(metric.name, metric.help, labels=metric.labels), metric, found)


def render(found: Samples, accept: str = "") -> tuple[bytes, str]:
    """The page that Prometheus reads, and its content type.

    Args:
        found: what to show.
        accept: the reader's Accept header; OpenMetrics where it wants that, else Prometheus' text format.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:
        # It names a version that is no number: whoever sent that gets what everybody can read.
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(families(found))))
    return encode(registry), content_type


class _Collected:
    """Hands out what has been collected."""

    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def _simple(
    family: CounterMetricFamily | GaugeMetricFamily, metric: MetricKind, found: Samples
) -> CounterMetricFamily | GaugeMetricFamily:
    values = bounded(found.get(metric.name, {}), len(metric.labels), adds_up=metric.type == COUNTER)
    if not metric.labels:
        values = {(): 0.0, **values}
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram(metric: MetricKind, found: Samples) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    width = len(metric.labels)
    sums = bounded(found.get(f"{metric.name}_sum", {}), width)
    buckets = {
        labels: count for labels, count in found.get(f"{metric.name}_bucket", {}).items() if len(labels) == width + 1
    }
    per_series: dict[tuple[str, ...], dict[float, float]] = {} if width else {(): {}}
    for labels, count in buckets.items():
        try:
            bound = float(labels[-1])
        except ValueError:
            # Executors are programs in any language: what one of them got wrong must not hide what all others say.
            continue
        series = labels[:width] if labels[:width] in sums else (OTHER,) * width
        counts = per_series.setdefault(series, {})
        counts[bound] = counts.get(bound, 0.0) + count
    for series, counts in sorted(per_series.items()):
        cumulative = [
            (bound, sum(count for known, count in counts.items() if known <= float(bound)))
            for bound in (*map(str, metric.bounds), "+Inf")
        ]
        family.add_metric(series, cumulative, sums.get(series, 0.0))
    return family


def bounded(
    values: Mapping[tuple[str, ...], float], width: int, *, adds_up: bool = True, most: int = MAX_SERIES
) -> dict[tuple[str, ...], float]:
    """Values with the right number of labels, at most ``most`` of them: the others are one, or left out.

    Labels may come from programs in any language, and each one costs whoever stores the metrics.

    Args:
        values: by labels.
        width: how many labels there are.
        adds_up: whether values can be added; those that cannot, and are too many, are left out.
        most: how many may have a line of their own.
    """
    right = {labels: value for labels, value in values.items() if len(labels) == width}
    if len(right) <= most:
        return right
    kept = dict(sorted(right.items())[:most])
    if adds_up:
        rest = (OTHER,) * width
        kept[rest] = kept.get(rest, 0.0) + sum(value for labels, value in right.items() if labels not in kept)
    return kept
