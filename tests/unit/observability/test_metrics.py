"""What the page for Prometheus shows of what was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import exposition
from prometheus_client.parser import text_string_to_metric_families

from tasker.database.figures import MetricFigures, QueueFigures
from tasker.observability.metrics import METRICS, bounded, render, samples


@dataclass
class Pool:
    healthy: int = 2
    starting: int = 1
    utilization: float = 0.5
    throughput: float = 12.5


def figures(**changes: Any) -> MetricFigures:
    values: dict[str, Any] = {
        "totals": (),
        "executors": {},
        "counted_until": 1.0,
        "finalization_claims": 0,
        "sessions_in_use": 0,
        "dead_tuples": {},
        "event_ages": {},
    }
    return MetricFigures(**{**values, **changes})


def page(
    found: MetricFigures,
    *,
    queues: dict[str, QueueFigures] | None = None,
    pools: dict[str, Pool] | None = None,
    circuits: dict[str, str] | None = None,
) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name of each sample → labels → value, as a reader of the page understands it."""
    text, content_type = render(samples(found, queues or {}, pools or {}, circuits or {}))
    assert content_type.startswith("text/plain; version=")
    read: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            read.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return read


def test_metrics_without_labels_are_there_from_the_beginning() -> None:
    shown = page(figures())
    assert shown["tasks_created_total"] == {(): 0.0}
    assert shown["finalization_claim_duration_seconds_count"] == {(): 0.0}
    assert {metric.name for metric in METRICS if not metric.labels and metric.type != "histogram"} <= shown.keys()


def test_names_and_types_are_those_that_prometheus_wants() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert (metric.type == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.type == "histogram") == bool(metric.bounds), metric.name
        assert metric.help.endswith("."), metric.name


def test_totals_and_counts_of_executors_become_samples_with_their_labels() -> None:
    shown = page(
        figures(
            totals=(
                ("tasks_finalized_total", ("complete",), 3.0),
                ("steps_completed_total", ("shop", "order", "a"), 7.0),
                ("of_another_release_total", ("x",), 1.0),
            ),
            executors={"stale_results_total|fence_is_old": 2.0, "circuit_calls_failure": 3.0, "completed": 5.0},
        )
    )
    assert shown["tasks_finalized_total"] == {(("state", "complete"),): 3.0}
    assert shown["steps_completed_total"] == {(("namespace", "shop"), ("step", "a"), ("task", "order")): 7.0}
    assert shown["stale_results_total"] == {(("reason", "fence_is_old"),): 2.0}
    assert shown["circuit_breaker_calls_total"] == {(("outcome", "failure"),): 3.0}
    assert "of_another_release_total" not in shown
    assert "completed" not in shown


def test_buckets_add_up_whatever_their_bounds_were_when_they_were_counted() -> None:
    shown = page(
        figures(
            totals=(
                ("finalization_claim_duration_seconds_bucket", ("0.005",), 2.0),
                ("finalization_claim_duration_seconds_bucket", ("0.007",), 1.0),  # no bound of this release
                ("finalization_claim_duration_seconds_bucket", ("1",), 1.0),
                ("finalization_claim_duration_seconds_bucket", ("+Inf",), 1.0),
                ("finalization_claim_duration_seconds_sum", (), 9.5),
            )
        )
    )
    buckets = {dict(labels)["le"]: n for labels, n in shown["finalization_claim_duration_seconds_bucket"].items()}
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.01"]) == (0, 2, 3)
    assert (buckets["1.0"], buckets["2.5"], buckets["+Inf"]) == (4, 4, 5)
    assert shown["finalization_claim_duration_seconds_count"] == {(): 5}
    assert shown["finalization_claim_duration_seconds_sum"] == {(): 9.5}


def test_histograms_have_a_series_per_label() -> None:
    shown = page(
        figures(
            executors={
                "step_duration_seconds_bucket|shop|0.01": 3.0,
                "step_duration_seconds_sum|shop": 0.02,
                "step_duration_seconds_bucket|stock|+Inf": 1.0,
                "step_duration_seconds_sum|stock": 400.0,
            }
        )
    )
    assert shown["step_duration_seconds_count"] == {(("namespace", "shop"),): 3, (("namespace", "stock"),): 1}
    assert shown["step_duration_seconds_sum"][("namespace", "stock"),] == 400


def test_gauges_are_what_is_now() -> None:
    shown = page(
        figures(finalization_claims=1, sessions_in_use=4, dead_tuples={"tasks": 12}),
        queues={"shop_queue": QueueFigures(3, 1.5), "empty_queue": QueueFigures(0, None)},
        pools={"task_claimer": Pool()},
        circuits={"bank": "open", "database": "closed", "mail": "half_open"},
    )
    assert shown["queue_depth"] == {(("queue", "shop_queue"),): 3, (("queue", "empty_queue"),): 0}
    assert shown["queue_oldest_message_seconds"][("queue", "empty_queue"),] == 0
    assert shown["executor_pool_size"] == {(("kind", "task_claimer"),): 3}
    assert shown["executor_pool_throughput"] == {(("kind", "task_claimer"),): 12.5}
    assert shown["executor_pool_utilization"] == {(("kind", "task_claimer"),): 0.5}
    assert {dict(labels)["name"]: n for labels, n in shown["circuit_breaker_state"].items()} == {
        "bank": 2, "database": 0, "mail": 1,
    }  # fmt: skip
    assert shown["finalization_claims_active"] == {(): 1}
    assert shown["database_pool_in_use"] == {(): 4}
    assert shown["database_dead_tuples"] == {(("table", "tasks"),): 12}
    assert shown["metrics_counted_until_seconds"] == {(): 1}


def test_labels_are_bounded_and_what_is_too_much_shares_a_line() -> None:
    many = {(f"reason {n:03}",): 1.0 for n in range(10)}
    assert bounded(many, 1, most=4) == {**dict(list(many.items())[:4]), ("other",): 6.0}
    assert bounded(many, 1, adds_up=False, most=4) == dict(list(many.items())[:4])
    assert bounded({("a", "b"): 1.0, ("a",): 2.0}, 1) == {("a",): 2.0}, "of a foreign program, with other labels"


def test_open_metrics_is_spoken_to_those_who_ask_for_it() -> None:
    text, content_type = render(samples(figures(), {}, {}, {}), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["text/plain; version=x", "application/openmetrics-text; version=1.x.0, */*"])
def test_a_reader_that_asks_for_a_strange_version_gets_the_text_format(accept: str) -> None:
    text, content_type = render(samples(figures(), {}, {}, {}), accept)
    # Early releases of the library look at the type alone, not at its version.
    reads_versions = hasattr(exposition, "CONTENT_TYPE_PLAIN_0_0_4")
    known = (
        "application/openmetrics-text"
        if "openmetrics" in accept and not reads_versions
        else "text/plain; version=0.0.4"
    )
    assert content_type.startswith(known)
    assert b"tasks_created_total" in text


def test_a_bucket_whose_bound_is_no_number_hides_nothing_else() -> None:
    counted = {
        "step_duration_seconds_bucket|shop|fast": 3.0,
        "step_duration_seconds_bucket|shop|0.1": 2.0,
        "step_duration_seconds_sum|shop": 0.1,
    }
    shown = page(figures(executors=counted))
    assert shown["step_duration_seconds_count"] == {(("namespace", "shop"),): 2.0}
