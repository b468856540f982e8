"""The floor: bare SQL that writes what Tasker writes, and nothing else: ``python -m benchmarks.engines.floor <place>``.

It answers how fast PostgreSQL takes these rows on this machine. The tables are Tasker's own, migrated, with all their
indexes, constraints and storage parameters; every commit is durable. Written for a task and its steps, as by
``create_tasks``, ``claim_steps`` and ``complete_steps``:

* creating: a row each of ``tasks``, ``task_contexts``, ``task_transitions``; a row of ``workflow_steps`` for every
  step; for each root a row of ``workflow_step_transitions`` and a message; a thousand tasks, or 10,000 steps, in a
  commit;
* claiming a batch: its messages deleted, its steps updated, an audit row for each, one receipt in ``step_claims``;
* completing a batch: its steps updated with a result of the same size, an audit row for each; each dependent's counter,
  and where that comes to nothing its state, with an audit row and a message, or a place in the next receipt if the same
  process goes on with it; finished receipts deleted; ``tasks.active`` where it changes; at a task's end its row and its
  audit row.

A batch is 200 steps. One statement is one commit is one round trip, both for claims and for completions. As in Tasker's
executor a process claims up to what it has room for, completes, and goes on with at most three quarters of a batch of
what became ready (all of it while the queue is empty), one step for each parent; so commits per step come out the same,
which the bench's table of costs shows for both.

What it leaves out, and why it is the limit of any engine that keeps these rows: no orchestration (dependencies are
counters, and which step follows which is known beforehand), no row locks beyond those of the updates themselves, no
fences, states or limits looked at, no context or parents' results read, no handler called, no JSON decoded in Python,
no notification, no heartbeat. Messages of a wide fan-out all go out at once.

A run is checked: every task and step complete, with a result and exactly the audit rows of its life, nothing left in
queues and receipts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from uuid import UUID

import psycopg

from benchmarks.engines.base import Engine, serve
from benchmarks.engines.processes import Workers
from benchmarks.engines.tasker import CHUNK_STEPS, CHUNK_TASKS
from benchmarks.engines.tasker_setup import register, set_up
from benchmarks.shapes import SHAPES, Shape, WrongResult

# Rows that are this process's alone are found by index probes and written by their ctid, which leaves the planner no
# choice. Those that two processes may write at once (dependents, tasks) are joined by their key, which waits and looks
# again; plans for these are made anew after each rest (Writer.run).
CREATE = """
WITH given AS MATERIALIZED (
    SELECT CAST(g.task_uuid AS uuid) AS task_uuid, g.n
    FROM unnest(CAST(%(uuids)s AS text[]), CAST(%(numbers)s AS integer[])) AS g(task_uuid, n)
), tasks AS (
    INSERT INTO tasker.tasks (task_uuid, named_task_id, state, total, active, created_at, admitted_at)
    SELECT task_uuid, %(template)s, 'in_progress', %(steps)s, 1, clock_timestamp(), clock_timestamp() FROM given
), contexts AS (
    INSERT INTO tasker.task_contexts (task_uuid, context) SELECT task_uuid, jsonb_build_object('n', n) FROM given
), history AS (
    INSERT INTO tasker.task_transitions (task_uuid, to_state, finish_no, reason)
    SELECT task_uuid, 'in_progress', 1, 'created' FROM given
), steps AS (
    INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)
    SELECT g.task_uuid, s.no - 1, gen_random_uuid(), CASE s.unmet WHEN 0 THEN 'enqueued' ELSE 'pending' END, s.unmet
    FROM given AS g CROSS JOIN unnest(CAST(%(unmet)s AS integer[])) WITH ORDINALITY AS s(unmet, no)
), audit AS (
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, reason)
    SELECT task_uuid, 0, 0, 0, 'pending', 'enqueued', 'admitted' FROM given
)
INSERT INTO pgmq.q_bench_queue (vt, message)
SELECT clock_timestamp(), jsonb_build_object('task_uuid', task_uuid, 'step_uuid', gen_random_uuid(),
                                             'position', 0, 'map_index', 0) FROM given
