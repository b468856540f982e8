"""The reference of metrics, from the list that `/metrics` is made of."""

from __future__ import annotations

from docs.pages.markdown import code, page, table
from tasker.database.figures import GIVE_UP_SECONDS, MAX_SERIES
from tasker.observability.metrics import EXECUTORS, HISTORY, METRICS, NOW, MetricKind

INTRO = """
`GET /metrics` of [`tasker server`](http.md) answers in Prometheus' text format, or in OpenMetrics to those who ask for
it. Every server on a database answers the same, for all processes: ask one of them. How to set up Prometheus, what to
look at and what to be woken for is in [Monitor with Prometheus](../how-to/monitor_with_prometheus.md).
"""

EXACT = f"""
Counted from the rows that state changes leave behind, each once, whichever process or program in whichever language
made them; a process that is killed takes nothing along, and totals stay when history is removed. They are counted with
each tick and each time somebody asks. A row whose transaction is open is counted when it has committed; while it is
open nothing later is either, for {GIVE_UP_SECONDS:.0f} s at most: what a transaction wrote that was open for longer
after it had written is left out. `metrics_counted_until_seconds` says how far it is. Steps have a line each, the first
{MAX_SERIES:,} of them; further ones share `other`.
"""

TOLD = """
Counted by executors in their processes and told with each heartbeat (`orchestration.heartbeat_interval_seconds`) and
with their good-bye. What a killed process counted since its last heartbeat is not known.
"""

READ = """
Read from the database when somebody asks.
"""


def make() -> str:
    """The page."""
    return page(
        "Metrics",
        INTRO,
        "## Counted from the history, exactly",
        EXACT,
        _table(HISTORY),
        "## Counted by executors",
        TOLD,
        _table(EXECUTORS),
        "## As it is now",
        READ,
        _table(NOW),
        "## Buckets",
        "Upper bounds of the histograms' buckets, in seconds; `+Inf` follows.",
        table(
            ("metric", "bounds"),
            (
                (code(metric.name), ", ".join(f"{bound:g}" for bound in metric.bounds))
                for metric in METRICS
                if metric.bounds
            ),
        ),
    )


def _table(source: str) -> str:
    return table(
        ("metric", "type", "labels", "what it says"),
        (_row(metric) for metric in METRICS if metric.source == source),
    )


def _row(metric: MetricKind) -> tuple[str, str, str, str]:
    return code(metric.name), metric.type, ", ".join(map(code, metric.labels)), metric.help
