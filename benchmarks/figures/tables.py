"""Tables of the single figures, from a run's JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.reading import NOTHING, Run, Spread, Table, cell, figure, fine, times, whole

GROWTH = {
    "finished": "finished tasks",
    "waiting": "tasks scheduled for later",
    "unserved": "tasks in a queue that nobody serves",
    "timers": "steps that wait for another attempt",
    "templates": "registered workflows",
}
DEARER = {
    "functions": "own µs of",
    "rows": "rows read of",
    "hit": "blocks of",
    "missed": "blocks read from the system of",
}
LEAST_RISE = {"functions": 1.0, "rows": 0.5, "hit": 0.5, "missed": 0.05}
"""What rose by less, for a step, is not told."""

LEAST_SHARE = 1.1
MOST_OF_A_KIND = 3
MOMENTS = 6
BROKER_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("start_p50_ms", "sent → entered, idle worker: p50, ms", fine),
    ("start_p99_ms", "the same: p99, ms", fine),
    ("rate", "tasks/s", whole),
    ("rate_events", "tasks/s with task events, and a receiver", whole),
    ("sent", "sent one by one, tasks/s", whole),
    ("event_p50_ms", "event → receiver: p50, ms", fine),
    ("event_max_ms", "the same: slowest, ms", fine),
)
WIDTHS = (10, 100, 1000)


def growth_table(run: Run) -> Table:
    """Large tables against small ones."""
    rows = []
    for name, what in GROWTH.items():
        key = f"growth_{name}"
        if figure(run, key) is None:
            continue
        rates = (_cell(run, f"{key}_rate_small", whole), _cell(run, f"{key}_rate_large", whole), _cell(run, key, times))
        waits = (
            _cell(run, f"{key}_ms_small", fine),
            _cell(run, f"{key}_ms_large", fine),
            _cell(run, f"{key}_p50", times),
        )
        ticks = [_median(run, f"{key}_tick_{side}") for side in ("small", "large")]
        size = f"{_size(run, key):,.0f} {what}"
        rows.append([size, *rates, _cell(run, f"{key}_cpu", times), *waits, " → ".join(ticks)])
    head = ["beside", "steps/s without", "with", "ratio", "CPU/step, ratio"]
    head += ["latency p50 without, ms", "with", "ratio", "tick, ms"]
    return "Growth: linear4, one process, in large tables and in small ones", head, rows


def dearer_table(run: Run) -> Table:
    """What has become dearer in large tables."""
    rows = []
    sizes = {name: f"{_size(run, f'growth_{name}'):,.0f} {what}" for name, what in GROWTH.items()}
    sizes["snapshot"] = f"a snapshot of {_size(run, 'snapshot_rate'):,.0f} s"
    for name, size in sizes.items():
        details = _details(run, name)
        for kind, text in DEARER.items():
            risen = [
                [size, f"{text} `{item}`", fine(small), fine(large)]
                for item, (small, large) in details.get(kind, {}).items()
                if large - small >= LEAST_RISE[kind] and large >= LEAST_SHARE * small
            ]
            rows += risen[:MOST_OF_A_KIND]
    return "Growth: what rose by a tenth and more, for each step", ["beside", "what", "without", "with"], rows


def snapshot_table(run: Run) -> Table:
    """A snapshot held open, over time."""
    moments = _details(run, "snapshot").get("over_time", [])
    shown = [moments[round(n * (len(moments) - 1) / (MOMENTS - 1))] for n in range(MOMENTS)] if moments else []
    rows = []
    for number, moment in enumerate(shown):
        if moment in shown[:number]:
            continue
        tables, without = moment["tables"], moment["tables_without"]
        sizes = [
            f"{found.get(table, {}).get('bytes', 0) / 2**20:.1f}"
            for table in ("workflow_steps", "q_bench_queue")
            for found in (without, tables)
        ]
        dead = f"{sum(table['dead'] for table in tables.values()):,}"
        rows.append([f"{moment['seconds']:.0f}", times(moment["rate"]), times(moment["p50"]), dead, *sizes])
    head = ["after, s", "steps/s, against none", "latency p50, against none", "dead rows"]
    head += ["steps without, MB", "with", "queue without, MB", "with"]
    return "A snapshot held open: linear4 beside it", head, rows


def dependency_table(run: Run) -> Table:
    """Counters against looking again."""
    rows = []
    for steps in WIDTHS:
        for way, text in (("batch", "50 at once"), ("alone", "one")):
            parts = ("counters", "ruler", "ratio", "completion")
            if figure(run, f"dependencies_ratio_{way}_{steps}") is not None:
                forms = (fine, fine, times, fine)
                cells = [
                    _cell(run, f"dependencies_{part}_{way}_{steps}", form)
                    for part, form in zip(parts, forms, strict=True)
                ]
                rows.append([f"{steps:,}", text, *cells])
    head = ["steps of a task", "completions in a call", "counters, µs", "looking again, µs", "ratio"]
    return "What is ready after a step has completed", [*head, "all of a completion, µs"], rows


def rolling_restart_table(run: Run) -> Table:
    """Workers replaced under load."""
    rows = []
    for pool in ("prefork", "threads", "solo"):
        key = f"rolling_restart_{pool}"
        if figure(run, f"{key}_end_s") is None:
            continue
        cells = [_cell(run, f"{key}_{part}_s", fine) for part in ("end", "serving")]
        cells += [_cell(run, f"{key}_released", whole), _cell(run, f"{key}_share", times)]
        for percent in ("p50", "p99"):
            pair = (_median(run, f"{key}_{percent}_{when}_ms") for when in ("peace", "replacing"))
            cells.append(" → ".join(pair))
        rows.append([pool, f"{_size(run, f'{key}_end_s'):.0f}", *cells])
    head = ["pool", "replacements", "SIGTERM → exit, s", "SIGTERM → successor works, s", "steps given back, each"]
    head += ["steps/s meanwhile, against peace", "task p50, peace → meanwhile, ms", "p99"]
    return (
        "Rolling restart: two workers replaced in turn under a steady load; nothing failed, no attempt was lost",
        head,
        rows,
    )


def transport_table(run: Run) -> Table:
    """Celery's broker on PostgreSQL beside Redis."""
    rows = []
    for pool in ("prefork", "threads"):
        for name, text, form in BROKER_FIGURES:
            key = f"transport_{pool}_{{}}_{name}"
            if figure(run, key.format("pgmq")) is not None:
                cells = [_cell(run, key.format(broker), form) for broker in ("pgmq", "redis")]
                rows.append([f"{pool}: {text}", *cells, _cell(run, f"transport_{pool}_{name}_ratio", times)])
    return "Celery's broker: PostgreSQL beside Redis", ["plain Celery tasks", "PostgreSQL", "Redis", "ratio"], rows


