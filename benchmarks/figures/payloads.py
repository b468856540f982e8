"""Contexts and results of 100 kB against the few bytes of all other figures: a chain of four, one executor.

Each task carries a context of that size, and each of its steps returns a result of it. The text is random, so that
nothing gains by compressing it.
"""

from __future__ import annotations

import base64
import os
import time

import psycopg

from benchmarks.engines.tasker_setup import register, request
from benchmarks.figures.found import Found
from benchmarks.figures.sizes import Sizes
from benchmarks.inside import CHAIN, executor_here
from benchmarks.servers import Servers
from benchmarks.shapes import WrongResult
from tasker import Tasker
from tasker.database.migrations import migrate

BATCH = 50
TASKS = 200
CREATED_AT_ONCE = 20
LONGEST_SECONDS = 300.0
CHECK = """
    SELECT count(*) FROM tasker.workflow_steps AS s JOIN tasker.task_contexts AS c USING (task_uuid)
    WHERE s.state = 'complete' AND s.results->>'carried' = c.context->>'carried'
"""


def measure(found: Servers, sizes: Sizes) -> Found:
    """Steps per second, and what size costs: throughput and the time of one task against a few bytes."""
    rates: dict[str, list[float]] = {"large": [], "small": []}
    alone: dict[str, list[float]] = {"large": [], "small": []}
    for number in range(sizes.rounds):
        for kind in sorted(rates, reverse=bool(number % 2)):
            carried = 8 if kind == "small" else sizes.payload_bytes
            rate, milliseconds = _chains(found, carried, min(TASKS, 40 * sizes.latencies), sizes.latencies)
            rates[kind].append(rate)
            alone[kind].append(milliseconds)
    figures = {
        "payload_rate": rates["large"],
        "payload_mb_per_second": [rate * sizes.payload_bytes / 1e6 for rate in rates["large"]],
        "payload_against_small": [one / other for one, other in zip(rates["large"], rates["small"], strict=True)],
        "payload_ms": alone["large"],
        "payload_ms_small": alone["small"],
    }
    return Found(figures, size=sizes.payload_bytes)


def _chains(found: Servers, carried: int, tasks: int, alone: int) -> tuple[float, float]:
    """Steps per second of many, and milliseconds of one, which is created, worked off and read by this process."""
    url = found.postgresql.create()
    try:
        migrate(url)
        register(url, CHAIN, handler="echo")
        with executor_here(url, BATCH) as loop, Tasker(url) as client:
            _create(client, carried, CREATED_AT_ONCE)
            loop.run_until_idle(LONGEST_SECONDS)
            for _ in range(-(-tasks // CREATED_AT_ONCE)):
                _create(client, carried, CREATED_AT_ONCE)
            begun = time.perf_counter()
            loop.run_until_idle(LONGEST_SECONDS)
            seconds = time.perf_counter() - begun
            taken = []
            for _ in range(alone):
                begun_one = time.perf_counter()
                _create(client, carried, 1)
                loop.run_until_idle(LONGEST_SECONDS)
                taken.append(time.perf_counter() - begun_one)
        steps = -(-tasks // CREATED_AT_ONCE) * CREATED_AT_ONCE * CHAIN.steps
        with psycopg.connect(url) as connection:
            row = connection.execute(CHECK).fetchone()
        if row != (steps + (CREATED_AT_ONCE + alone) * CHAIN.steps,):
            raise WrongResult(f"{row} steps returned what their task carries")
    finally:
        found.postgresql.drop(url)
    return steps / seconds, sorted(taken)[len(taken) // 2] * 1000


def _create(client: Tasker, carried: int, tasks: int) -> None:
    asked = []
    for n in range(tasks):
        text = base64.b64encode(os.urandom(carried * 3 // 4)).decode()
        asked.append({**request(CHAIN, n), "context": {"n": n, "carried": text}})
    client.create_many(asked)
