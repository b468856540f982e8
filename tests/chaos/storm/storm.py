"""One storm: work for some processes, harm while they do it, calm, and the verdict."""

from __future__ import annotations

import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.chaos.storm import effects
from tests.chaos.storm.arena import Arena, passes
from tests.chaos.storm.cutting_proxy import ROOT
from tests.chaos.storm.kinds import KINDS, Kind
from tests.chaos.storm.server import StormServer
from tests.chaos.storm.verdict import Verdict, Violations, check_rules
from tests.sql_kit import Core
from tests.waiting import wait_until

PATIENCE_SECONDS = 150.0
"""How long what is left to do may take once all is calm; waits between attempts grow to half a minute."""


@dataclass
class Outcome:
    """What became of a storm.

    Attributes:
        kind: its kind.
        seed: of all its choices.
        revision: of the code.
        seconds: how long it took.
        phases: how long each part of it took, in seconds.
        harm: what was done, how often.
        tasks: how many ended.
        steps: of those tasks that ran.
        effects: how often a handler began.
        losses: steps whose executor was lost.
        requeued: why steps went back to their queues.
        unreported: results of handlers that nobody took.
        refused: stale results that were refused, as far as those who sent them lived to count them.
        restarts: processes that were started again.
        errors: steps in ``error``, by type.
        checks: how often the rules were checked on the way.
        violations: by kind; there may be none.
        examples: of the violations.
    """

    kind: str
    seed: str
    revision: str
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    harm: dict[str, int] = field(default_factory=dict)
    tasks: int = 0
    steps: int = 0
    effects: int = 0
    losses: int = 0
    requeued: dict[str, int] = field(default_factory=dict)
    unreported: int = 0
    refused: int = 0
    restarts: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    violations: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def storm(
    server: StormServer,
    folder: Path,
    kind_name: str,
    *,
    tasks: int,
    seconds: float,
    seed: str,
    of_revision: str | None = None,
) -> Outcome:
    """Let one storm blow for about ``seconds``, and judge it.

    Args:
        server: PostgreSQL.
        folder: empty, for logs and the book of effects.
        kind_name: a key of ``KINDS``.
        tasks: how many tasks there are to do.
        seconds: how long harm is done.
        seed: of all choices.
        of_revision: which code this is; asked of git unless given.
    """
    outcome = Outcome(KINDS[kind_name].name, seed, of_revision or revision())
    watch = _Watch(outcome.phases)
    violations = Violations()
    randomly = Random(f"{seed} {kind_name}")
    arena = Arena(server, folder, tasks=tasks, seed=seed, proxied=KINDS[kind_name].proxied)
    try:
        kind = KINDS[kind_name](arena, randomly)
        kind.prepare()
        arena.pace(seconds * 0.8)
        arena.open()
        kind.begin()
        watch.ended("opening")
        _blow(arena, kind, randomly, time.monotonic() + seconds, outcome, violations)
        watch.ended("storm")
        kind.calm()
        _calm(arena, violations)
        watch.ended("calm")
        kind.after_the_end()
        _drained(arena, violations)
        arena.note_counters()
        outcome.harm, outcome.refused = dict(+kind.acts), kind.refused + arena.refused
        outcome.restarts = arena.restarts
        arena.stop_creating()
        arena.end_processes()
        watch.ended("closing")
        verdict = Verdict(arena.url, effects.read(arena.book), tasks)
        watch.ended("judging")
        for process in arena.left():
            violations.add("a process was left behind", process)
        for error in arena.unexpected:
            violations.add("creating a task failed for no reason of the storm's", error)
    finally:
        arena.close()
    figures = verdict.figures
    outcome.tasks, outcome.steps, outcome.effects = figures.tasks, figures.steps, figures.effects
    outcome.losses, outcome.unreported = figures.losses, figures.unreported
    if kind.all_results_are_reported:
        outcome.refused += figures.unreported
    outcome.requeued, outcome.errors = dict(figures.requeued), dict(figures.errors)
    outcome.violations = dict(violations.counts + verdict.violations.counts)
    outcome.examples = {**verdict.violations.examples, **violations.examples}
    watch.ended("cleaning up")
    outcome.seconds = round(sum(outcome.phases.values()), 1)
    return outcome


class _Watch:
    """Measures the parts of a storm."""

    def __init__(self, phases: dict[str, float]) -> None:
        self._phases = phases
        self._began = time.monotonic()

    def ended(self, phase: str) -> None:
        """What went on until now was that phase."""
        now = time.monotonic()
        self._phases[phase] = round(now - self._began, 1)
        self._began = now


def _blow(arena: Arena, kind: Kind, randomly: Random, end: float, outcome: Outcome, violations: Violations) -> None:
    next_check, next_note = time.monotonic() + 1, 0.0
    while (now := time.monotonic()) < end:
        arena.mind()
        if not arena.all_ended:
            kind.act()
        if now >= next_note:
            arena.note_counters()
            next_note = now + 0.5
        if now >= next_check:
            outcome.checks += _check(arena, violations)
            next_check = time.monotonic() + randomly.uniform(1, 3)
        time.sleep(randomly.uniform(*kind.pause))


def _check(arena: Arena, violations: Violations) -> bool:
    """Check the rules in the middle of it all; whether there was a server to ask."""
    try:
        core = Core(arena.url)
        core.move_clock(0)
        try:
            return check_rules(core, violations)
        finally:
            core.close()
    except psycopg.Error as error:
        if not passes(error):
            raise
        return False


def _calm(arena: Arena, violations: Violations) -> None:
    """Wait until all that was to be done is done."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not arena.all_ended:
        if time.monotonic() > deadline:
            violations.add("not all tasks ended", f"{arena.created} created of {arena.tasks}")
            return
        arena.mind()
        arena.note_counters()
        time.sleep(0.1)


def _drained(arena: Arena, violations: Violations) -> None:
    """Wait until no message is left of which somebody could still make something."""
    queues = ("chaos_queue", "orchestration_step_results", "task_finalization", "task_requests_queue", "step_enqueue")
    query = " + ".join(f"(SELECT count(*) FROM pgmq.q_{queue})" for queue in queues)
    try:
        wait_until(lambda: arena.value(f"SELECT {query}") == 0, "all messages are used up", PATIENCE_SECONDS)
    except AssertionError:
        alive = "SELECT jsonb_agg(to_jsonb(x)) FROM tasker.executors x WHERE lost_at IS NULL"
        violations.add("messages are left over", ("executors alive", arena.value(alive)))
        for queue in queues:
            left = f"SELECT jsonb_agg(to_jsonb(q) || jsonb_build_object('now', now())) FROM pgmq.q_{queue} q"
            violations.add("messages are left over", (queue, arena.value(left)))


def revision() -> str:
    """The code that is tested; with a plus where the engine differs from what was committed."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "tasker", "migrations", "settings")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def table(outcomes: list[Outcome]) -> str:
    """One line per kind, and a sum."""
    head = ("kind", "storms", "harm", "tasks", "effects", "losses", "not taken", "refused", "violations")
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    rows = [head, *(_row(name, group) for name, group in by_kind.items()), _row("all", outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def _row(name: str, group: list[Outcome]) -> tuple[str, ...]:
    numbers = (
        len(group),
        sum(sum(outcome.harm.values()) for outcome in group),
        sum(outcome.tasks for outcome in group),
        sum(outcome.effects for outcome in group),
        sum(outcome.losses for outcome in group),
        sum(outcome.unreported for outcome in group),
        sum(outcome.refused for outcome in group),
        sum(sum(outcome.violations.values()) for outcome in group),
    )
    return (name, *(f"{number:,}" for number in numbers))