def control_table(run: Run) -> Table:
    """How long remote control takes, on both brokers."""
    prefix = "transport_prefork_pgmq_control_"
    names = [name[len(prefix) : -len("_p50_ms")] for name in run.get("figures") or {} if name.startswith(prefix)]
    rows = []
    for name in dict.fromkeys(name for name in names if figure(run, f"{prefix}{name}_p50_ms") is not None):
        cells = []
        for pool in ("prefork", "threads"):
            for broker in ("pgmq", "redis"):
                key = f"transport_{pool}_{broker}_control_{name}"
                cells.append(" / ".join(_median(run, f"{key}_{part}_ms") for part in ("p50", "max")))
        rows.append([f"`{name}`", *cells])
    head = ["p50 / max, ms", "prefork, PostgreSQL", "prefork, Redis", "threads, PostgreSQL", "threads, Redis"]
    return "Remote control: from the call to the answer", head, rows


def single_table(run: Run) -> Table:
    """All else."""
    rows = [[text, _cell(run, name, form)] for name, text, form in _singles(run) if figure(run, name) is not None]
    return "Single figures", ["figure", "measured"], rows


def origin_table(run: Run) -> Table:
    """Where and when they were measured."""
    rows = [
        [
            name,
            f"{at['size']:,.0f}",
            at["date"][:10],
            f"{at['revision']}{' with changes' if at['changed'] else ''}",
            f"{at['machine']['load_before'][0]}",
            f"{at['seconds']:.0f}",
        ]
        for name, at in (run.get("figures_from") or {}).items()
    ]
    return "Where these are from", ["program", "size", "date", "revision", "load before", "took, s"], rows


TABLES: Sequence[Callable[[Run], Table]] = (
    growth_table,
    dearer_table,
    snapshot_table,
    dependency_table,
    rolling_restart_table,
    transport_table,
    control_table,
    single_table,
    origin_table,
)


