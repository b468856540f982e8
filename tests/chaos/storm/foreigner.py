"""An executor in another language, by the contract of the SQL core alone, and with the worst of manners that it allows.

It claims steps beside the real ones, repeats its calls, posts each result several times and in any order, falls silent
and speaks up when others have long done its work, and posts results of runs that never were.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.chaos.storm import effects, shapes
from tests.chaos.storm.arena import HEARTBEAT_SECONDS, LEASE_SECONDS, Arena
from tests.sql_kit import Core, Worker

FORGED = -999_999
"""The value in results of runs that never were."""

_EXECUTOR_LOST = "TK006"
_MOST_HELD = 12


@dataclass(eq=False)
class Run:
    """A step that was claimed and run here.

    Attributes:
        call_no: under which call it is held.
        outcome: what is to be reported, with the keys of the step and the executor.
        posted: whether that was sent as a message, so that somebody else records it.
    """

    call_no: int
    outcome: dict[str, Any]
    posted: bool = False


class Foreigner:
    """See the module.

    Args:
        arena: where it works.
        randomly: its choices.
    """

    def __init__(self, arena: Arena, randomly: Random) -> None:
        self._arena = arena
        self._random = randomly
        self.acts: Counter[str] = Counter()
        self.refused = 0
        self._core: Core | None = None
        self._worker: Worker | None = None
        self._runs: list[Run] = []
        self._late: list[tuple[float, dict[str, Any]]] = []
        """Messages, and when they are sent at the earliest."""

        self._steps: dict[tuple[int, int], tuple[str, bool]] = {}
        self._beaten_at = 0.0

    # -- what it does ---------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One piece of work, or of harm. A database that is away costs it its name and all that it held."""
        try:
            self._connect()
            self._heartbeat()
            acts = (self._claim, self._report, self._post, self._forge, self._fall_silent, self._post_late)
            self._random.choices(acts, [6, 5, 5, 4, 0.3, 2])[0]()
        except psycopg.Error as error:
            if error.sqlstate == _EXECUTOR_LOST:
                self.acts["declared lost"] += 1
            elif error.sqlstate is not None and error.sqlstate[:2] not in ("53", "55", "57", "40", "08", "58"):
                raise
            self._give_up()

    def end(self) -> None:
        """Report what is held, and take leave."""
        deadline = time.monotonic() + 20
        while self._runs and time.monotonic() < deadline:
            try:
                self._connect()
                self._heartbeat()
                self._report(len(self._runs))
                self._settle_posted()
            except psycopg.Error:
                self._give_up()
            time.sleep(0.02)
        worker = self._worker
        self._give_up()
        if worker is not None:
            try:
                with self._arena.connection() as connection:
                    request = Jsonb({"executor": worker.uuid, "finished": list(range(1, worker.call_no + 1))})
                    connection.execute("SELECT tasker.deregister_executor(%s)", [request])
            except psycopg.OperationalError:
                pass  # the sweep finds it

    def after_the_end(self) -> None:
        """All tasks have ended: the rest of the late messages, and some forged ones."""
        self._connect()
        self._post_late(all_of_them=True)
        for _ in range(10):
            self._forge()
        if self._core is not None:
            self._core.close()

    # -- claiming and running -------------------------------------------------------------------------------------

    def _claim(self) -> None:
        if len(self._runs) >= _MOST_HELD:
            return
        core, worker = self._there()
        steps = worker.claim(self._random.randint(1, 4), finished=self._finished())
        self._run(core, worker, worker.last, steps)

    def _run(self, core: Core, worker: Worker, answer: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> None:
        for step in steps:
            task, fence = step["task_uuid"], step["fence"]
            name, retryable = self._steps[step["template"], step["position"]]
            if not retryable and not self._may_start(core, worker, step):
                continue
            n = answer["tasks"][task]["context"]["n"]
            parents = answer["results"].get(task, {})
            effects.write("begin", task, name, fence, book=self._arena.book)
            outcome: dict[str, Any] = {
                **{key: step[key] for key in ("task_uuid", "step_uuid", "position", "map_index", "fence")},
                "executor": worker.uuid,
            }
            if name == "refuse":
                outcome |= {"status": "error", "error": {"message": "never", "type": "Refused", "retryable": False}}
            elif name == "moody" and step["attempt"] <= n % shapes.FLAKY_FAILURES:
                outcome |= {"status": "error", "error": {"message": "not yet", "type": "Moody", "retryable": True}}
            else:
                # Results of all parents of the task's claimed steps come together.
                wanted = self._parents[step["template"], step["position"]]
                mine = {position: result for position, result in parents.items() if int(position) in wanted}
                outcome |= {"status": "complete", "results": {"value": shapes.value_of(n, mine), "fence": fence}}
                effects.write("end", task, name, fence, book=self._arena.book)
            self._runs.append(Run(answer["call_no"], outcome))
            self.acts["steps run"] += 1

    def _may_start(self, core: Core, worker: Worker, step: Mapping[str, Any]) -> bool:
        key = {name: step[name] for name in ("task_uuid", "position", "map_index", "fence")}
        (started,) = core.call("mark_steps_started", {"executor": worker.uuid, "steps": [key]})["started"]
        return bool(started)

    # -- reporting ------------------------------------------------------------------------------------------------

    def _report(self, most: int = 5) -> None:
        """By call, which is then repeated: at once or later, alone or beside its twin."""
        core, worker = self._there()
        open_runs = [run for run in self._runs if not run.posted]
        if not open_runs:
            return
        runs = self._random.sample(open_runs, min(len(open_runs), self._random.randint(1, most)))
        worker.call_no += 1
        request = {
            "executor": worker.uuid,
            "call_no": worker.call_no,
            "queues": worker.queues,
            "outcomes": [{**run.outcome, "may_continue": True} for run in runs],
            "finished": self._finished(),
            "continue_limit": self._random.choice([0, 0, 2]),
            "budget_ms": 1000,
        }
        times = self._random.choice([1, 2, 3])
        if times > 1 and self._random.random() < 0.5:
            answers = self._at_once(request, times)
        else:
            answers = [core.call("complete_steps", request) for _ in range(times)]
        self.acts["completions repeated"] += times - 1
        verdicts = [[outcome["answer"] for outcome in answer["outcomes"]] for answer in answers]
        self.refused += sum(each.count("stale") for each in verdicts)
        settled = {number for each in verdicts for number, verdict in enumerate(each) if verdict != "busy"}
        for number, run in enumerate(runs):
            if number in settled:
                self._runs.remove(run)
                if self._random.random() < 0.3:
                    self._keep_for_later(run)
        # Every repeat hands back what the first one continued.
        longest = max(answers, key=lambda answer: len(answer["steps"]))
        self._run(core, worker, longest, longest["steps"])

    def _at_once(self, request: dict[str, Any], times: int) -> list[dict[str, Any]]:
        def call(_number: int) -> dict[str, Any]:
            core = Core(self._arena.url)
            try:
                return dict(core.call("complete_steps", request))
            finally:
                core.close()

        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(call, range(times)))

    def _post(self) -> None:
        """By message: each sent once or more, in any order."""
        runs = [run for run in self._runs if not run.posted]
        chosen = self._random.sample(runs, min(len(runs), self._random.randint(1, 4)))
        messages = [run.outcome for run in chosen for _ in range(self._random.choice([1, 2, 3]))]
        self._random.shuffle(messages)
        self._send(messages)
        for run in chosen:
            run.posted = True
            if self._random.random() < 0.5:
                self._keep_for_later(run)
        self.acts["results posted twice or more"] += len(messages) - len(chosen)

    def _keep_for_later(self, run: Run) -> None:
        self._late.append((time.monotonic() + self._random.uniform(0, 6), run.outcome))

    def _post_late(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        due = [entry for entry in self._late if all_of_them or entry[0] <= now]
        self._send([outcome for _at, outcome in due])
        self._late = [entry for entry in self._late if entry not in due]
        self.acts["results posted late"] += len(due)

    def _forge(self) -> None:
        """Results of runs that never were, of steps that run or are done: an old fence, a stranger, a repeat."""
        core, worker = self._there()
        rows = core.rows(
            "SELECT s.task_uuid, s.step_uuid, s.fence, s.executor, s.state FROM tasker.workflow_steps AS s"
            " TABLESAMPLE BERNOULLI (5) WHERE s.fence > 0 AND s.executor IS NOT NULL LIMIT 20"
        )
        for task, step, fence, executor, state in self._random.sample(rows, min(len(rows), 3)):
            stranger = self._random.choice([worker.uuid, str(uuid.uuid4())])
            # The next fence under a name of ours could come true.
            choices = [(fence, stranger), (fence + 1, str(uuid.uuid4()))]
            if fence > 1:
                choices.append((fence - 1, str(executor)))
            if state in ("complete", "error"):
                choices.append((fence, str(executor)))
            said_fence, said_executor = self._random.choice(choices)
            if said_executor == worker.uuid and str(executor) == worker.uuid:
                continue  # that would be our own, and right
            status = self._random.choice(["complete", "error"])
            message: dict[str, Any] = {
                "task_uuid": str(task),
                "step_uuid": str(step),
                "fence": said_fence,
                "executor": said_executor,
                "status": status,
            }
            if status == "complete":
                message["results"] = {"value": FORGED, "fence": FORGED}
            else:
                message["error"] = {"message": "forged", "type": "Forged", "retryable": False}
            self._send([message])
            self.acts["results forged"] += 1

    def _send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        core, _ = self._there()
        for message in messages:
            core.rows("SELECT pgmq.send('orchestration_step_results', %s)", Jsonb(dict(message)))

    # -- being one ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._core is None:
            self._core = Core(self._arena.url)
            if not self._steps:
                rows = self._core.rows(
                    "SELECT named_task_id, position, name, retryable, depends_on FROM tasker.named_steps"
                )
                self._steps = {(task, position): (name, retryable) for task, position, name, retryable, _ in rows}
                self._parents = {(task, position): set(parents) for task, position, _, _, parents in rows}
        if self._worker is None:
            self._worker = self._core.executor(shapes.QUEUE)
            self._beaten_at = time.monotonic()

    def _there(self) -> tuple[Core, Worker]:
        assert self._core is not None
        assert self._worker is not None
        return self._core, self._worker

    def _heartbeat(self) -> None:
        if time.monotonic() - self._beaten_at < HEARTBEAT_SECONDS:
            return
        _, worker = self._there()
        self._settle_posted()
        oldest = min((run.call_no for run in self._runs), default=worker.call_no + 1)
        worker.heartbeat(oldest)
        self._beaten_at = time.monotonic()

    def _settle_posted(self) -> None:
        """What was posted counts as held until it was recorded."""
        core, _ = self._there()
        posted = [run for run in self._runs if run.posted]
        if not posted:
            return
        rows = core.rows(
            "SELECT s.task_uuid::text, s.position, s.fence FROM tasker.workflow_steps AS s"
            " JOIN unnest(CAST(%s AS uuid[])) AS t(task) ON t.task = s.task_uuid WHERE s.state = 'in_progress'",
            [run.outcome["task_uuid"] for run in posted],
        )
        for run in posted:
            if (run.outcome["task_uuid"], run.outcome["position"], run.outcome["fence"]) not in rows:
                self._runs.remove(run)

    def _finished(self) -> list[int]:
        _, worker = self._there()
        held = {run.call_no for run in self._runs}
        return [number for number in range(max(1, worker.call_no - 20), worker.call_no) if number not in held]

    def _fall_silent(self) -> None:
        """No heartbeat any more: its steps go to others, and its results come when those have done them."""
        for run in self._runs:
            if not run.posted:
                self._late.append((time.monotonic() + 3 * LEASE_SECONDS, run.outcome))
        self.acts["fallen silent"] += 1
        self._runs = []
        self._worker = None

    def _give_up(self) -> None:
        if self._core is not None:
            self._core.close()
        if self._worker is not None:
            self._fall_silent()
            self.acts["fallen silent"] -= 1
        self._core = None
