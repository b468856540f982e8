"""For each rule about steps, timers and dead letters the ways to break it, and it alone."""

from __future__ import annotations

from tests.integration.verification.corruption import FUTURE, PAST, STRANGER, by, drop_checks

_STEP_ROW = f"""INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)
                SELECT u.id, 0, tasker.step_uuid(u.id, 0, 0), 'pending', 0 FROM (SELECT {STRANGER} AS id) AS u"""
_DROP_CHECKS = drop_checks("workflow_steps")

CORRUPTIONS = {
    "step-has-task": [
        by("a step belongs to no task", _STEP_ROW),
    ],
    "step-has-definition": [
        by(
            "a task has a step that its workflow has not",
            "INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)"
            " VALUES ({half_way}, 99, tasker.step_uuid({half_way}, 99, 0), 'pending', 1)",
            "UPDATE tasker.tasks SET total = total + 1 WHERE task_uuid = {half_way}",
        ),
    ],
    "step-columns": [
        by(
            "a complete step has an error",
            "UPDATE tasker.workflow_steps SET error = '{{}}' WHERE task_uuid = {complete} AND position = 0",
        ),
        by(
            "a step runs, and nobody runs it",
            _DROP_CHECKS,
            "UPDATE tasker.workflow_steps SET executor = NULL WHERE task_uuid = {delegated} AND position = 0",
        ),
        by(
            "a complete step has not ended",
            _DROP_CHECKS,
            "UPDATE tasker.workflow_steps SET finished_at = NULL WHERE task_uuid = {continued} AND position = 0",
            "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {continued}",
        ),
        by(
            "a pending step has run",
            "UPDATE tasker.workflow_steps SET executor = {running!executor}"
            " WHERE task_uuid = {running} AND position = 1",
        ),
        by(
            "a step ended before it started",
            "UPDATE tasker.workflow_steps SET finished_at = started_at - interval '1 second'"
            " WHERE task_uuid = {complete} AND position = 0",
        ),
    ],
    "step-uuid": [
        by(
            "a step has another uuid",
            f"UPDATE tasker.workflow_steps SET step_uuid = {STRANGER} WHERE task_uuid = {{complete}} AND position = 0",
        ),
    ],
    "unmet-counter": [
        by(
            "a pending step waits for one parent more",
            "UPDATE tasker.workflow_steps SET unmet = unmet + 1 WHERE task_uuid = {half_way} AND position = 3",
        ),
        by(
            "a step forgets the parent that was cancelled with it",
            "UPDATE tasker.workflow_steps SET unmet = 0 WHERE task_uuid = {cancelled} AND position = 1",
        ),
    ],
    "ready-step-is-enqueued": [
        by(
            "a step stayed pending when its parent completed",
            "UPDATE tasker.workflow_steps SET state = 'pending' WHERE task_uuid = {half_way} AND position = 2",
            "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {half_way} AND position = 2",
            "UPDATE tasker.tasks SET active = active - 1 WHERE task_uuid = {half_way}",
        ),
    ],
    "attempts-within-budget": [
        by(
            "a step that ran twice may run once",
            "UPDATE tasker.named_steps AS n SET max_attempts = 1 FROM tasker.named_tasks AS d"
            " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'second_try'",
        ),
        by(
            "a step that may not run twice ran twice",
            "UPDATE tasker.named_steps AS n SET retryable = false FROM tasker.named_tasks AS d"
            " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'second_try'",
        ),
    ],
    "timer-has-step": [
        by(
            "a timer belongs to no step",
            "INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)"
            f" VALUES ({STRANGER}, 0, 'retry', 'complete_queue', now(), now(), 1)",
        ),
    ],
    "timer-fits-its-step": [
        by(
            "a complete step has a timer",
            "INSERT INTO tasker.step_timers (task_uuid, position, kind, queue, due_at, set_at, fence)"
            " VALUES ({complete}, 0, 'retry', 'complete_queue', now(), now(), 1)",
        ),
        by(
            "a retry has the fence of another attempt",
            "UPDATE tasker.step_timers SET fence = 7 WHERE task_uuid = {waiting}",
        ),
        by(
            "a retry lies under another queue",
            "UPDATE tasker.step_timers SET queue = 'complete_queue' WHERE task_uuid = {waiting}",
        ),
        by(
            "a deadline of a cancelled step is not due, so that nobody revokes it",
            f"UPDATE tasker.step_timers SET due_at = {FUTURE} WHERE task_uuid = {{delegated_cancelled}}",
        ),
    ],
    "deadline-is-heard": [
        by(
            "a deadline passed an hour ago",
            f"UPDATE tasker.step_timers SET due_at = {PAST}, set_at = {PAST} WHERE task_uuid = {{delegated}}",
        ),
    ],
    "waiting-step-has-timer": [
        by(
            "the timer of a step that waits is deleted",
            "DELETE FROM tasker.step_timers WHERE task_uuid = {waiting}",
        ),
    ],
    "enqueued-step-has-message": [
        by(
            "the message of an enqueued step is deleted",
            "DELETE FROM pgmq.q_enqueued_queue",
        ),
        by(
            "the message for the step enqueuer passes one dependent by",
            "UPDATE pgmq.q_step_enqueue SET message = message || '{{\"from_index\": 257}}'"
            " WHERE message->>'task_uuid' = CAST({deferred} AS text)",
        ),
        by(
            "the message for the step enqueuer passes one root by",
            "UPDATE pgmq.q_step_enqueue SET message = message || '{{\"from_index\": 257}}'"
            " WHERE message->>'task_uuid' = CAST({many_roots} AS text)",
        ),
        by("the timer of a parked step is deleted", "DELETE FROM tasker.step_timers WHERE task_uuid = {parked}"),
    ],
    "running-step-has-lease": [
        by(
            "the receipt of a running step is deleted",
            "DELETE FROM tasker.step_claims WHERE executor = {running!executor}",
        ),
        by(
            "the deadline of a delegated step is deleted",
            "DELETE FROM tasker.step_timers WHERE task_uuid = {delegated}",
        ),
        by(
            "a receipt has the fence of an earlier attempt",
            "UPDATE tasker.step_claims SET fences = ARRAY[0] WHERE executor = {running!executor}",
        ),
    ],
    "failed-step-has-dead-letter": [
        by(
            "the dead letter of a failed step is deleted",
            "DELETE FROM tasker.dead_letters WHERE task_uuid = {failed}",
        ),
    ],
    "dead-letter-has-step": [
        by(
            "a dead letter belongs to no step",
            "INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, reason, snapshot)"
            f" VALUES ('step', {STRANGER}, 0, 0, 'boom', '{{{{}}}}')",
        ),
    ],
    "one-open-dead-letter": [
        by(
            "a failed step has a second open dead letter",
            "DROP INDEX tasker.dead_letters_open_step",
            "INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, reason, snapshot)"
            " VALUES ('step', {failed}, 0, 0, 'boom', '{{}}')",
            "CREATE INDEX dead_letters_open_step ON tasker.dead_letters (task_uuid)",
        ),
        by(
            "a dead letter is closed without saying how",
            "ALTER TABLE tasker.dead_letters DROP CONSTRAINT dead_letters_check1",
            "UPDATE tasker.dead_letters SET resolution = NULL WHERE task_uuid = {retried}",
        ),
    ],
    "open-dead-letter-has-failed-step": [
        by(
            "the dead letter of a step that was retried is open again",
            "UPDATE tasker.dead_letters SET resolution = NULL, resolved_at = NULL WHERE task_uuid = {retried}",
        ),
        by(
            "the dead letter of a task that was resolved is open again",
            "UPDATE tasker.dead_letters SET resolution = NULL, resolved_at = NULL WHERE task_uuid = {task_resolved}",
        ),
    ],
}
