"""Rules about the history: the transitions of steps and tasks are paths that begin right, are allowed, and end here.

Transitions have no number of their own, and the server's clock may be set back, so the order comes from what cannot
lie: of steps the fence, and under one fence the entry into ``in_progress`` before the exit from it; of tasks
``finish_no``, which the exit from ``error`` raises. Only within those does the time decide.

Old history may be gone: whoever drops the oldest partitions of an audit table moves the moment from which on it is
kept. A task that was created earlier may have a history that begins late, or none; what is left of it is judged all
the same: it must be connected, and end in the state of now. Whether a task was created earlier is said by its uuid,
which begins with the time: ``$first_step`` and ``$first_task`` are the least uuids of that moment (zero while nothing
is gone), ``$attempts_from`` is the moment for attempts at finalization.

And tasks may be gone: finished ones are pruned, and their history stays until its partitions are dropped. So what has
ended by its history need not exist; what has not must.
"""

from __future__ import annotations

from tasker.database.verification.rule import SATISFIED, TASK_ENDS, Check, Rule, told

_CLOCK = "was the server's clock set back? Else report it"
_REPORT = "the history or the row was written by hand, or by a function that forgot one of them: report it"

# Tasks that are gone, and had ended.
_PRUNED = f"""
        (SELECT DISTINCT e.task_uuid FROM tasker.task_transitions AS e
         WHERE e.to_state IN {TASK_ENDS}
           AND NOT EXISTS (SELECT FROM tasker.tasks AS x WHERE x.task_uuid = e.task_uuid)%s)"""

_STEP_CHAIN = told(
    (
        "h.prev_state IS NOT NULL AND h.from_state <> 'pending' AND h.prev_state <> h.from_state",
        "format('from %s at %s, but it was %s before', h.from_state, h.at, h.prev_state)",
    ),
    (
        "h.to_state IS NOT NULL AND h.prev_state IS NULL AND h.from_state <> 'pending' AND h.task_uuid >= $first_step",
        "format('its history begins in %s', h.from_state)",
    ),
    (
        "h.is_last AND s.state IS NOT NULL AND s.state <> h.to_state",
        "format('its history ends in %s, but it is %s', h.to_state, s.state)",
    ),
    (
        "h.to_state IS NULL AND s.state <> 'pending' AND s.task_uuid >= $first_step",
        "format('it is %s and has no history', s.state)",
    ),
)

_STEP_FENCES = told(
    (
        "h.to_state = 'in_progress' AND h.fence <> coalesce(h.prev_fence, 0) + 1"
        " AND (h.prev_fence IS NOT NULL OR h.task_uuid >= $first_step)",
        "format('claimed at %s with fence %s after fence %s', h.at, h.fence, coalesce(h.prev_fence, 0))",
    ),
    (
        "h.to_state <> 'in_progress' AND h.fence <> coalesce(h.prev_fence, 0)"
        " AND (h.prev_fence IS NOT NULL OR h.task_uuid >= $first_step)",
        "format('%s at %s with fence %s, which no claim had', h.to_state, h.at, h.fence)",
    ),
    ("h.is_last AND s.fence <> h.fence", "format('its last fence was %s, but it has %s', h.fence, s.fence)"),
)

_STEP_TIMES = told(
    ("h.at < h.prev_at", "format('%s at %s, but it was %s at %s', h.to_state, h.at, h.prev_state, h.prev_at)"),
    ("h.at > $moment + interval '1 minute'", "format('%s in the future, at %s', h.to_state, h.at)"),
    (
        "h.is_last AND s.finished_at > h.at + interval '1 second'",
        "format('it finished at %s, after the transition that says so, at %s', s.finished_at, h.at)",
    ),
)

