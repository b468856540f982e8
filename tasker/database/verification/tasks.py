"""Rules about tasks: their state, counters and claims against the rows of their steps."""

from __future__ import annotations

from tasker.database.verification.rule import LIVE, TASK_ENDS, Check, Rule, told

_REPORT = "no function writes this: look for hand-written SQL, then report it with `tasker task show UUID --history`"

_COLUMNS = told(
    (
        f"(t.state IN {TASK_ENDS}) <> (t.finished_at IS NOT NULL)",
        "format('%s, finished_at %s', t.state, t.finished_at)",
    ),
    ("t.finished_at IS NOT NULL AND t.active <> 0", "format('finished with active %s', t.active)"),
    ("t.finalized_at IS NOT NULL AND t.finished_at IS NULL", "'finalized but not finished'"),
    (
        "t.state IN ('in_progress', 'complete') AND t.admitted_at IS NULL",
        "format('%s but never admitted', t.state)",
    ),
    ("t.state = 'pending' AND t.admitted_at IS NOT NULL", "'pending but admitted'"),
    ("t.admitted_at IS NOT NULL AND t.scheduled", "'admitted but still scheduled'"),
    ("t.admitted_at IS NOT NULL AND NOT t.context_checked", "'admitted with an unchecked context'"),
    ("t.scheduled AND t.run_at IS NULL", "'scheduled without run_at'"),
)

_DATES = told(
    ("t.created_at > $moment + interval '1 minute'", "format('created in the future, at %s', t.created_at)"),
    (
        "t.admitted_at < t.created_at",
        "format('admitted at %s, before it was created at %s', t.admitted_at, t.created_at)",
    ),
    (
        "t.finished_at < greatest(t.created_at, t.admitted_at)",
        "format('finished at %s, before it was created or admitted', t.finished_at)",
    ),
    ("t.finished_at > $moment + interval '1 minute'", "format('finished in the future, at %s', t.finished_at)"),
    (
        "t.finalized_at < t.finished_at",
        "format('finalized at %s, before it finished at %s', t.finalized_at, t.finished_at)",
    ),
)

_CLAIMS = told(
    (
        "t.claimed_by IS NOT NULL AND t.state <> 'pending'",
        "format('%s with an admission claim of %s', t.state, t.claimed_by)",
    ),
    (
        "(t.claimed_by IS NULL) <> (t.claim_expires_at IS NULL) OR (t.claimed_by IS NULL) <> (t.claimed_at IS NULL)",
        "'half an admission claim'",
    ),
    (
        "t.finalization_claimed_by IS NOT NULL AND (t.finished_at IS NULL OR t.finalized_at IS NOT NULL)",
        "format('%s holds a finalization claim on what is not to be finalized', t.finalization_claimed_by)",
    ),
    (
        "(t.finalization_claimed_by IS NULL) <> (t.finalization_claim_expires_at IS NULL)"
        " OR (t.finalization_claimed_by IS NULL) <> (t.finalization_claimed_at IS NULL)",
        "'half a finalization claim'",
    ),
    ("t.finalization_claimed_by IS NOT NULL AND t.claim_no = 0", "'a finalization claim without a number'"),
)

_OUTCOME = told(
    (
        "t.state = 'complete' AND k.failed + k.pending + k.cancelled > 0",
        "format('complete with steps: %s pending, %s in error, %s cancelled', k.pending, k.failed, k.cancelled)",
    ),
    (
        "t.state = 'error' AND t.admitted_at IS NOT NULL AND k.failed + k.open = 0",
        "'in error, but no step is, and none is open'",
    ),
    (
        "t.state IN ('cancelled', 'resolved_manually') AND k.pending > 0",
        "format('%s with %s pending steps', t.state, k.pending)",
    ),
)

