"""Large tables against small ones: the same work beside a million finished tasks, a hundred thousand waiting ones.

Whatever is large was laid down by the engine's own functions, but for finished tasks (`benchmarks.figures.history`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg

from benchmarks.engines.tasker_setup import NAMESPACE, QUEUE, register, request
from benchmarks.figures.found import Found
from benchmarks.figures.history import finished_tasks
from benchmarks.figures.pairs import LARGE, SMALL, Pair, Turns, measure_pair
from benchmarks.figures.sizes import Sizes
from benchmarks.figures.sql_worker import SqlWorker
from benchmarks.inside import CHAIN, SUBMITTED_AT_ONCE
from benchmarks.servers import Servers
from benchmarks.shapes import SHAPES
from tasker import Tasker

ELSEWHERE = "elsewhere"
FAR = dt.timedelta(days=20)
PLAIN = SHAPES["plain"]
DEAREST = 5


@contextlib.contextmanager
def finished(count: int, url: str) -> Iterator[None]:
    """Tasks that have ended well."""
    finished_tasks(url, CHAIN, count)
    yield


@contextlib.contextmanager
def waiting(count: int, url: str) -> Iterator[None]:
    """Tasks whose time has not come."""
    run_at = dt.datetime.now(tz=dt.UTC) + FAR
    _create(url, count, lambda n: {**request(CHAIN, n), "run_at": run_at})
    yield


@contextlib.contextmanager
def unserved(count: int, url: str) -> Iterator[None]:
    """Tasks whose first step lies in a queue that no executor serves."""
    register(url, CHAIN, [ELSEWHERE])
    _create(url, count, lambda n: {**request(CHAIN, n), "namespace": ELSEWHERE})
    yield


@contextlib.contextmanager
def timers(count: int, url: str) -> Iterator[None]:
    """Steps that failed and are tried again in a while; of the queue that the executor serves."""
    register(url, PLAIN)
    _create(url, count, lambda n: request(PLAIN, n))
    error = {"message": "not now", "type": "Away", "retry_after_seconds": FAR.total_seconds()}
    with SqlWorker(url, [QUEUE]) as worker:
        while steps := worker.claim():
            worker.complete([{**step, "status": "error", "error": error} for step in steps])
    yield


@contextlib.contextmanager
def templates(count: int, url: str) -> Iterator[None]:
    """Registered workflows."""
    handler = {"callable": "nobody.knows"}
    steps = [{"name": step, "handler": handler, "depends_on": list(parents)} for step, parents in CHAIN.parents.items()]
    document = {"namespace": NAMESPACE, "version": "1.0.0", "digest": "1", "steps": steps}
    with psycopg.connect(url, autocommit=True) as connection:
        for first in range(0, count, SUBMITTED_AT_ONCE):
            connection.execute(
                "SELECT count(tasker.register_template(jsonb_set(%s, '{name}', to_jsonb('workflow_' || n))))"
                " FROM generate_series(CAST(%s AS integer), %s) AS n",
                [json.dumps(document), first, min(first + SUBMITTED_AT_ONCE, count) - 1],
            )
    yield


def _create(url: str, count: int, task: Callable[[int], Mapping[str, Any]]) -> None:
    with Tasker(url) as client:
        for first in range(0, count, SUBMITTED_AT_ONCE):
            client.create_many([task(n) for n in range(first, min(first + SUBMITTED_AT_ONCE, count))])


CONDITIONS = {
    "finished": finished,
    "waiting": waiting,
    "unserved": unserved,
    "timers": timers,
    "templates": templates,
}


def grow(name: str, found: Servers, sizes: Sizes) -> Found:
    """Measure one condition."""
    count = sizes.waiting if name == "unserved" else getattr(sizes, name)
    pair = measure_pair(
        found,
        functools.partial(CONDITIONS[name], count),
        rounds=sizes.rounds,
        seconds=sizes.seconds,
        latencies=sizes.latencies,
    )
    details = {"laid_seconds": pair.laid_seconds, "bytes": pair.bytes, **dearer(pair)}
    return Found(figures_of(name, pair), size=count, details=details)


def figures_of(name: str, pair: Pair) -> dict[str, list[float]]:
    """A list of each figure's values by round; a ratio is large against small."""
    rate = Turns.of(pair.samples, lambda sample: sample["steps"] / sample["seconds"])
    p50 = Turns.of(pair.samples, lambda sample: sample["p50"] * 1000)
    cpu = Turns.of(pair.samples, lambda sample: 1e6 * sum(sample["cpu"].values()) / sample["steps"])
    found = {f"growth_{name}": rate.ratios, f"growth_{name}_p50": p50.ratios, f"growth_{name}_cpu": cpu.ratios}
    for what, sides in (("rate", rate), ("ms", p50)):
        found[f"growth_{name}_{what}_small"] = [*sides.small.values()]
        found[f"growth_{name}_{what}_large"] = [*sides.large.values()]
    for side in (SMALL, LARGE):
        found[f"growth_{name}_tick_{side}"] = pair.watched[side]["ticks"]
    return found


def dearer(pair: Pair) -> dict[str, Any]:
    """Why: what has become dearer for a step, by PostgreSQL's counters; by name, without and with."""
    small, large = pair.watched[SMALL], pair.watched[LARGE]
    return {
        "functions": _dearest(small["functions"], large["functions"]),
        **{
            what: _dearest(*({t: c[what] for t, c in side["tables"].items()} for side in (small, large)))
            for what in ("rows", "missed", "hit")
        },
    }


def _dearest(small: dict[str, float], large: dict[str, float]) -> dict[str, list[float]]:
    """Those that rose most: by name, both figures."""
    risen = sorted(large, key=lambda name: large[name] - small.get(name, 0.0), reverse=True)
    return {name: [small.get(name, 0.0), large[name]] for name in risen[:DEAREST]}