STEP_TRANSITIONS = Check(
    about="transitions of steps",
    task="coalesce(h.task_uuid, s.task_uuid)",
    step=("coalesce(h.position, s.position)", "coalesce(h.map_index, s.map_index)"),
    reads_history=True,
    source=f"""
        FROM (SELECT w.*, w.next_fence IS NULL AS is_last,
                     CASE WHEN w.next_fence IS NULL THEN w.task_uuid END AS last_of
              FROM (SELECT x.task_uuid, x.position, x.map_index, x.fence, x.from_state, x.to_state, x.at,
                           lag(x.to_state) OVER path AS prev_state, lag(x.fence) OVER path AS prev_fence,
                           lag(x.at) OVER path AS prev_at, lead(x.fence) OVER path AS next_fence
                    FROM tasker.workflow_step_transitions AS x
                    WHERE $scope(x.task_uuid)
                    WINDOW path AS (
                        PARTITION BY x.task_uuid, x.position, x.map_index
                        ORDER BY x.fence, CASE WHEN x.from_state = 'pending' OR x.to_state = 'in_progress' THEN 0
                                               WHEN x.from_state = 'in_progress' THEN 1 ELSE 2 END, x.at)) AS w) AS h
        FULL JOIN (SELECT x.task_uuid, x.position, x.map_index, x.state, x.fence, x.finished_at
                   FROM tasker.workflow_steps AS x WHERE $scope(x.task_uuid)) AS s
          ON s.task_uuid = h.last_of AND s.position = h.position AND s.map_index = h.map_index
        LEFT JOIN {_PRUNED % " AND $scope(e.task_uuid)"} AS g ON g.task_uuid = h.last_of""",
    rules=(
        Rule(
            "step-transitions-allowed",
            "every transition of a step is one that steps may make",
            "(h.from_state, h.to_state)"
            " NOT IN (SELECT a.from_state, a.to_state FROM tasker.allowed_step_transitions() AS a)",
            "format('%s to %s at %s', h.from_state, h.to_state, h.at)",
            "is the constraint allowed_transition there? Else the row was written by an earlier release, or by hand",
        ),
        Rule(
            "step-chain",
            "a step's transitions begin in pending, each goes on from where the one before ended,"
            " the last ends in its state",
            *_STEP_CHAIN,
            _REPORT,
        ),
        Rule(
            "step-readied-once",
            "a step leaves pending once",
            "h.from_state = 'pending' AND h.prev_state IS NOT NULL",
            "format('pending to %s once more, at %s', h.to_state, h.at)",
            "its dependencies were counted down twice, and it may have run twice: report it",
        ),
        Rule(
            "step-fences",
            "every claim of a step raises its fence by one, and nothing else changes it",
            *_STEP_FENCES,
            "two executors may both have believed to hold the step: report it",
        ),
        Rule(
            "step-audit-times",
            "the times of a step's transitions rise along its path, and none lies in the future",
            *_STEP_TIMES,
            _CLOCK,
        ),
        Rule(
            "step-transition-has-step",
            "a transition's step exists, unless its task had ended (and was pruned)",
            "h.is_last AND s.task_uuid IS NULL AND g.task_uuid IS NULL AND h.task_uuid >= $first_task",
            "format('%s at %s of a step that does not exist', h.to_state, h.at)",
            "the step was deleted by hand; its history goes with its partitions",
        ),
    ),
)

READINESS = Check(
    about="joins",
    task="j.task_uuid",
    step=("j.child", "0"),
    reads_history=True,
    # One pass: when each step was made ready, beside when each of its parents was satisfied.
    source=f"""
        FROM (SELECT e.task_uuid, e.child, min(e.ready_at) AS ready_at, max(e.parents) AS parents,
                     count(e.satisfied_at) AS satisfied, max(e.satisfied_at) AS satisfied_at
              FROM (SELECT h.task_uuid, b.child, b.ready_at, b.parents, b.satisfied_at
                    FROM tasker.workflow_step_transitions AS h
                    JOIN tasker.tasks AS t ON t.task_uuid = h.task_uuid
                    JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = h.position
                    CROSS JOIN LATERAL (
                        SELECT h.position AS child, h.at AS ready_at, cardinality(n.depends_on) AS parents,
                               CAST(NULL AS timestamptz) AS satisfied_at
                        WHERE h.from_state = 'pending' AND h.to_state IN ('enqueued', 'in_progress')
                        UNION ALL
                        SELECT d.child, NULL, NULL, h.at FROM unnest(n.dependents) AS d(child)
                        WHERE h.to_state IN {SATISFIED}) AS b
                    WHERE (h.from_state = 'pending' OR h.to_state IN {SATISFIED})
                      AND h.task_uuid >= $first_step AND $scope(h.task_uuid)) AS e
              GROUP BY e.task_uuid, e.child) AS j""",
    rules=(
        Rule(
            "ready-after-its-parents",
            "no step was made ready before all of its parents were satisfied",
            "j.ready_at IS NOT NULL AND (j.satisfied < j.parents OR j.satisfied_at > j.ready_at)",
            "format('made ready at %s; of its %s parents %s were satisfied, the last at %s',"
            " j.ready_at, j.parents, j.satisfied, coalesce(CAST(j.satisfied_at AS text), 'no time'))",
            "it may have run without its parents' results: report it",
        ),
    ),
)