TASKS = Check(
    about="tasks and their steps",
    task="t.task_uuid",
    source=f"""
        FROM tasker.tasks AS t
        LEFT JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
        LEFT JOIN (
            SELECT s.task_uuid, count(*) AS total,
                   count(*) FILTER (WHERE s.state IN {LIVE}) AS live,
                   count(*) FILTER (WHERE s.finished_at IS NULL) AS open,
                   count(*) FILTER (WHERE s.state = 'pending') AS pending,
                   count(*) FILTER (WHERE s.state = 'error') AS failed,
                   count(*) FILTER (WHERE s.state = 'cancelled') AS cancelled,
                   count(*) FILTER (WHERE s.state = 'skipped') AS skipped,
                   count(*) FILTER (WHERE s.state IN {LIVE} OR s.state IN ('complete', 'error')) AS begun
            FROM tasker.workflow_steps AS s WHERE $scope(s.task_uuid) GROUP BY s.task_uuid) AS steps
          ON steps.task_uuid = t.task_uuid
        CROSS JOIN LATERAL (
            SELECT coalesce(steps.total, 0) AS total, coalesce(steps.live, 0) AS live, coalesce(steps.open, 0) AS open,
                   coalesce(steps.pending, 0) AS pending, coalesce(steps.failed, 0) AS failed,
                   coalesce(steps.cancelled, 0) AS cancelled, coalesce(steps.skipped, 0) AS skipped,
                   coalesce(steps.begun, 0) AS begun) AS k""",
    where="$scope(t.task_uuid)",
    rules=(
        Rule(
            "task-columns",
            "the columns of a task agree with its state",
            *_COLUMNS,
            _REPORT,
        ),
        Rule(
            "task-dates",
            "a task is created, admitted, finished and finalized in that order, and not in the future",
            *_DATES,
            "was the server's clock set back? Else report it",
        ),
        Rule(
            "active-counter",
            "the counter of live steps of an open task (`active`) equals its live steps",
            "t.finished_at IS NULL AND t.active <> k.live",
            "format('active is %s, live steps are %s', t.active, k.live)",
            "the task will end too early, or never: report it; `tasker task cancel` ends it",
        ),
        Rule(
            "total-counter",
            "a task has as many step rows as it says (`total`)",
            "t.total <> k.total",
            "format('total is %s, steps are %s', t.total, k.total)",
            "step rows were deleted or added by hand: restore them, or cancel the task",
        ),
        Rule(
            "terminal-counters",
            "a finished task has counted its open, failed and skipped steps; an open one has not",
            "t.finished_at IS NOT NULL AND (t.open, t.failed, t.skipped) IS DISTINCT FROM (k.open, k.failed, k.skipped)"
            " OR t.finished_at IS NULL AND num_nonnulls(t.open, t.failed, t.skipped) > 0",
            "format('open %s, failed %s, skipped %s; the steps say %s, %s, %s',"
            " t.open, t.failed, t.skipped, k.open, k.failed, k.skipped)",
            _REPORT,
        ),
        Rule(
            "terminal-task-has-no-live-step",
            "a finished task has no step that is enqueued, in progress or waiting",
            "t.finished_at IS NOT NULL AND k.live > 0",
            "format('%s with %s live steps', t.state, k.live)",
            "their work is lost or will be refused: report it",
        ),
        Rule(
            "open-task-can-go-on",
            "an admitted task that has not finished has a live step",
            "t.state IN ('in_progress', 'paused') AND t.admitted_at IS NOT NULL AND k.live = 0",
            "format('%s, and no step can make it go on (%s pending, %s in error)', t.state, k.pending, k.failed)",
            "it is stuck for ever: report it; `tasker task cancel` ends it",
        ),
        Rule(
            "task-outcome",
            "a finished task ended as its steps did",
            *_OUTCOME,
            _REPORT,
        ),
        Rule(
            "nothing-before-admission",
            "no step of a task that was not admitted has been made ready or run",
            "t.admitted_at IS NULL AND k.begun > 0",
            "format('%s and not admitted, but %s steps have begun', t.state, k.begun)",
            _REPORT,
        ),
        Rule(
            "claims",
            "only a pending task has an admission claim, only one that waits for after-work a finalization claim",
            *_CLAIMS,
            _REPORT,
        ),
        Rule(
            "final-at-once",
            "a finished task without after-work is final",
            "t.finished_at IS NOT NULL AND t.finalized_at IS NULL AND d.has_after_work IS FALSE",
            "format('%s since %s, not finalized, and has no completion hook', t.state, t.finished_at)",
            _REPORT,
        ),
        Rule(
            "task-has-workflow",
            "a task's workflow version exists, and is marked as used (immutable)",
            "d.used IS DISTINCT FROM true",
            "format('workflow %s %s', t.named_task_id,"
            " CASE WHEN d.named_task_id IS NULL THEN 'does not exist' ELSE 'is not marked as used' END)",
            "a workflow was deleted or changed by hand: restore it",
        ),
        Rule(
            "expired-admission-claim",
            "no admission claim has expired",
            "t.claim_expires_at <= $now",
            "format('%s claimed it until %s', t.claimed_by, t.claim_expires_at)",
            "see that an orchestration worker runs",
            repaired="the next task claimer takes the task",
        ),
        Rule(
            "expired-finalization-claim",
            "no finalization claim has expired",
            "t.finalization_claim_expires_at <= $now",
            "format('%s claimed it until %s', t.finalization_claimed_by, t.finalization_claim_expires_at)",
            "see that an orchestration worker runs, and look in its log for a hook that hangs",
            repaired="the next finalizer takes the task, when its message shows again or the tick sends another",
        ),
    ),
)

