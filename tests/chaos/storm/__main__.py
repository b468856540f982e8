"""The long form: storms of all kinds, one after the other, for so many minutes.

    python -m tests.chaos.storm [--minutes 10] [--tasks 2000] [--seconds 40] [--kinds server,cut] [--json chaos.json]

The seed is TASKER_TEST_SEED, or one that is made up; it is printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tests.chaos.storm.kinds import KINDS
from tests.chaos.storm.server import storm_server
from tests.chaos.storm.storm import Outcome, storm, table


def main() -> int:
    """Let it storm; 1 if anything happened that may not."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks of each storm")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long harm is done in each storm")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, in order")
    parser.add_argument("--json", type=Path, help="where the outcomes are written")
    parser.add_argument("--keep", type=Path, help="where logs of storms with violations are kept")
    parser.add_argument("--revision", help="which code this is; asked of git unless given")
    given = parser.parse_args()
    # However it is told to stop, processes and the disk go with it.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # That connections break is no news here.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    seed = os.environ.get("TASKER_TEST_SEED") or str(random.SystemRandom().randint(0, 2**32))
    print(f"TASKER_TEST_SEED={seed}", flush=True)
    end = time.monotonic() + given.minutes * 60
    outcomes: list[Outcome] = []
    kinds = given.kinds.split(",")
    while time.monotonic() < end:
        number = len(outcomes)
        kind = kinds[number % len(kinds)]
        folder = Path(tempfile.mkdtemp(prefix="tasker-chaos-logs-"))
        with storm_server() as server:
            outcome = storm(
                server,
                folder,
                kind,
                tasks=given.tasks,
                seconds=given.seconds,
                seed=f"{seed}-{number // len(kinds)}",
                of_revision=given.revision,
            )
        outcomes.append(outcome)
        _tell(outcome)
        if outcome.violations and given.keep:
            shutil.copytree(folder, given.keep / f"{kind}-{seed}-{number}", dirs_exist_ok=True)
        shutil.rmtree(folder)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps([each.as_json() for each in outcomes], indent=1))
    print(table(outcomes))
    return int(any(outcome.violations for outcome in outcomes))


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _tell(outcome: Outcome) -> None:
    print(
        f"{outcome.kind} ({outcome.seconds:g} s, seed {outcome.seed}, {outcome.revision}): {outcome.harm};"
        f" {outcome.tasks} tasks, {outcome.effects} effects, {outcome.losses} losses, requeued {outcome.requeued},"
        f" not taken {outcome.unreported}, refused {outcome.refused}, errors {outcome.errors},"
        f" checked {outcome.checks} times, violations {outcome.violations or 'none'}",
        flush=True,
    )
    for kind, examples in outcome.examples.items():
        for example in examples:
            print(f"  VIOLATION {kind}: {example}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
