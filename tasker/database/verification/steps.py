"""Rules about steps: their columns, dependencies, timers, messages and leases."""

from __future__ import annotations

from tasker.database.verification.rule import LIVE, SATISFIED, STEP_ENDS, Check, Rule, told

_REPORT = "no function writes this: look for hand-written SQL, then report it with `tasker task show UUID --history`"
_STUCK = "nothing will start it: report it; pause and resume the task, or `reset_step`, to start it"

_COLUMNS = told(
    (
        f"(s.state IN {STEP_ENDS}) <> (s.finished_at IS NOT NULL)",
        "format('%s, finished_at %s', s.state, s.finished_at)",
    ),
    (
        # What a lifecycle gave up may never have run.
        "(s.state IN ('in_progress', 'waiting_for_retry', 'complete')"
        " OR s.state = 'error' AND NOT starts_with(coalesce(s.error->>'type', ''), 'lifecycle_'))"
        " AND (s.executor IS NULL OR s.fence = 0 OR s.attempts = 0 OR s.started_at IS NULL)",
        "format('%s, but it never ran (executor %s, fence %s, attempts %s, started %s)',"
        " s.state, s.executor, s.fence, s.attempts, s.started_at)",
    ),
    (
        "s.state = 'pending' AND (s.fence <> 0 OR s.attempts <> 0 OR s.executor IS NOT NULL)",
        "format('pending, but it ran (executor %s, fence %s, attempts %s)', s.executor, s.fence, s.attempts)",
    ),
    ("s.attempts > s.fence", "format('%s attempts under fence %s', s.attempts, s.fence)"),
    ("s.state IN ('waiting_for_retry', 'error') AND s.error IS NULL", "format('%s without an error', s.state)"),
    ("s.state = 'complete' AND s.error IS NOT NULL", "'complete with an error'"),
    ("s.finished_at < s.started_at", "format('finished at %s, before it started at %s', s.finished_at, s.started_at)"),
    ("s.start_marked_at < s.started_at", "'marked as started before it was claimed'"),
    (f"s.unmet > 0 AND s.state IN {LIVE}", "format('%s with %s unmet dependencies', s.state, s.unmet)"),
    ("s.unmet > 0 AND s.state IN ('complete', 'error')", "format('%s with %s unmet dependencies', s.state, s.unmet)"),
)

_TIMER = told(
    (
        """NOT (w.kind IN ('retry', 'circuit', 'limit') AND s.state IN ('waiting_for_retry', 'enqueued')
             OR w.kind = 'deadline' AND s.state = 'in_progress'
             OR w.kind = 'deadline' AND s.state IN ('cancelled', 'resolved_manually', 'error')
                AND w.due_at <= $now + interval '1 minute')""",
        "format('a %s timer, due at %s, of a step that is %s', w.kind, w.due_at, s.state)",
    ),
    ("w.fence <> s.fence", "format('a timer of fence %s; the step has %s', w.fence, s.fence)"),
    (
        "w.queue <> CASE w.kind WHEN 'deadline' THEN 'orchestration_step_results' ELSE n.queue END",
        "format('a %s timer on queue %s', w.kind, w.queue)",
    ),
)

STEPS = Check(
    about="steps",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    source=f"""
        FROM tasker.workflow_steps AS s
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = s.task_uuid
        LEFT JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position
        LEFT JOIN (
            SELECT p.task_uuid, e.child, count(*) AS n
            FROM tasker.workflow_steps AS p
            JOIN tasker.tasks AS pt ON pt.task_uuid = p.task_uuid
            JOIN tasker.named_steps AS pn ON pn.named_task_id = pt.named_task_id AND pn.position = p.position
            CROSS JOIN LATERAL unnest(pn.dependents) AS e(child)
            WHERE p.state NOT IN {SATISFIED} AND $scope(p.task_uuid)
            GROUP BY p.task_uuid, e.child) AS parents
          ON parents.task_uuid = s.task_uuid AND parents.child = s.position""",
    where="$scope(s.task_uuid)",
    rules=(
        Rule(
            "step-has-task",
            "a step has its task",
            "t.task_uuid IS NULL",
            "format('%s, and its task does not exist', s.state)",
            "the task was deleted by hand: delete its steps too",
        ),
        Rule(
            "step-has-definition",
            "a step's place exists in its workflow",
            "t.task_uuid IS NOT NULL AND n.named_task_id IS NULL",
            "format('workflow %s has no step at this position', t.named_task_id)",
            "a workflow was changed by hand: restore its named_steps",
        ),
        Rule("step-columns", "the columns of a step agree with its state", *_COLUMNS, _REPORT),
        Rule(
            "step-uuid",
            "a step's uuid follows from its task and place",
            "s.step_uuid <> tasker.step_uuid(s.task_uuid, s.position, s.map_index)",
            "format('its uuid is %s', s.step_uuid)",
            _REPORT,
        ),
        Rule(
            "unmet-counter",
            "the counter of unmet dependencies (`unmet`) equals the parents that are not satisfied",
            "n.named_task_id IS NOT NULL AND s.unmet <> coalesce(parents.n, 0)",
            "format('unmet is %s, parents not satisfied are %s', s.unmet, coalesce(parents.n, 0))",
            "it starts too early, or never: report it; `tasker task resolve-step` sets its result by hand",
        ),
        Rule(
            "ready-step-is-enqueued",
            "in an admitted task no step is pending whose dependencies are satisfied",
            "s.state = 'pending' AND s.unmet = 0 AND t.admitted_at IS NOT NULL",
            "'pending, and nothing is left to wait for'",
            _STUCK,
        ),
        Rule(
            "attempts-within-budget",
            "no step has run more often than it may",
            "s.attempts > CASE WHEN n.retryable THEN n.max_attempts ELSE 1 END",
            "format('%s attempts of %s', s.attempts, CASE WHEN n.retryable THEN n.max_attempts ELSE 1 END)",
            _REPORT,
        ),
    ),
)