def _singles(run: Run) -> list[tuple[str, str, Callable[[float], str]]]:
    """Name, text and form of each figure that stands alone."""
    found: list[tuple[str, str, Callable[[float], str]]] = []
    for kind, text in (("same", "same executor"), ("other", "another process")):
        found += [
            (f"handoff_{kind}_ms", f"handoff, parent committed → child entered, {text}: p50, ms", fine),
            (f"handoff_{kind}_p99_ms", "the same: p99, ms", fine),
            (f"handoff_{kind}_whole_ms", f"parent's handler left → child's entered, {text}: p50, ms", fine),
        ]
    found += [
        ("other_languages_per_second", "results sent as messages, taken by one process, results/s", whole),
        (
            "other_languages_end_to_end",
            "linear4 by a worker that reports by message, steps/s",
            whole,
        ),
    ]
    one = f"one task of {_size(run, 'large_task_rate'):,.0f} steps"
    found += [
        ("large_task_cold", f"{one}, the first of its workflow, steps/s", whole),
        ("large_task_rate", f"{one}, later ones, steps/s", whole),
        ("large_task_against_linear4", "the same, against as many steps of linear4", times),
        ("large_task_against_wide2000", "the same, against as many steps of wide2000", times),
        ("large_task_cpu_against_linear4", "CPU for each step, against linear4", times),
        ("large_task_cpu_against_wide2000", "CPU for each step, against wide2000", times),
    ]
    large = f"contexts and results of {_size(run, 'payload_rate') / 1000:,.0f} kB"
    found += [
        ("payload_rate", f"{large}, one executor, steps/s", whole),
        ("payload_mb_per_second", "the same, MB of results/s", whole),
        ("payload_against_small", "the same, against a few bytes", times),
        ("payload_ms", "the same, one chain of four alone, ms", fine),
        ("payload_ms_small", "one chain of four with a few bytes alone, ms", fine),
        ("snapshot_rate", f"throughput while a snapshot is held for {_size(run, 'snapshot_rate'):.0f} s", times),
        ("snapshot_rate_late", "the same, in the last quarter", times),
        ("snapshot_p50", "latency p50 while a snapshot is held", times),
        ("snapshot_p50_late", "the same, in the last quarter", times),
        ("snapshot_cpu", "CPU for each step while a snapshot is held", times),
        ("snapshot_cpu_late", "the same, in the last quarter", times),
        ("transport_commit_ms", "beside the brokers: a row inserted and committed, p50, ms", fine),
        ("memory_first_mb", "an executor's process after 10,000 steps, MB", fine),
        ("memory_last_mb", f"the same after {_size(run, 'memory_growth'):,.0f}, MB", fine),
        ("memory_growth", "the same, ratio", times),
        ("step_events_off_rate", "linear4, two hosted executors, without events of steps, steps/s", whole),
        ("step_events_unheard", "the same with events that nobody hears (-E), ratio", times),
        ("step_events_heard", "the same with events that a program on this machine takes in, ratio", times),
        ("step_events_unheard_cpu", "CPU of the workers for each step with events that nobody hears, ratio", times),
        ("step_events_heard_cpu", "the same with events that are heard, ratio", times),
        ("step_events_share", "share of events that it heard", times),
        (
            "domain_events_stored",
            "durable domain events stored with the steps of one executor, four each, events/s",
            whole,
        ),
        ("domain_events_ratio", "the same, steps against such without events, ratio", times),
        ("domain_events_consumed", "durable domain events handled and deleted by one consumer, events/s", whole),
        ("domain_events_heard", "fast domain events heard in the process of one executor, events/s", whole),
        ("domain_events_fast_ratio", "the same, steps against such without events, ratio", times),
    ]
    return found


def _cell(run: Run, name: str, form: Callable[[float], str]) -> str:
    return cell(figure(run, name), form)


def _median(run: Run, name: str) -> str:
    spread: Spread | None = figure(run, name)
    return NOTHING if spread is None else fine(spread.median)


def _size(run: Run, name: str) -> float:
    return float((run.get("figures") or {}).get(name, {}).get("size", 0))


def _details(run: Run, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (run.get("figures_details") or {}).get(name) or {}
    return found
