"""All programs of figures by name, and how their figures come into a run."""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import (
    dependencies,
    domain_events,
    growth,
    handoff,
    large_task,
    memory,
    other_languages,
    payloads,
    rolling_restart,
    snapshot,
    step_events,
    transport,
)
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.measuring import say
from benchmarks.record import about
from benchmarks.servers import Servers, servers

Program = Callable[[Servers, Sizes], Found]

PROGRAMS: dict[str, Program] = {
    "handoff": handoff.measure,
    "dependencies": dependencies.measure,
    "other_languages": other_languages.measure,
    "large_task": large_task.measure,
    "payloads": payloads.measure,
    **{name: functools.partial(growth.grow, name) for name in growth.CONDITIONS},
    "snapshot": snapshot.measure,
    "memory": memory.measure,
    "step_events": step_events.measure,
    "domain_events": domain_events.measure,
    "rolling_restart": rolling_restart.measure,
    "transport": transport.measure,
}

SETTINGS = {"track_commit_timestamp": "on"}
"""What `benchmarks.figures.handoff` needs of the server."""

REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
COMPARED_WITH_REDIS = frozenset({"transport"})


def measure_into(
    run: dict[str, Any], names: Sequence[str], sizes: Sizes, *, database_url: str | None, keep: Callable[[], object]
) -> dict[str, str]:
    """Measure, and put the figures into a run in place of those it had.

    Args:
        run: gets ``figures`` (values and size by name), and by program ``figures_details``, ``figures_from`` (when and
            where they were measured, and how long that took) and ``figures_failed``.
        names: of programs, in the order of their turn.
        sizes: how much.
        database_url: a PostgreSQL on this machine; None starts one.
        keep: called after each program, so that nothing is lost if a later one is ended.

    Returns:
        What failed, by program.
    """
    parts: dict[str, dict[str, Any]] = {
        part: run.setdefault(f"figures{part}", {}) for part in ("", "_details", "_from", "_failed")
    }
    failed: dict[str, str] = {}
    redis = not COMPARED_WITH_REDIS.isdisjoint(names)
    with servers(database_url=database_url, redis_url=REDIS_URL, redis=redis, rabbitmq=False, settings=SETTINGS) as at:
        origin = about(at, [])
        for name in names:
            begun = time.monotonic()
            parts["_failed"].pop(name, None)
            try:
                found = PROGRAMS[name](at, sizes)
            except Exception as error:
                failed[name] = parts["_failed"][name] = f"{type(error).__name__}: {error}"
                say(traceback.format_exc())
                say(f"{name} FAILED")
            else:
                seconds = time.monotonic() - begun
                for figure, values in found.figures.items():
                    parts[""][figure] = {"values": values, "size": found.size}
                parts["_details"][name] = found.details
                parts["_from"][name] = {**origin, "size": found.size, "seconds": seconds}
                say(f"{name}: {seconds:.0f} s")
            keep()
    return failed
