"""For each rule of ``tasker db verify`` one way to break it, and it alone, in the database of ``healthy``.

``{kind}`` stands for the uuid of a task, ``{kind!executor}`` for that of its last executor. Where the database itself
would refuse what is written, its constraint goes first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Corruption:
    """What is done, in words and in SQL."""

    does: str
    statements: tuple[str, ...]


def _by(does: str, *statements: str) -> Corruption:
    return Corruption(does, statements)


_STRANGER = "CAST('0190a0a0-0000-7000-8000-000000000000' AS uuid)"
_STEP_ROW = f"""INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)
                SELECT u.id, 0, tasker.step_uuid(u.id, 0, 0), 'pending', 0 FROM (SELECT {_STRANGER} AS id) AS u"""
_RECEIPT = """INSERT INTO tasker.step_claims (executor, call_no, task_uuids, positions, map_indexes, fences)
              VALUES ({complete!executor}, 999, """
_DROP_HELD = "ALTER TABLE tasker.%s DROP CONSTRAINT allowed_transition"
_HOLD_AGAIN = "SELECT tasker.ensure_transition_checks()"
_FUTURE = "clock_timestamp() + interval '1 hour'"
_PAST = "clock_timestamp() - interval '1 hour'"

CORRUPTIONS: dict[str, Corruption] = {
    # -- tasks
    "task-columns": _by(
        "an admitted task says that its context is unchecked",
        "UPDATE tasker.tasks SET context_checked = false WHERE task_uuid = {complete}",
    ),
    "task-dates": _by(
        "a task is admitted an hour before it was created",
        f"UPDATE tasker.tasks SET admitted_at = {_PAST} WHERE task_uuid = {{complete}}",
    ),
    "active-counter": _by(
        "the counter of an open task is raised by one",
        "UPDATE tasker.tasks SET active = active + 1 WHERE task_uuid = {half_way}",
    ),
    "total-counter": _by(
        "a task says that it has one step more",
        "UPDATE tasker.tasks SET total = total + 1 WHERE task_uuid = {complete}",
    ),
    "terminal-counters": _by(
        "a complete task says that it skipped a step",
        "UPDATE tasker.tasks SET skipped = 1 WHERE task_uuid = {complete}",
    ),
    "terminal-task-has-no-live-step": _by(
        "the last step of a complete task was released, not completed",
        "UPDATE tasker.workflow_steps SET state = 'enqueued', attempts = 0, finished_at = NULL"
        " WHERE task_uuid = {complete} AND position = 3",
        "UPDATE tasker.workflow_step_transitions SET to_state = 'enqueued', reason = 'released'"
        " WHERE task_uuid = {complete} AND position = 3 AND to_state = 'complete'",
        "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {complete}",
    ),
    "open-task-can-go-on": _by(
        "a task whose steps are all complete has not ended",
        "UPDATE tasker.tasks SET state = 'in_progress', finished_at = NULL, finalized_at = NULL, open = NULL,"
        " failed = NULL, skipped = NULL WHERE task_uuid = {complete}",
        "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete} AND to_state = 'complete'",
    ),
    "task-outcome": _by(
        "a task with a failed step is complete",
        "UPDATE tasker.tasks SET state = 'complete' WHERE task_uuid = {failed}",
        "UPDATE tasker.task_transitions SET to_state = 'complete' WHERE task_uuid = {failed} AND to_state = 'error'",
    ),
    "nothing-before-admission": _by(
        "a task whose step has run was never admitted",
        "UPDATE tasker.tasks SET admitted_at = NULL WHERE task_uuid = {failed}",
    ),
    "claims": _by(
        "somebody claims the admission of a task that has ended",
        f"UPDATE tasker.tasks SET claimed_by = 'x', claimed_at = {_PAST}, claim_expires_at = {_FUTURE}"
        " WHERE task_uuid = {complete}",
    ),
    "final-at-once": _by(
        "a complete task without hooks waits for a finalizer",
        "UPDATE tasker.tasks SET finalized_at = NULL WHERE task_uuid = {complete}",
        "INSERT INTO pgmq.q_task_finalization (vt, message)"
        " VALUES (now(), jsonb_build_object('task_uuid', {complete}))",
    ),
    "task-has-workflow": _by(
        "the workflow of a task is not marked as used",
        "UPDATE tasker.named_tasks SET used = false WHERE namespace = 'complete'",
    ),
    "expired-admission-claim": _by(
        "an admission claim expires",
        f"UPDATE tasker.tasks SET claim_expires_at = {_PAST} WHERE task_uuid = {{claimed}}",
    ),
    "expired-finalization-claim": _by(
        "a finalization claim expires",
        f"UPDATE tasker.tasks SET finalization_claim_expires_at = {_PAST} WHERE task_uuid = {{finalizing}}",
    ),
    "parent-exists": _by(
        "a child names a parent that is not there",
        f"UPDATE tasker.tasks SET parent_task_uuid = {_STRANGER} WHERE task_uuid = {{child}}",
    ),
    "finalization-is-coming": _by(
        "the message for the finalizers is deleted",
        "DELETE FROM pgmq.q_task_finalization WHERE message->>'task_uuid' = CAST({hooked} AS text)",
    ),
    "task-has-context": _by(
        "a context is deleted",
        "DELETE FROM tasker.task_contexts WHERE task_uuid = {complete}",
    ),
    "context-has-task": _by(
        "a context belongs to no task",
        f"INSERT INTO tasker.task_contexts (task_uuid, context) VALUES ({_STRANGER}, '{{{{}}}}')",
    ),
    "identity-has-task": _by(
        "an identity names a task that is not there",
        f"UPDATE tasker.task_identities SET task_uuid = {_STRANGER} WHERE task_uuid = {{unique}}",
    ),
    # -- steps
    "step-has-task": _by("a step belongs to no task", _STEP_ROW),
    "step-has-definition": _by(
        "a task has a step that its workflow has not",
        "INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)"
        " VALUES ({half_way}, 99, tasker.step_uuid({half_way}, 99, 0), 'pending', 1)",
        "UPDATE tasker.tasks SET total = total + 1 WHERE task_uuid = {half_way}",
    ),
    "step-columns": _by(
        "a complete step has an error",
        "UPDATE tasker.workflow_steps SET error = '{{}}' WHERE task_uuid = {complete} AND position = 0",
    ),
    "step-uuid": _by(
        "a step has another uuid",
        f"UPDATE tasker.workflow_steps SET step_uuid = {_STRANGER} WHERE task_uuid = {{complete}} AND position = 0",
    ),
    "unmet-counter": _by(
        "a pending step waits for one parent more",
        "UPDATE tasker.workflow_steps SET unmet = unmet + 1 WHERE task_uuid = {half_way} AND position = 3",
    ),
    "ready-step-is-enqueued": _by(
        "a step stayed pending when its parent completed",
        "UPDATE tasker.workflow_steps SET state = 'pending' WHERE task_uuid = {half_way} AND position = 2",
        "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {half_way} AND position = 2",
        "UPDATE tasker.tasks SET active = active - 1 WHERE task_uuid = {half_way}",
    ),
    "attempts-within-budget": _by(
        "a step that ran twice may run once",
        "UPDATE tasker.named_steps AS n SET max_attempts = 1 FROM tasker.named_tasks AS d"
        " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'second_try'",
    ),
    "timer-has-step": _by(
        "a timer belongs to no step",
        "INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)"
        f" VALUES ({_STRANGER}, 0, 'retry', 'complete_queue', now(), now(), 1)",
    ),
    "timer-fits-its-step": _by(
        "a complete step has a timer",
        "INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)"
        " VALUES ({complete}, 0, 'retry', 'complete_queue', now(), now(), 1)",
    ),
    "deadline-is-heard": _by(
        "a deadline passed an hour ago",
        f"UPDATE tasker.step_timers SET due_at = {_PAST}, set_at = {_PAST} WHERE task_uuid = {{delegated}}",
    ),
    "waiting-step-has-timer": _by(
        "the timer of a step that waits is deleted",
        "DELETE FROM tasker.step_timers WHERE task_uuid = {waiting}",
    ),
    "enqueued-step-has-message": _by(
        "the message of an enqueued step is deleted",
        "DELETE FROM pgmq.q_enqueued_queue",
    ),
    "running-step-has-lease": _by(
        "the receipt of a running step is deleted",
        "DELETE FROM tasker.step_claims WHERE executor = {running!executor}",
    ),
    "failed-step-has-dead-letter": _by(
        "the dead letter of a failed step is deleted",
        "DELETE FROM tasker.dead_letters WHERE task_uuid = {failed}",
    ),
    "dead-letter-has-step": _by(
        "a dead letter belongs to no step",
        "INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, reason, snapshot)"
        f" VALUES ('step', {_STRANGER}, 0, 0, 'boom', '{{{{}}}}')",
    ),
    "one-open-dead-letter": _by(
        "a failed step has a second open dead letter",
        "DROP INDEX tasker.dead_letters_open_step",
        "INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, reason, snapshot)"
        " VALUES ('step', {failed}, 0, 0, 'boom', '{{}}')",
        "CREATE INDEX dead_letters_open_step ON tasker.dead_letters (task_uuid)",
    ),
    "open-dead-letter-has-failed-step": _by(
        "the dead letter of a step that was retried is open again",
        "UPDATE tasker.dead_letters SET resolution = NULL, resolved_at = NULL WHERE task_uuid = {retried}",
    ),
    # -- receipts, executors, messages
    "receipt-has-step": _by(
        "a receipt holds a step that is not there",
        _RECEIPT + f"ARRAY[{_STRANGER}], ARRAY[0], ARRAY[0], ARRAY[1])",
    ),
    "receipt-fence": _by(
        "a receipt has a fence that its step never had",
        _RECEIPT + "ARRAY[{complete}], ARRAY[0], ARRAY[0], ARRAY[7])",
    ),
    "one-receipt-for-a-fence": _by(
        "a second executor has a receipt for a running step",
        _RECEIPT + "ARRAY[{running}], ARRAY[0], ARRAY[0], ARRAY[1])",
    ),
    "forgotten-receipts": _by(
        "an executor was lost two hours ago, and its receipts are still there",
        "UPDATE tasker.executors SET lost_at = clock_timestamp() - interval '2 hours'"
        " WHERE executor = {running!executor}",
        "UPDATE tasker.coordinator SET last_tick_at = clock_timestamp()",
    ),
    "receipts-of-the-dead": _by(
        "the executor of a running step leaves",
        "DELETE FROM tasker.executors WHERE executor = {running!executor}",
    ),
    "receipts-of-answers-that-got-lost": _by(
        "an executor says that it holds nothing from before",
        "UPDATE tasker.executors SET oldest_call_no = 1000 WHERE executor = {running!executor}",
    ),
    "silent-executors": _by(
        "an executor is silent for an hour",
        f"UPDATE tasker.executors SET heartbeat_at = {_PAST} WHERE executor = {{running!executor}}",
    ),
    "message-has-step": _by(
        "a message names a step that is not there",
        "INSERT INTO pgmq.q_complete_queue (vt, message)"
        f" VALUES (now(), jsonb_build_object('task_uuid', {_STRANGER}, 'position', 0, 'map_index', 0))",
    ),
    "message-is-readable": _by(
        "a message says nothing",
        "INSERT INTO pgmq.q_complete_queue (vt, message) VALUES (now(), '{{}}')",
    ),
    "message-is-on-its-queue": _by(
        "a message lies on the queue of another namespace",
        "INSERT INTO pgmq.q_complete_queue (vt, message) SELECT q.vt, q.message FROM pgmq.q_enqueued_queue AS q",
        "DELETE FROM pgmq.q_enqueued_queue",
    ),
    "orchestration-message-has-task": _by(
        "a message for the finalizers names a task that is not there",
        "INSERT INTO pgmq.q_task_finalization (vt, message)"
        f" VALUES (now(), jsonb_build_object('task_uuid', {_STRANGER}))",
    ),
    "orchestration-message-is-readable": _by(
        "a message for the step enqueuer says nothing",
        "INSERT INTO pgmq.q_step_enqueue (vt, message) VALUES (now(), '{{}}')",
    ),
    # -- history
    "step-transitions-allowed": _by(
        "a cancelled step is cancelled once more",
        _DROP_HELD % "workflow_step_transitions",
        "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
        " VALUES ({cancelled}, 1, 0, 0, 'cancelled', 'cancelled')",
        _HOLD_AGAIN,
    ),
    "step-chain": _by(
        "a transition in the middle of a step's history is deleted",
        "DELETE FROM tasker.workflow_step_transitions"
        " WHERE task_uuid = {second_try} AND to_state = 'waiting_for_retry'",
    ),
    "step-readied-once": _by(
        "a step became ready twice",
        "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
        " VALUES ({half_way}, 1, 0, 0, 'pending', 'enqueued')",
    ),
    "step-fences": _by(
        "the fence of a step is raised without a claim",
        "UPDATE tasker.workflow_steps SET fence = fence + 1 WHERE task_uuid = {complete} AND position = 3",
    ),
    "step-audit-times": _by(
        "a step ended in the future",
        f"UPDATE tasker.workflow_step_transitions SET at = {_FUTURE}"
        " WHERE task_uuid = {complete} AND position = 3 AND to_state = 'complete'",
    ),
    "step-transition-has-step": _by(
        "a transition belongs to no step",
        "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
        f" VALUES ({_STRANGER}, 0, 0, 0, 'pending', 'enqueued')",
    ),
    "ready-after-its-parents": _by(
        "a join was ready a microsecond before its last parent completed",
        "UPDATE tasker.workflow_step_transitions AS d SET at = b.at - interval '1 microsecond'"
        " FROM tasker.workflow_step_transitions AS b WHERE d.task_uuid = {complete} AND d.position = 3"
        " AND d.from_state = 'pending' AND b.task_uuid = {complete} AND b.position = 2 AND b.to_state = 'complete'",
    ),
    "attempts-as-in-history": _by(
        "a step has lost an executor of which its history knows nothing",
        "UPDATE tasker.workflow_steps SET losses = 1 WHERE task_uuid = {second_try}",
    ),
    "task-transitions-allowed": _by(
        "a cancelled task is cancelled once more",
        _DROP_HELD % "task_transitions",
        "INSERT INTO tasker.task_transitions (task_uuid, finish_no, from_state, to_state)"
        " VALUES ({cancelled}, 1, 'cancelled', 'cancelled')",
        _HOLD_AGAIN,
    ),
    "task-chain": _by(
        "the creation of a task is deleted from its history",
        "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete} AND from_state IS NULL",
    ),
    "finish-numbers": _by(
        "a task counts a finish of which its history knows nothing",
        "UPDATE tasker.tasks SET finish_no = 2 WHERE task_uuid = {complete}",
    ),
    "task-audit-times": _by(
        "a task ended in the future",
        f"UPDATE tasker.task_transitions SET at = {_FUTURE} WHERE task_uuid = {{complete}} AND to_state = 'complete'",
    ),
    "task-transition-has-task": _by(
        "a transition belongs to no task",
        f"INSERT INTO tasker.task_transitions (task_uuid, finish_no, to_state) VALUES ({_STRANGER}, 1, 'in_progress')",
    ),
    "finalization-claim-numbers": _by(
        "a task has given out fewer finalization claims than were taken",
        "UPDATE tasker.tasks SET claim_no = 0 WHERE task_uuid = {finalized}",
    ),
    "attempt-has-task": _by(
        "an attempt at finalization belongs to no task",
        "INSERT INTO tasker.finalization_attempts"
        " (finalization_attempt_uuid, task_uuid, processor, action, outcome, claim_no, duration_ms)"
        f" VALUES (tasker.uuid7(), {_STRANGER}, 'f1', 'claim', 'claimed', 1, 0)",
    ),
    "finalized-once": _by(
        "one finish was finalized twice",
        "INSERT INTO tasker.finalization_attempts SELECT * FROM tasker.finalization_attempts"
        " WHERE task_uuid = {finalized} AND outcome = 'finalized'",
    ),
    "finalized-by-an-attempt": _by(
        "a task is final, and nobody finalized it",
        "DELETE FROM tasker.finalization_attempts WHERE task_uuid = {finalized} AND outcome = 'finalized'",
    ),
    # -- schema
    "workflow-steps": _by(
        "a workflow says that it has one step more",
        "UPDATE tasker.named_tasks SET step_count = step_count + 1 WHERE namespace = 'complete'",
    ),
    "workflow-edges": _by(
        "a step of a workflow forgets who depends on it",
        "UPDATE tasker.named_steps AS n SET dependents = '{{}}' FROM tasker.named_tasks AS d"
        " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'scheduled' AND n.position = 0",
    ),
    "queue-exists": _by(
        "a namespace has no queue",
        "INSERT INTO tasker.namespaces (name) VALUES ('nowhere')",
    ),
    "partitions-cover-time": _by(
        "the partition of the day after tomorrow is detached",
        """DO $$ BEGIN EXECUTE format('ALTER TABLE tasker.task_transitions DETACH PARTITION tasker.%I',
               'task_transitions_p' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 2, 'YYYYMMDD'));
           END $$""",
    ),
    "indexes-in-place": _by("an index is dropped", "DROP INDEX tasker.tasks_due"),
    "constraints-in-force": _by(
        "a constraint is not valid",
        "ALTER TABLE tasker.tasks ADD CONSTRAINT odd CHECK (total > 0) NOT VALID",
    ),
    "transitions-are-held": _by("the constraint on transitions is dropped", _DROP_HELD % "task_transitions"),
    "functions-as-shipped": _by(
        "a function is replaced",
        "CREATE OR REPLACE FUNCTION tasker.has_no_timer(task_uuid uuid, step_position integer, step_map_index integer)"
        " RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'",
    ),
    "public-has-nothing": _by("everybody may read tasks", "GRANT SELECT ON tasker.tasks TO PUBLIC"),
}

_TASK_CHECKS = (
    "DO $$ DECLARE c record; BEGIN FOR c IN SELECT conname FROM pg_constraint"
    " WHERE conrelid = 'tasker.tasks'::regclass AND contype = 'c'"
    " LOOP EXECUTE format('ALTER TABLE tasker.tasks DROP CONSTRAINT %I', c.conname); END LOOP; END $$"
)
_STEP_CHECKS = _TASK_CHECKS.replace("tasker.tasks", "tasker.workflow_steps")

FURTHER: list[tuple[str, Corruption]] = [
    # What the constraints forbid is looked for all the same: they may have been dropped.
    (
        "task-columns",
        _by(
            "a complete task has not ended",
            _TASK_CHECKS,
            "UPDATE tasker.tasks SET finished_at = NULL, finalized_at = NULL, open = NULL, failed = NULL,"
            " skipped = NULL WHERE task_uuid = {complete}",
        ),
    ),
    (
        "task-columns",
        _by(
            "a finished task counts a live step",
            _TASK_CHECKS,
            "UPDATE tasker.tasks SET active = 1 WHERE task_uuid = {failed}",
        ),
    ),
    (
        "task-columns",
        _by(
            "a task that runs was never admitted",
            _TASK_CHECKS,
            "UPDATE tasker.tasks SET state = 'in_progress' WHERE task_uuid = {scheduled}",
            "UPDATE tasker.task_transitions SET to_state = 'in_progress' WHERE task_uuid = {scheduled}",
        ),
    ),
    (
        "task-dates",
        _by(
            "a task is finalized before it finished",
            "UPDATE tasker.tasks SET finalized_at = finished_at - interval '1 second' WHERE task_uuid = {complete}",
        ),
    ),
    (
        "terminal-counters",
        _by("an open task counts its failed steps", "UPDATE tasker.tasks SET failed = 0 WHERE task_uuid = {running}"),
    ),
    (
        "task-outcome",
        _by(
            "a cancelled task has a pending step",
            "UPDATE tasker.workflow_steps SET state = 'pending', finished_at = NULL"
            " WHERE task_uuid = {scheduled_cancelled} AND position = 1",
            "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {scheduled_cancelled} AND position = 1",
            "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {scheduled_cancelled}",
        ),
    ),
    (
        "claims",
        _by(
            "a final task is claimed for finalization",
            "UPDATE tasker.tasks SET finalization_claimed_by = 'x', finalization_claimed_at = now(),"
            f" finalization_claim_expires_at = {_FUTURE} WHERE task_uuid = {{finalized}}",
        ),
    ),
    (
        "step-columns",
        _by(
            "a step runs, and nobody runs it",
            _STEP_CHECKS,
            "UPDATE tasker.workflow_steps SET executor = NULL WHERE task_uuid = {delegated} AND position = 0",
        ),
    ),
    (
        "step-columns",
        _by(
            "a complete step has not ended",
            _STEP_CHECKS,
            "UPDATE tasker.workflow_steps SET finished_at = NULL WHERE task_uuid = {continued} AND position = 0",
            "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {continued}",
        ),
    ),
    (
        "step-columns",
        _by(
            "a pending step has run",
            "UPDATE tasker.workflow_steps SET executor = {running!executor}"
            " WHERE task_uuid = {running} AND position = 1",
        ),
    ),
    (
        "step-columns",
        _by(
            "a step ended before it started",
            "UPDATE tasker.workflow_steps SET finished_at = started_at - interval '1 second'"
            " WHERE task_uuid = {complete} AND position = 0",
        ),
    ),
    (
        "attempts-within-budget",
        _by(
            "a step that may not run twice ran twice",
            "UPDATE tasker.named_steps AS n SET retryable = false FROM tasker.named_tasks AS d"
            " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'second_try'",
        ),
    ),
    (
        "unmet-counter",
        _by(
            "a step forgets the parent that was cancelled with it",
            "UPDATE tasker.workflow_steps SET unmet = 0 WHERE task_uuid = {cancelled} AND position = 1",
        ),
    ),
    (
        "timer-fits-its-step",
        _by(
            "a retry has the fence of another attempt",
            "UPDATE tasker.step_timers SET fence = 7 WHERE task_uuid = {waiting}",
        ),
    ),
    (
        "timer-fits-its-step",
        _by(
            "a retry lies under another queue",
            "UPDATE tasker.step_timers SET queue = 'complete_queue' WHERE task_uuid = {waiting}",
        ),
    ),
    (
        "timer-fits-its-step",
        _by(
            "a deadline of a cancelled step is not due, so that nobody revokes it",
            f"UPDATE tasker.step_timers SET due_at = {_FUTURE} WHERE task_uuid = {{delegated_cancelled}}",
        ),
    ),
    (
        "enqueued-step-has-message",
        _by(
            "the message for the step enqueuer passes one dependent by",
            "UPDATE pgmq.q_step_enqueue SET message = message || '{{\"from_index\": 257}}'"
            " WHERE message->>'task_uuid' = CAST({deferred} AS text)",
        ),
    ),
    (
        "enqueued-step-has-message",
        _by(
            "the message for the step enqueuer passes one root by",
            "UPDATE pgmq.q_step_enqueue SET message = message || '{{\"from_index\": 257}}'"
            " WHERE message->>'task_uuid' = CAST({many_roots} AS text)",
        ),
    ),
    (
        "enqueued-step-has-message",
        _by("the timer of a parked step is deleted", "DELETE FROM tasker.step_timers WHERE task_uuid = {parked}"),
    ),
    (
        "running-step-has-lease",
        _by(
            "the deadline of a delegated step is deleted",
            "DELETE FROM tasker.step_timers WHERE task_uuid = {delegated}",
        ),
    ),
    (
        "running-step-has-lease",
        _by(
            "a receipt has the fence of an earlier attempt",
            "UPDATE tasker.step_claims SET fences = ARRAY[0] WHERE executor = {running!executor}",
        ),
    ),
    (
        "one-open-dead-letter",
        _by(
            "a dead letter is closed without saying how",
            "ALTER TABLE tasker.dead_letters DROP CONSTRAINT dead_letters_check1",
            "UPDATE tasker.dead_letters SET resolution = NULL WHERE task_uuid = {retried}",
        ),
    ),
    (
        "open-dead-letter-has-failed-step",
        _by(
            "the dead letter of a task that was resolved is open again",
            "UPDATE tasker.dead_letters SET resolution = NULL, resolved_at = NULL WHERE task_uuid = {task_resolved}",
        ),
    ),
    (
        "step-chain",
        _by(
            "a step has another state than its history says",
            "UPDATE tasker.workflow_steps SET state = 'resolved_manually'"
            " WHERE task_uuid = {complete} AND position = 3",
        ),
    ),
    (
        "step-chain",
        _by(
            "the beginning of a step's history is deleted",
            "DELETE FROM tasker.workflow_step_transitions"
            " WHERE task_uuid = {complete} AND position = 0 AND from_state = 'pending'",
        ),
    ),
    (
        "step-chain",
        _by(
            "a step that was made ready has no history",
            "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {enqueued}",
        ),
    ),
    (
        "step-fences",
        _by(
            "the second claim left a fence out",
            "UPDATE tasker.workflow_step_transitions SET fence = 3 WHERE task_uuid = {second_try} AND fence = 2",
            "UPDATE tasker.workflow_steps SET fence = 3 WHERE task_uuid = {second_try}",
        ),
    ),
    (
        "step-fences",
        _by(
            "the first claim left a fence out",
            "UPDATE tasker.workflow_step_transitions SET fence = fence + 1"
            " WHERE task_uuid = {complete} AND position = 3 AND fence > 0",
            "UPDATE tasker.workflow_steps SET fence = fence + 1 WHERE task_uuid = {complete} AND position = 3",
        ),
    ),
    (
        "step-audit-times",
        _by(
            "a step completed before it was claimed",
            "UPDATE tasker.workflow_step_transitions AS late SET at = claim.at - interval '1 microsecond'"
            " FROM tasker.workflow_step_transitions AS claim WHERE late.task_uuid = {complete} AND late.position = 3"
            " AND late.to_state = 'complete' AND claim.task_uuid = {complete} AND claim.position = 3"
            " AND claim.to_state = 'in_progress'",
            "UPDATE tasker.workflow_steps SET started_at = started_at - interval '1 minute',"
            " finished_at = started_at - interval '1 minute' WHERE task_uuid = {complete} AND position = 3",
        ),
    ),
    (
        "attempts-as-in-history",
        _by(
            "a step counts an attempt that was given back",
            "UPDATE tasker.workflow_steps SET attempts = 1 WHERE task_uuid = {released} AND position = 0",
        ),
    ),
    (
        "task-chain",
        _by(
            "a task has another state than its history says",
            "UPDATE tasker.tasks SET state = 'cancelled' WHERE task_uuid = {complete}",
        ),
    ),
    (
        "task-chain",
        _by(
            "a pause is deleted from a task's history",
            "DELETE FROM tasker.task_transitions WHERE task_uuid = {resumed} AND to_state = 'paused'",
        ),
    ),
    (
        "task-chain",
        _by("a task has no history", "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete}"),
    ),
    (
        "finish-numbers",
        _by(
            "a retry raised the number of the finish by two",
            "UPDATE tasker.task_transitions SET finish_no = 3 WHERE task_uuid = {retried} AND finish_no = 2",
            "UPDATE tasker.tasks SET finish_no = 3 WHERE task_uuid = {retried}",
        ),
    ),
    (
        "finalization-claim-numbers",
        _by(
            "two processors claimed under one number",
            "UPDATE tasker.finalization_attempts SET claim_no = 2 WHERE task_uuid = {finalized} AND claim_no = 1",
        ),
    ),
    (
        "finalized-by-an-attempt",
        _by(
            "a task whose finish was finalized waits for it again",
            "UPDATE tasker.tasks SET finalized_at = NULL WHERE task_uuid = {finalized}",
            "INSERT INTO pgmq.q_task_finalization (vt, message)"
            " VALUES (now(), jsonb_build_object('task_uuid', {finalized}))",
        ),
    ),
    (
        "receipts-of-answers-that-got-lost",
        _by(
            "an executor holds calls before and after one that it has a receipt of, and not that one",
            "UPDATE tasker.step_claims SET call_no = 3 WHERE executor = {running!executor}",
            "UPDATE tasker.executors SET oldest_call_no = 2, next_call_no = 5, held_calls = ARRAY[2, 4]"
            " WHERE executor = {running!executor}",
        ),
    ),
    (
        "receipts-of-answers-that-got-lost",
        _by(
            "an executor says that it holds no call at all",
            "UPDATE tasker.executors SET next_call_no = 2, held_calls = '{{}}' WHERE executor = {running!executor}",
        ),
    ),
    (
        "queue-exists",
        _by("a queue of the engine is dropped", "SELECT pgmq.drop_queue('orchestration_step_results')"),
    ),
    (
        "partitions-cover-time",
        _by(
            "the partition without an end is detached",
            """DO $$ BEGIN EXECUTE format('ALTER TABLE tasker.finalization_attempts DETACH PARTITION tasker.%I',
                   'finalization_attempts_p' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 14, 'YYYYMMDD'));
               END $$""",
        ),
    ),
    (
        "functions-as-shipped",
        _by("a view is dropped", "DROP VIEW tasker.workflow_step_edges"),
    ),
]
"""Other ways to break rules that can be broken in several."""

ALL = [*CORRUPTIONS.items(), *FURTHER]