"""

CLAIM = """
WITH taken AS MATERIALIZED (
    SELECT q.msg_id, CAST(q.message->>'task_uuid' AS uuid) AS task_uuid,
           CAST(q.message->>'position' AS integer) AS position
    FROM pgmq.q_bench_queue AS q WHERE q.vt <= clock_timestamp()
    ORDER BY q.msg_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM pgmq.q_bench_queue AS q WHERE q.msg_id = ANY (ARRAY(SELECT msg_id FROM taken))
), finished AS (
    DELETE FROM tasker.step_claims WHERE executor = %(me)s AND call_no = ANY (CAST(%(finished)s AS bigint[]))
), claimed AS (
    UPDATE tasker.workflow_steps AS s
    SET state = 'in_progress', fence = 1, attempts = 1, executor = %(me)s, started_at = clock_timestamp()
    FROM taken AS k
    CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.workflow_steps AS x
                        WHERE x.task_uuid = k.task_uuid AND x.position = k.position AND x.map_index = 0 OFFSET 0) AS r
    WHERE s.ctid = r.tid
), audit AS (
    INSERT INTO tasker.workflow_step_transitions
        (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
    SELECT task_uuid, position, 0, 1, 'enqueued', 'in_progress', %(me)s, 'claimed' FROM taken
), receipt AS (
    INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
    SELECT %(me)s, %(call)s, array_agg(task_uuid), array_agg(position), array_agg(0), array_agg(1)
    FROM taken HAVING count(*) > 0
)
SELECT CAST(k.task_uuid AS text), k.position, t.named_task_id
FROM taken AS k JOIN tasker.tasks AS t USING (task_uuid)
"""

COMPLETE = """
WITH ended AS MATERIALIZED (
    SELECT CAST(e AS uuid) AS task_uuid FROM unnest(CAST(%(ended)s AS text[])) AS e
), ran AS MATERIALIZED (
    SELECT CAST(r.task_uuid AS uuid) AS task_uuid, r.position
    FROM unnest(CAST(%(tasks)s AS text[]), CAST(%(positions)s AS integer[])) AS r(task_uuid, position)
), done AS (
    UPDATE tasker.workflow_steps AS s
    SET state = 'complete', results = '{"value": 1234}', error = NULL, finished_at = clock_timestamp()
    FROM ran AS k
    CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.workflow_steps AS x
                        WHERE x.task_uuid = k.task_uuid AND x.position = k.position AND x.map_index = 0 OFFSET 0) AS r
    WHERE s.ctid = r.tid
), children AS (
    UPDATE tasker.workflow_steps AS s
    SET unmet = s.unmet - k.met,
        state = CASE WHEN s.unmet > k.met THEN 'pending' WHEN k.goes_on THEN 'in_progress' ELSE 'enqueued' END,
        fence = CASE WHEN s.unmet = k.met AND k.goes_on THEN 1 ELSE 0 END,
        attempts = CASE WHEN s.unmet = k.met AND k.goes_on THEN 1 ELSE 0 END,
        executor = CASE WHEN s.unmet = k.met AND k.goes_on THEN CAST(%(me)s AS uuid) END,
        started_at = CASE WHEN s.unmet = k.met AND k.goes_on THEN clock_timestamp() END
    FROM (SELECT CAST(c.task_uuid AS uuid) AS task_uuid, c.position, c.met, c.goes_on
          FROM unnest(CAST(%(child_tasks)s AS text[]), CAST(%(child_positions)s AS integer[]),
                      CAST(%(child_met)s AS integer[]), CAST(%(child_goes_on)s AS boolean[]))
               AS c(task_uuid, position, met, goes_on)) AS k
    WHERE s.task_uuid = k.task_uuid AND s.position = k.position AND s.map_index = 0
    RETURNING s.task_uuid, s.position, s.step_uuid, s.state
), ready AS MATERIALIZED (
    SELECT * FROM children WHERE state <> 'pending'
), audit AS (
    INSERT INTO tasker.workflow_step_transitions
        (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
    SELECT task_uuid, position, 0, 1, 'in_progress', 'complete', CAST(%(me)s AS uuid), NULL FROM ran
    UNION ALL
    SELECT task_uuid, position, 0, CASE state WHEN 'in_progress' THEN 1 ELSE 0 END, 'pending', state,
           CASE state WHEN 'in_progress' THEN CAST(%(me)s AS uuid) END,
           CASE state WHEN 'in_progress' THEN 'continued' ELSE 'ready' END FROM ready
), sent AS (
    INSERT INTO pgmq.q_bench_queue (vt, message)
    SELECT clock_timestamp(), jsonb_build_object('task_uuid', task_uuid, 'step_uuid', step_uuid,
                                                 'position', position, 'map_index', 0)
    FROM ready WHERE state = 'enqueued'
), receipt AS (
    INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
    SELECT CAST(%(me)s AS uuid), %(call)s, array_agg(task_uuid), array_agg(position), array_agg(0), array_agg(1)
    FROM ready WHERE state = 'in_progress' HAVING count(*) > 0
), finished AS (
    DELETE FROM tasker.step_claims WHERE executor = CAST(%(me)s AS uuid)
      AND call_no = ANY (CAST(%(finished)s AS bigint[]))
), going_on AS (
    UPDATE tasker.tasks AS t SET active = t.active + d.delta
    FROM (SELECT x.task_uuid, sum(x.delta) AS delta
          FROM (SELECT task_uuid, -1 AS delta FROM ran UNION ALL SELECT task_uuid, 1 FROM ready) AS x
          WHERE x.task_uuid NOT IN (SELECT task_uuid FROM ended)
          GROUP BY x.task_uuid HAVING sum(x.delta) <> 0 ORDER BY x.task_uuid) AS d
    WHERE t.task_uuid = d.task_uuid
), over AS (
    UPDATE tasker.tasks AS t
    SET state = 'complete', active = 0, open = 0, failed = 0, skipped = 0,
        finished_at = clock_timestamp(), finalized_at = clock_timestamp()
    FROM ended AS e WHERE t.task_uuid = e.task_uuid
), history AS (
    INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no)
    SELECT task_uuid, 'in_progress', 'complete', 1 FROM ended
)
SELECT CAST(task_uuid AS text), position FROM ready WHERE state = 'in_progress'
"""

WRITERS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'floor writer'
"""
OPEN = "SELECT count(*) FROM tasker.tasks WHERE finished_at IS NULL AND admitted_at IS NOT NULL"