FINALIZATION = Check(
    about="tasks that wait for after-work",
    task="t.task_uuid",
    source="FROM tasker.tasks AS t",
    where="""
        t.finished_at IS NOT NULL AND t.finalized_at IS NULL AND $scope(t.task_uuid)
        AND (t.finalization_claim_expires_at IS NULL OR t.finalization_claim_expires_at <= $now)""",
    rules=(
        Rule(
            "finalization-is-coming",
            "a task that waits for after-work has a message for the finalizers, or one of them holds it",
            """NOT EXISTS (SELECT FROM pgmq.q_task_finalization AS q
                           WHERE q.message->>'task_uuid' = CAST(t.task_uuid AS text))""",
            "format('%s since %s, and no message says so', t.state, t.finished_at)",
            "see that an orchestration worker and beat run",
            repaired="the tick sends the message again once the queue task_finalization is empty",
        ),
    ),
)

CONTEXTS = Check(
    about="contexts",
    task="coalesce(t.task_uuid, c.task_uuid)",
    source="""
        FROM (SELECT x.task_uuid FROM tasker.tasks AS x WHERE $scope(x.task_uuid)) AS t
        FULL JOIN (SELECT x.task_uuid FROM tasker.task_contexts AS x WHERE $scope(x.task_uuid)) AS c
          ON c.task_uuid = t.task_uuid""",
    rules=(
        Rule(
            "task-has-context",
            "a task has its context",
            "c.task_uuid IS NULL",
            "'its context is gone'",
            "no step of it can be claimed: restore the row of task_contexts",
        ),
        Rule(
            "context-has-task",
            "a context has its task",
            "t.task_uuid IS NULL",
            "'a context without a task'",
            "the task was deleted by hand: delete its context too",
        ),
    ),
)

IDENTITIES = Check(
    about="identities",
    task="i.task_uuid",
    source="""
        FROM tasker.task_identities AS i
        LEFT JOIN tasker.tasks AS t ON t.task_uuid = i.task_uuid""",
    where="$scope(i.task_uuid)",
    rules=(
        Rule(
            "identity-has-task",
            "what is remembered as unique has its task",
            "t.task_uuid IS NULL",
            "format('identity %s names a task that does not exist', encode(i.identity_hash, 'hex'))",
            "creating the same task again answers with a task that is gone: delete the row of task_identities",
        ),
    ),
)

CHECKS = (TASKS, FINALIZATION, CONTEXTS, IDENTITIES)