BUDGETS = Check(
    about="attempts",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    reads_history=True,
    # Since the last reset that left a transition, whose fence is that of the attempts before it. (The reset of a step
    # that was enqueued leaves none, so the counters may be lower than the history says, never higher.)
    source="""
        FROM tasker.workflow_steps AS s
        JOIN (SELECT x.task_uuid, x.position, x.map_index,
                     count(*) FILTER (WHERE x.to_state = 'in_progress')
                     - count(*) FILTER (WHERE x.from_state = 'in_progress' AND x.to_state = 'enqueued'
                                          AND x.reason IN ('released', 'executor_lost', 'executor_left',
                                                           'answer_lost', 'circuit_open')) AS attempts,
                     count(*) FILTER (WHERE x.reason = 'executor_lost' OR x.to_state = 'error'
                                        AND x.reason IN ('poison', 'outcome_unknown')) AS losses
              FROM tasker.workflow_step_transitions AS x
              LEFT JOIN (SELECT r.task_uuid, r.position, r.map_index, max(r.fence) AS fence
                         FROM tasker.workflow_step_transitions AS r
                         WHERE r.to_state = 'enqueued' AND r.from_state IN ('error', 'waiting_for_retry', 'in_progress')
                           AND (r.reason = 'retried' OR starts_with(r.reason, 'reset')) AND $scope(r.task_uuid)
                         GROUP BY r.task_uuid, r.position, r.map_index) AS reset
                ON reset.task_uuid = x.task_uuid AND reset.position = x.position AND reset.map_index = x.map_index
              WHERE x.fence > coalesce(reset.fence, 0) AND x.task_uuid >= $first_step AND $scope(x.task_uuid)
              GROUP BY x.task_uuid, x.position, x.map_index) AS h
          ON h.task_uuid = s.task_uuid AND h.position = s.position AND h.map_index = s.map_index""",
    rules=(
        Rule(
            "attempts-as-in-history",
            "a step's attempts and losses are no more than its history tells",
            "s.attempts > h.attempts OR s.losses > h.losses",
            "format('attempts %s and losses %s; its history tells of %s and %s',"
            " s.attempts, s.losses, h.attempts, h.losses)",
            "it will give up too early: report it; the client's `reset_step` begins anew",
        ),
    ),
)

_TASK_CHAIN = told(
    (
        "h.prev_state IS NOT NULL AND h.prev_state IS DISTINCT FROM h.from_state",
        "format('from %s at %s, but it was %s before', coalesce(h.from_state, 'new'), h.at, h.prev_state)",
    ),
    (
        "h.to_state IS NOT NULL AND h.prev_state IS NULL AND h.from_state IS NOT NULL AND h.task_uuid >= $first_task",
        "format('its history begins in %s', h.from_state)",
    ),
    (
        "h.is_last AND t.state IS NOT NULL AND t.state <> h.to_state",
        "format('its history ends in %s, but it is %s', h.to_state, t.state)",
    ),
    (
        "h.to_state IS NULL AND t.task_uuid >= $first_task",
        "format('it is %s and has no history', t.state)",
    ),
)