CHECK = """
SELECT (SELECT count(*) FROM tasker.tasks WHERE task_uuid = ANY (%(uuids)s) AND state = 'complete' AND active = 0),
       (SELECT count(*) FROM tasker.workflow_steps WHERE task_uuid = ANY (%(uuids)s) AND state = 'complete'
                                                     AND unmet = 0 AND attempts = 1 AND results IS NOT NULL),
       (SELECT count(*) FROM tasker.workflow_step_transitions
        WHERE task_uuid >= %(first)s AND to_state = 'in_progress'),
       (SELECT count(*) FROM tasker.workflow_step_transitions WHERE task_uuid >= %(first)s AND to_state = 'complete'),
       (SELECT count(*) FROM pgmq.q_bench_queue)
"""

BATCH = 200
DRY_SECONDS = 0.02
POLL_SECONDS = 0.005
# One plan for each statement, kept, by index: as in Tasker's functions.
OPTIONS = (
    "-c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    " -c plan_cache_mode=force_generic_plan"
)


def connect(url: str, name: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection whose statements are transactions of their own and prepared at their first use."""
    connection = psycopg.connect(url, autocommit=True, options=OPTIONS, application_name=name)
    connection.prepare_threshold = 0
    return connection


class Floor(Engine):
    """Processes that write rows."""

    name = "floor"

    def start(self) -> None:
        """Migrate and start the writers."""
        self._templates = set_up(self.place.database_url, SHAPES["linear4"])  # which makes the queue, too
        self._workers = Workers(self.place)
        self._database = connect(self.place.database_url, "floor client")
        for number in range(self.place.workers):
            self._workers.start(
                f"writer{number}",
                [sys.executable, "-m", "benchmarks.engines.floor"],
                {"DATABASE_URL": self.place.database_url},
            )
        self._workers.until(lambda: self._row(WRITERS) == (self.place.workers,), "the floor's writers")
        self._serial = 0

    def stop(self) -> None:
        """End the writers."""
        self._workers.stop()
        self._database.close()

    def submit(self, shape: Shape, numbers: Sequence[int]) -> Sequence[UUID]:
        """As many in a transaction as Tasker's client creates."""
        if shape.name not in self._templates:
            self._templates[shape.name] = register(self.place.database_url, shape)
        size = max(1, min(CHUNK_TASKS, CHUNK_STEPS // shape.steps))
        uuids = [self._uuid() for _ in numbers]
        for first in range(0, len(numbers), size):
            given = {
                "uuids": [str(task) for task in uuids[first : first + size]],
                "numbers": list(numbers[first : first + size]),
                "template": self._templates[shape.name],
                "steps": shape.steps,
                "unmet": [len(parents) for parents in shape.parents.values()],
            }
            self._database.execute(CREATE, given)
        return uuids

    def wait(self, handles: Sequence[UUID], timeout: float) -> Sequence[int]:
        """Until no task is open."""
        deadline = time.monotonic() + timeout
        while self._row(OPEN) != (0,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._row(OPEN)[0]} tasks are open after {timeout} s")
            time.sleep(0.02)
        self._latest = handles
        return ()

    def pids(self) -> Sequence[int]:
        """The writers."""
        return self._workers.pids

    def _verify(self, shape: Shape, numbers: Sequence[int], values: Sequence[int]) -> None:
        tasks, steps = len(numbers), len(numbers) * shape.steps
        found = self._row(CHECK, {"uuids": list(self._latest), "first": min(self._latest)})
        if found != (tasks, steps, steps, steps, 0):
            raise WrongResult(f"floor, {shape.name}: {found} of {tasks} tasks, {steps} steps")

    def _row(self, query: str, parameters: dict[str, object] | None = None) -> tuple[object, ...]:
        row = self._database.execute(query, parameters).fetchone()
        assert row is not None
        return row

    def _uuid(self) -> UUID:
        """A UUIDv7, rising, as Tasker's are."""
        self._serial += 1
        return UUID(int=time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62 | self._serial)


Held = tuple[str, int, int]
"""A step to write: task, position, number of its template."""


class Writer:
    """One process: claims batches and completes them."""

    def __init__(self, url: str) -> None:
        self._database = connect(url, "floor writer")
        self._me = UUID(bytes=os.urandom(16))
        self._dependents: dict[int, list[list[int]]] = {}
        self._call = 0
        self._receipts: list[int] = []
        self._dry_until = 0.0

    def run(self) -> None:
        """Write until ended by a signal."""
        held: list[Held] = []
        rested = True
        while True:
            room = BATCH - len(held)
            if room > 0 and not (held and time.monotonic() < self._dry_until):
                held += self._claim(room)
            if held and rested:
                # The kept plans were made for the tables of the last run, at first for empty ones, which are scanned.
                self._database.execute("DISCARD PLANS")
            rested = not held
            if held:
                held = self._complete(held)
            else:
                time.sleep(POLL_SECONDS)

    def _claim(self, limit: int) -> list[Held]:
        self._call += 1
        given = {"limit": limit, "me": self._me, "call": self._call, "finished": self._take_receipts()}
        rows = self._database.execute(CLAIM, given).fetchall()
        if rows:
            self._receipts.append(self._call)
        self._dry_until = time.monotonic() + DRY_SECONDS if len(rows) < limit else 0.0
        return [(str(task), int(str(position)), int(str(template))) for task, position, template in rows]

    def _complete(self, held: list[Held]) -> list[Held]:
        held.sort()
        dry = time.monotonic() < self._dry_until
        limit = BATCH if dry else BATCH - -(-BATCH // 4)
        children: dict[tuple[str, int], list[int]] = {}
        ended = []
        for task, position, template in held:
            if template not in self._dependents:
                self._look_up_templates()
            followers = self._dependents[template][position]
            if not followers:
                ended.append(task)
            for turn, child in enumerate(followers):
                entry = children.setdefault((task, child), [0, 0])
                entry[0] += 1
                if turn == 0 and not entry[1] and limit > 0:
                    entry[1] = 1
                    limit -= 1
        # A receipt is finished with the completion that settles its steps; this one settles all that is held.
        finished = self._take_receipts()
        self._call += 1
        ordered = sorted(children)
        rows = self._database.execute(
            COMPLETE,
            {
                "me": self._me,
                "call": self._call,
                "finished": finished,
                "tasks": [task for task, _, _ in held],
                "positions": [position for _, position, _ in held],
                "child_tasks": [task for task, _ in ordered],
                "child_positions": [position for _, position in ordered],
                "child_met": [children[key][0] for key in ordered],
                "child_goes_on": [bool(children[key][1]) for key in ordered],
                "ended": ended,
            },
        ).fetchall()
        if rows:
            self._receipts.append(self._call)
        templates = {task: template for task, _, template in held}
        return [(str(task), int(str(position)), templates[str(task)]) for task, position in rows]

    def _look_up_templates(self) -> None:
        rows = self._database.execute("SELECT named_task_id, name FROM tasker.named_tasks").fetchall()
        self._dependents = {int(str(row[0])): dependents(SHAPES[str(row[1])]) for row in rows}

    def _take_receipts(self) -> list[int]:
        taken, self._receipts = self._receipts, []
        return taken


def dependents(shape: Shape) -> list[list[int]]:
    """By position, the positions of the steps that depend on it."""
    found: list[list[int]] = [[] for _ in shape.parents]
    for step, parents in shape.parents.items():
        for parent in parents:
            found[shape.positions[parent]].append(shape.positions[step])
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Floor)
    else:
        Writer(os.environ["DATABASE_URL"]).run()