TIMERS = Check(
    about="timers",
    task="w.task_uuid",
    step=("w.position", "w.map_index"),
    source="""
        FROM tasker.step_timers AS w
        LEFT JOIN tasker.workflow_steps AS s
          ON s.task_uuid = w.task_uuid AND s.position = w.position AND s.map_index = w.map_index
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = w.task_uuid
        LEFT JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = w.position""",
    where="$scope(w.task_uuid)",
    rules=(
        Rule(
            "timer-has-step",
            "a timer has its step",
            "s.task_uuid IS NULL",
            "format('a %s timer, due at %s, of no step', w.kind, w.due_at)",
            "the step was deleted by hand: delete the timer too",
        ),
        Rule(
            "timer-fits-its-step",
            "a waiting step's timer is a retry or says what it waits for, a running one's a deadline, of its fence and"
            " queue; no other has one",
            *_TIMER,
            "report it; the client's `reset_step` clears the timer of a live step",
        ),
        Rule(
            "deadline-is-heard",
            "no deadline of a delegated step passed ten minutes ago or more",
            "w.kind = 'deadline' AND w.due_at < $now - interval '10 minutes'",
            "format('due at %s', w.due_at)",
            "see that an orchestration worker runs",
            repaired="the step result processor ends the attempt when it next looks",
        ),
    ),
)

WAITING = Check(
    about="steps that wait for another attempt",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    source="""
        FROM tasker.workflow_steps AS s
        JOIN tasker.tasks AS t ON t.task_uuid = s.task_uuid
        LEFT JOIN tasker.step_timers AS w
          ON w.task_uuid = s.task_uuid AND w.position = s.position AND w.map_index = s.map_index""",
    # A paused task's timers are dropped when they are due; resuming sets them again.
    where="s.state = 'waiting_for_retry' AND t.state = 'in_progress' AND $scope(s.task_uuid)",
    rules=(
        Rule(
            "waiting-step-has-timer",
            "every step that waits for a retry, in a task that runs, has a timer",
            "w.task_uuid IS NULL",
            "'waiting_for_retry, and no timer will wake it'",
            _STUCK,
        ),
    ),
)

ENQUEUED = Check(
    about="steps that are enqueued",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    source="""
        FROM tasker.workflow_steps AS s
        JOIN tasker.tasks AS t ON t.task_uuid = s.task_uuid
        LEFT JOIN tasker.step_timers AS w
          ON w.task_uuid = s.task_uuid AND w.position = s.position AND w.map_index = s.map_index
        LEFT JOIN (SELECT DISTINCT q.task_uuid, q.step_position, q.map_index FROM $messages AS q) AS m
          ON m.task_uuid = s.task_uuid AND m.step_position = s.position AND m.map_index = s.map_index
        LEFT JOIN (
            -- What the step enqueuer will still send: from a place in a parent's dependents, or from a position on.
            SELECT DISTINCT q.task_uuid, e.child
            FROM $deferred AS q
            JOIN tasker.tasks AS dt ON dt.task_uuid = q.task_uuid
            JOIN tasker.named_steps AS dn ON dn.named_task_id = dt.named_task_id AND dn.position = q.step_position
            CROSS JOIN LATERAL unnest(dn.dependents[q.from_index + 1:]) AS e(child)) AS later
          ON later.task_uuid = s.task_uuid AND later.child = s.position
        LEFT JOIN (SELECT q.task_uuid, min(q.from_index) AS from_position FROM $deferred AS q
                   WHERE q.step_position = -1 GROUP BY q.task_uuid) AS roots
          ON roots.task_uuid = s.task_uuid AND s.position >= roots.from_position""",
    # In a paused task a step is enqueued without a message; resuming sends it.
    where="s.state = 'enqueued' AND t.state = 'in_progress' AND $scope(s.task_uuid)",
    rules=(
        Rule(
            "enqueued-step-has-message",
            "every enqueued step of a task that runs has a message, one to come by the step enqueuer, or a timer",
            "num_nonnulls(m.task_uuid, later.task_uuid, roots.task_uuid, w.task_uuid) = 0",
            "'enqueued, and no message or timer will start it'",
            _STUCK,
        ),
    ),
)

