"""For each rule about tasks the ways to break it, and it alone."""

from __future__ import annotations

from tests.integration.verification.corruption import FUTURE, PAST, STRANGER, by, drop_checks

_DROP_CHECKS = drop_checks("tasks")

CORRUPTIONS = {
    "task-columns": [
        by(
            "an admitted task says that its context is unchecked",
            "UPDATE tasker.tasks SET context_checked = false WHERE task_uuid = {complete}",
        ),
        by(
            "a complete task has not ended",
            _DROP_CHECKS,
            "UPDATE tasker.tasks SET finished_at = NULL, finalized_at = NULL, open = NULL, failed = NULL,"
            " skipped = NULL WHERE task_uuid = {complete}",
        ),
        by(
            "a finished task counts a live step",
            _DROP_CHECKS,
            "UPDATE tasker.tasks SET active = 1 WHERE task_uuid = {failed}",
        ),
        by(
            "a task that runs was never admitted",
            _DROP_CHECKS,
            "UPDATE tasker.tasks SET state = 'in_progress' WHERE task_uuid = {scheduled}",
            "UPDATE tasker.task_transitions SET to_state = 'in_progress' WHERE task_uuid = {scheduled}",
        ),
    ],
    "task-dates": [
        by(
            "a task is admitted an hour before it was created",
            f"UPDATE tasker.tasks SET admitted_at = {PAST} WHERE task_uuid = {{complete}}",
        ),
        by(
            "a task is finalized before it finished",
            "UPDATE tasker.tasks SET finalized_at = finished_at - interval '1 second' WHERE task_uuid = {complete}",
        ),
    ],
    "active-counter": [
        by(
            "the counter of an open task is raised by one",
            "UPDATE tasker.tasks SET active = active + 1 WHERE task_uuid = {half_way}",
        ),
    ],
    "total-counter": [
        by(
            "a task says that it has one step more",
            "UPDATE tasker.tasks SET total = total + 1 WHERE task_uuid = {complete}",
        ),
    ],
    "terminal-counters": [
        by(
            "a complete task says that it skipped a step",
            "UPDATE tasker.tasks SET skipped = 1 WHERE task_uuid = {complete}",
        ),
        by("an open task counts its failed steps", "UPDATE tasker.tasks SET failed = 0 WHERE task_uuid = {running}"),
    ],
    "terminal-task-has-no-live-step": [
        by(
            "the last step of a complete task was released, not completed",
            "UPDATE tasker.workflow_steps SET state = 'enqueued', attempts = 0, finished_at = NULL"
            " WHERE task_uuid = {complete} AND position = 3",
            "UPDATE tasker.workflow_step_transitions SET to_state = 'enqueued', reason = 'released'"
            " WHERE task_uuid = {complete} AND position = 3 AND to_state = 'complete'",
            "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {complete}",
        ),
    ],
    "open-task-can-go-on": [
        by(
            "a task whose steps are all complete has not ended",
            "UPDATE tasker.tasks SET state = 'in_progress', finished_at = NULL, finalized_at = NULL, open = NULL,"
            " failed = NULL, skipped = NULL WHERE task_uuid = {complete}",
            "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete} AND to_state = 'complete'",
        ),
    ],
    "task-outcome": [
        by(
            "a task with a failed step is complete",
            "UPDATE tasker.tasks SET state = 'complete' WHERE task_uuid = {failed}",
            "UPDATE tasker.task_transitions SET to_state = 'complete'"
            " WHERE task_uuid = {failed} AND to_state = 'error'",
        ),
        by(
            "a cancelled task has a pending step",
            "UPDATE tasker.workflow_steps SET state = 'pending', finished_at = NULL"
            " WHERE task_uuid = {scheduled_cancelled} AND position = 1",
            "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {scheduled_cancelled} AND position = 1",
            "UPDATE tasker.tasks SET open = 1 WHERE task_uuid = {scheduled_cancelled}",
        ),
    ],
    "nothing-before-admission": [
        by(
            "a task whose step has run was never admitted",
            "UPDATE tasker.tasks SET admitted_at = NULL WHERE task_uuid = {failed}",
        ),
    ],
    "claims": [
        by(
            "somebody claims the admission of a task that has ended",
            f"UPDATE tasker.tasks SET claimed_by = 'x', claimed_at = {PAST}, claim_expires_at = {FUTURE}"
            " WHERE task_uuid = {complete}",
        ),
        by(
            "a final task is claimed for finalization",
            "UPDATE tasker.tasks SET finalization_claimed_by = 'x', finalization_claimed_at = now(),"
            f" finalization_claim_expires_at = {FUTURE} WHERE task_uuid = {{finalized}}",
        ),
    ],
    "final-at-once": [
        by(
            "a complete task without hooks waits for a finalizer",
            "UPDATE tasker.tasks SET finalized_at = NULL WHERE task_uuid = {complete}",
            "INSERT INTO pgmq.q_task_finalization (vt, message)"
            " VALUES (now(), jsonb_build_object('task_uuid', {complete}))",
        ),
    ],
    "task-has-workflow": [
        by(
            "the workflow of a task is not marked as used",
            "UPDATE tasker.named_tasks SET used = false WHERE namespace = 'complete'",
        ),
    ],
    "expired-admission-claim": [
        by(
            "an admission claim expires",
            f"UPDATE tasker.tasks SET claim_expires_at = {PAST} WHERE task_uuid = {{claimed}}",
        ),
    ],
    "expired-finalization-claim": [
        by(
            "a finalization claim expires",
            f"UPDATE tasker.tasks SET finalization_claim_expires_at = {PAST} WHERE task_uuid = {{finalizing}}",
        ),
    ],
    "parent-exists": [
        by(
            "a child names a parent that is not there",
            f"UPDATE tasker.tasks SET parent_task_uuid = {STRANGER} WHERE task_uuid = {{child}}",
        ),
    ],
    "finalization-is-coming": [
        by(
            "the message for the finalizers is deleted",
            "DELETE FROM pgmq.q_task_finalization WHERE message->>'task_uuid' = CAST({hooked} AS text)",
        ),
    ],
    "task-has-context": [
        by(
            "a context is deleted",
            "DELETE FROM tasker.task_contexts WHERE task_uuid = {complete}",
        ),
    ],
    "context-has-task": [
        by(
            "a context belongs to no task",
            f"INSERT INTO tasker.task_contexts (task_uuid, context) VALUES ({STRANGER}, '{{{{}}}}')",
        ),
    ],
    "identity-has-task": [
        by(
            "an identity names a task that is not there",
            f"UPDATE tasker.task_identities SET task_uuid = {STRANGER} WHERE task_uuid = {{unique}}",
        ),
    ],
}
