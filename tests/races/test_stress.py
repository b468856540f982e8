"""Processes that make any calls at any moment on the same tasks, each in an order of its own.

No transaction is held open, and nobody waits for anybody but by the locks of the calls: whoever locks in an order that
others do not keep meets a deadlock here. Each round ends as every race does: everything is run to its end.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from tests.races.cast import ACTORS, EVERYBODY
from tests.races.rounds import Lane, ask, record
from tests.races.stages import SITUATIONS, Stage
from tests.sql_kit import Core

PROCESSES = 4
TASKS = 8
CALLS = 3
"""Of each process in one round."""
MEETING = [*ACTORS, "begin_tick", "record_tick", "prune_registrations", "queue_read"]
Heard = tuple[str, bool, bool, str]


def play(url: str, talk: Connection) -> None:
    """A process: makes the calls it is told to, and tells what came of them."""
    core = Core(url)
    core.connection.execute("SET statement_timeout = '20s'")
    talk.send("ready")
    while (told := talk.recv()) is not None:
        stage, names = told
        stage.core = core
        heard: list[Heard] = []
        for name in names:
            result = ask(stage, EVERYBODY[name], core)
            record(stage, EVERYBODY[name], result)
            heard.append((name, result.failed, result.refused, result.said if result.failed else ""))
        talk.send((heard, stage.effects))
    core.close()


@contextmanager
def players(url: str) -> Iterator[list[Connection]]:
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe() for _ in range(PROCESSES)]
    processes = [spawn.Process(target=play, args=(url, there)) for _, there in ends]
    for process in processes:
        process.start()
    try:
        for here, _ in ends:
            assert here.poll(60)
            assert here.recv() == "ready"
        yield [here for here, _ in ends]
        for here, _ in ends:
            here.send(None)
        for process in processes:
            process.join(20)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
            process.join()


def view(stage: Stage, draw: random.Random) -> Stage:
    """The stage as one process sees it: in another order, without what cannot travel."""
    seen = copy.copy(stage)
    seen.core = None  # type: ignore[assignment]
    seen.effects = Counter()
    seen.tasks = draw.sample(stage.tasks, len(stage.tasks))
    seen.first, seen.second, seen.third, seen.fourth = (
        holder.without_session() for holder in (stage.first, stage.second, stage.third, stage.fourth)
    )
    for holder in (seen.first, seen.second):
        holder.held = draw.sample(holder.held, len(holder.held))
    seen.prepared = {
        key: draw.sample(value, len(value)) if isinstance(value, list) else value
        for key, value in stage.prepared.items()
    }
    return seen


@pytest.mark.parametrize(
    "seconds", [12, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(900)])], ids=["short", "long"]
)
def test_calls_in_any_order_on_many_tasks_meet_no_deadlock(tasker_database_url: str, seconds: float) -> None:
    seed = int(os.environ.get("TASKER_TEST_SEED") or random.SystemRandom().randint(0, 2**32))
    print(f"TASKER_TEST_SEED={seed}")
    draw = random.Random(seed)
    calls: Counter[str] = Counter()
    rounds = 0
    with closing(Lane(tasker_database_url)) as lane, players(tasker_database_url) as connections:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not lane.problems:
            rounds += 1
            situation = draw.choice(list(SITUATIONS))
            # A few calls, of which several processes draw the same.
            names = draw.sample(MEETING, 4)
            stage = lane.set_stage(situation, *(EVERYBODY[name] for name in names), count=TASKS)
            drawn = [draw.choices(names, k=CALLS) for _ in connections]
            for talk, mine in zip(connections, drawn, strict=True):
                talk.send((view(stage, draw), mine))
            for talk in connections:
                assert talk.poll(60), f"{situation}: {drawn}: no answer"
                heard: list[Heard]
                effects: Counter[Any]
                heard, effects = talk.recv()
                stage.effects += effects
                for name, failed, refused, said in heard:
                    calls["refused" if refused else "answered"] += 1
                    if failed:
                        lane.problems.append(f"round {rounds}, {situation}: {drawn}: {name}: {said}")
            lane.end(stage, f"round {rounds}, {situation}: {drawn}")
        print(f"{rounds} rounds of {PROCESSES} processes: {dict(calls)}")
        assert lane.problems == []
        assert lane.core.broken_rules() == []