_FINISH_NUMBERS = told(
    (
        "h.finish_no <> coalesce(h.prev_no, 0)"
        " + CASE WHEN h.from_state = 'error' OR h.prev_no IS NULL THEN 1 ELSE 0 END"
        " AND (h.prev_no IS NOT NULL OR h.task_uuid >= $first_task)",
        "format('%s at %s with number %s after number %s', h.to_state, h.at, h.finish_no, coalesce(h.prev_no, 0))",
    ),
    (
        "h.is_last AND t.finish_no <> h.finish_no",
        "format('its last number was %s, but it has %s', h.finish_no, t.finish_no)",
    ),
)

_TASK_TIMES = told(
    ("h.at < h.prev_at", "format('%s at %s, but it was %s at %s', h.to_state, h.at, h.prev_state, h.prev_at)"),
    ("h.at > $moment + interval '1 minute'", "format('%s in the future, at %s', h.to_state, h.at)"),
    (
        "h.is_last AND t.finished_at > h.at + interval '1 second'",
        "format('it finished at %s, after the transition that says so, at %s', t.finished_at, h.at)",
    ),
)

TASK_TRANSITIONS = Check(
    about="transitions of tasks",
    task="coalesce(h.task_uuid, t.task_uuid)",
    reads_history=True,
    source=f"""
        FROM (SELECT w.*, w.next_state IS NULL AS is_last,
                     CASE WHEN w.next_state IS NULL THEN w.task_uuid END AS last_of
              FROM (SELECT x.task_uuid, x.finish_no, x.from_state, x.to_state, x.at,
                           lag(x.to_state) OVER path AS prev_state, lag(x.finish_no) OVER path AS prev_no,
                           lag(x.at) OVER path AS prev_at, lead(x.to_state) OVER path AS next_state
                    FROM tasker.task_transitions AS x
                    WHERE $scope(x.task_uuid)
                    WINDOW path AS (
                        PARTITION BY x.task_uuid
                        ORDER BY x.finish_no,
                                 CASE WHEN x.from_state IS NULL OR x.from_state = 'error' THEN 0
                                      WHEN x.to_state IN {TASK_ENDS} THEN 2 ELSE 1 END,
                                 x.at)) AS w) AS h
        FULL JOIN (SELECT x.task_uuid, x.state, x.finish_no, x.finished_at
                   FROM tasker.tasks AS x WHERE $scope(x.task_uuid)) AS t
          ON t.task_uuid = h.last_of""",
    rules=(
        Rule(
            "task-transitions-allowed",
            "every transition of a task is one that tasks may make",
            "h.to_state IS NOT NULL AND (coalesce(h.from_state, 'new'), h.to_state)"
            " NOT IN (SELECT a.from_state, a.to_state FROM tasker.allowed_task_transitions() AS a)",
            "format('%s to %s at %s', coalesce(h.from_state, 'new'), h.to_state, h.at)",
            "is the constraint allowed_transition there? Else the row was written by an earlier release, or by hand",
        ),
        Rule(
            "task-chain",
            "a task's transitions begin with its creation, each goes on from where the one before ended,"
            " the last ends in its state",
            *_TASK_CHAIN,
            _REPORT,
        ),
        Rule(
            "finish-numbers",
            "every exit from error raises a task's finish_no by one, and nothing else changes it",
            *_FINISH_NUMBERS,
            "completion hooks may take one finish for another: report it",
        ),
        Rule(
            "task-audit-times",
            "the times of a task's transitions rise along its path, and none lies in the future",
            *_TASK_TIMES,
            _CLOCK,
        ),
        Rule(
            "task-transition-has-task",
            "a transition's task exists, unless it had ended (and was pruned)",
            f"h.is_last AND t.task_uuid IS NULL AND h.to_state NOT IN {TASK_ENDS}",
            "format('%s at %s of a task that does not exist', h.to_state, h.at)",
            "the task was deleted by hand; its history goes with its partitions",
        ),
    ),
)

_ATTEMPTS = told(
    ("a.claim_no > t.claim_no", "format('claim %s, but the task has given out %s', a.claim_no, t.claim_no)"),
    ("a.processors > 1", "format('%s processors claimed it under number %s', a.processors, a.claim_no)"),
)