RUNNING = Check(
    about="steps that run",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    source="""
        FROM tasker.workflow_steps AS s
        LEFT JOIN (SELECT DISTINCT c.executor, k.task_uuid, k.step_position, k.map_index, k.fence
                   FROM tasker.step_claims AS c
                   CROSS JOIN LATERAL unnest(c.task_uuids, c.positions, c.map_indexes, c.fences)
                              AS k(task_uuid, step_position, map_index, fence)) AS r
          ON r.task_uuid = s.task_uuid AND r.step_position = s.position AND r.map_index = s.map_index
             AND r.fence = s.fence AND r.executor = s.executor
        LEFT JOIN tasker.step_timers AS w
          ON w.task_uuid = s.task_uuid AND w.position = s.position AND w.map_index = s.map_index
             AND w.kind = 'deadline'""",
    where="s.state = 'in_progress' AND $scope(s.task_uuid)",
    rules=(
        Rule(
            "running-step-has-lease",
            "every running step has a receipt of its executor with its fence, or a deadline",
            "r.task_uuid IS NULL AND w.task_uuid IS NULL",
            "format('in progress under fence %s, and executor %s has no receipt for it', s.fence, s.executor)",
            "report it; the net of the sweep takes the step from its executor",
        ),
    ),
)

DEAD_LETTERS_OF_STEPS = Check(
    about="steps in error",
    task="s.task_uuid",
    step=("s.position", "s.map_index"),
    source="""
        FROM tasker.workflow_steps AS s
        JOIN tasker.tasks AS t ON t.task_uuid = s.task_uuid
        LEFT JOIN (SELECT DISTINCT d.task_uuid, d.position, d.map_index FROM tasker.dead_letters AS d
                   WHERE d.kind = 'step' AND d.resolved_at IS NULL) AS d
          ON d.task_uuid = s.task_uuid AND d.position = s.position AND d.map_index = s.map_index""",
    where="s.state = 'error' AND t.state NOT IN ('cancelled', 'resolved_manually') AND $scope(s.task_uuid)",
    rules=(
        Rule(
            "failed-step-has-dead-letter",
            "every step in error has an open dead letter, unless its task was cancelled or resolved",
            "d.task_uuid IS NULL",
            "'in error, and no open dead letter says so'",
            "nobody sees that it failed: report it; `tasker task retry` goes on from it",
        ),
    ),
)

DEAD_LETTERS = Check(
    about="dead letters",
    task="d.task_uuid",
    step=("d.position", "d.map_index"),
    source="""
        FROM (SELECT x.task_uuid, x.position, x.map_index, count(*) FILTER (WHERE x.resolved_at IS NULL) AS n,
                     bool_or((x.resolution IS NULL) <> (x.resolved_at IS NULL)) AS half_resolved
              FROM tasker.dead_letters AS x WHERE x.kind = 'step' AND $scope(x.task_uuid)
              GROUP BY x.task_uuid, x.position, x.map_index) AS d
        LEFT JOIN tasker.workflow_steps AS s
          ON s.task_uuid = d.task_uuid AND s.position = d.position AND s.map_index = d.map_index
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = d.task_uuid""",
    rules=(
        Rule(
            "dead-letter-has-step",
            "a dead letter's step exists",
            "s.task_uuid IS NULL",
            "'a dead letter of no step'",
            "the step was deleted by hand: delete the row of dead_letters",
        ),
        Rule(
            "one-open-dead-letter",
            "a step has at most one open dead letter, and a closed one says how it was resolved",
            "d.n > 1 OR d.half_resolved",
            "format('%s open dead letters%s', d.n, CASE WHEN d.half_resolved THEN ', one of them half resolved' END)",
            "is the index dead_letters_open_step there? Close all but one",
        ),
        Rule(
            "open-dead-letter-has-failed-step",
            "an open dead letter's step is in error, and its task neither cancelled nor resolved",
            "d.n > 0 AND (s.state <> 'error' OR t.state IN ('cancelled', 'resolved_manually'))",
            "format('an open dead letter of a step that is %s, in a task that is %s', s.state, t.state)",
            "whatever settled the step left the letter open: report it, and close the letter",
        ),
    ),
)

CHECKS = (STEPS, TIMERS, WAITING, ENQUEUED, RUNNING, DEAD_LETTERS_OF_STEPS, DEAD_LETTERS)