FINALIZATION_CLAIMS = Check(
    about="attempts at finalization",
    task="a.task_uuid",
    reads_history=True,
    # An attempt that was refused may name a task that never was, or a number that never was given out.
    source="""
        FROM (SELECT x.task_uuid, x.claim_no, count(DISTINCT x.processor) AS processors,
                     bool_or(bool_or(x.outcome = 'finalized')) OVER (PARTITION BY x.task_uuid) AS was_finalized
              FROM tasker.finalization_attempts AS x
              WHERE x.outcome IN ('claimed', 'claimed_expired', 'finalized') AND $scope(x.task_uuid)
              GROUP BY x.task_uuid, x.claim_no) AS a
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = a.task_uuid""",
    rules=(
        Rule(
            "finalization-claim-numbers",
            "a finalization claim's number was given to one processor, and none is higher than the task's",
            *_ATTEMPTS,
            "two finalizers may both have run the hooks: report it",
        ),
        Rule(
            "attempt-has-task",
            "an attempt at finalization that succeeded has its task, unless one finalized it (and it was pruned)",
            "t.task_uuid IS NULL AND NOT a.was_finalized",
            "format('claim %s of a task that does not exist', a.claim_no)",
            "the task was deleted by hand; its history goes with its partitions",
        ),
    ),
)

PARENTS = Check(
    about="parents",
    task="t.task_uuid",
    reads_history=True,
    source=f"""
        FROM tasker.tasks AS t
        LEFT JOIN tasker.tasks AS p ON p.task_uuid = t.parent_task_uuid
        LEFT JOIN {_PRUNED % ""} AS g ON g.task_uuid = t.parent_task_uuid""",
    where="t.parent_task_uuid IS NOT NULL AND $scope(t.task_uuid)",
    rules=(
        Rule(
            "parent-exists",
            "a child task's parent exists, or had ended (and was pruned)",
            "p.task_uuid IS NULL AND g.task_uuid IS NULL AND t.parent_task_uuid >= $first_task",
            "format('its parent %s does not exist', t.parent_task_uuid)",
            "the parent was deleted by hand, or the child was created with a wrong parent_task_uuid",
        ),
    ),
)

FINALIZED = Check(
    about="finalizations",
    task="t.task_uuid",
    reads_history=True,
    source="""
        FROM tasker.tasks AS t
        JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id AND d.has_after_work
        LEFT JOIN (SELECT x.task_uuid, max(x.n) AS most, max(x.finish_no) AS last_no
                   FROM (SELECT y.task_uuid, y.finish_no, count(*) AS n FROM tasker.finalization_attempts AS y
                         WHERE y.action = 'finalize' AND y.outcome = 'finalized' AND $scope(y.task_uuid)
                         GROUP BY y.task_uuid, y.finish_no) AS x
                   GROUP BY x.task_uuid) AS a
          ON a.task_uuid = t.task_uuid""",
    where="$scope(t.task_uuid)",
    rules=(
        Rule(
            "finalized-once",
            "a finish is finalized at most once",
            "a.most > 1",
            "format('one finish was finalized %s times', a.most)",
            "its hooks ran to their end more than once: report it",
        ),
        Rule(
            "finalized-by-an-attempt",
            "a task with after-work is final if, and only if, an attempt finalized its last finish",
            "t.finalized_at >= $attempts_from AND a.last_no IS DISTINCT FROM t.finish_no"
            " OR t.finalized_at IS NULL AND a.last_no >= t.finish_no",
            "format('finish %s is %s, the last one that an attempt finalized is %s', t.finish_no,"
            " CASE WHEN t.finalized_at IS NULL THEN 'not final' ELSE 'final' END,"
            " coalesce(CAST(a.last_no AS text), 'none'))",
            "its hooks did not run, or will run again: report it",
        ),
    ),
)

CHECKS = (STEP_TRANSITIONS, READINESS, BUDGETS, TASK_TRANSITIONS, PARENTS, FINALIZATION_CLAIMS, FINALIZED)
