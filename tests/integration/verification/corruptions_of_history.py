"""For each rule about the history the ways to break it, and it alone."""

from __future__ import annotations

from tests.integration.verification.corruption import DROP_HELD, FUTURE, STRANGER, by

_HOLD_AGAIN = "SELECT tasker.ensure_transition_checks()"

CORRUPTIONS = {
    "step-transitions-allowed": [
        by(
            "a cancelled step is cancelled once more",
            DROP_HELD % "workflow_step_transitions",
            "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
            " VALUES ({cancelled}, 1, 0, 0, 'cancelled', 'cancelled')",
            _HOLD_AGAIN,
        ),
    ],
    "step-chain": [
        by(
            "a transition in the middle of a step's history is deleted",
            "DELETE FROM tasker.workflow_step_transitions"
            " WHERE task_uuid = {second_try} AND to_state = 'waiting_for_retry'",
        ),
        by(
            "a step has another state than its history says",
            "UPDATE tasker.workflow_steps SET state = 'resolved_manually'"
            " WHERE task_uuid = {complete} AND position = 3",
        ),
        by(
            "the beginning of a step's history is deleted",
            "DELETE FROM tasker.workflow_step_transitions"
            " WHERE task_uuid = {complete} AND position = 0 AND from_state = 'pending'",
        ),
        by(
            "a step that was made ready has no history",
            "DELETE FROM tasker.workflow_step_transitions WHERE task_uuid = {enqueued}",
        ),
    ],
    "step-readied-once": [
        by(
            "a step became ready twice",
            "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
            " VALUES ({half_way}, 1, 0, 0, 'pending', 'enqueued')",
        ),
    ],
    "step-fences": [
        by(
            "the fence of a step is raised without a claim",
            "UPDATE tasker.workflow_steps SET fence = fence + 1 WHERE task_uuid = {complete} AND position = 3",
        ),
        by(
            "the second claim left a fence out",
            "UPDATE tasker.workflow_step_transitions SET fence = 3 WHERE task_uuid = {second_try} AND fence = 2",
            "UPDATE tasker.workflow_steps SET fence = 3 WHERE task_uuid = {second_try}",
        ),
        by(
            "the first claim left a fence out",
            "UPDATE tasker.workflow_step_transitions SET fence = fence + 1"
            " WHERE task_uuid = {complete} AND position = 3 AND fence > 0",
            "UPDATE tasker.workflow_steps SET fence = fence + 1 WHERE task_uuid = {complete} AND position = 3",
        ),
    ],
    "step-audit-times": [
        by(
            "a step ended in the future",
            f"UPDATE tasker.workflow_step_transitions SET at = {FUTURE}"
            " WHERE task_uuid = {complete} AND position = 3 AND to_state = 'complete'",
        ),
        by(
            "a step completed before it was claimed",
            "UPDATE tasker.workflow_step_transitions AS late SET at = claim.at - interval '1 microsecond'"
            " FROM tasker.workflow_step_transitions AS claim WHERE late.task_uuid = {complete} AND late.position = 3"
            " AND late.to_state = 'complete' AND claim.task_uuid = {complete} AND claim.position = 3"
            " AND claim.to_state = 'in_progress'",
            "UPDATE tasker.workflow_steps SET started_at = started_at - interval '1 minute',"
            " finished_at = started_at - interval '1 minute' WHERE task_uuid = {complete} AND position = 3",
        ),
    ],
    "step-transition-has-step": [
        by(
            "a transition belongs to no step",
            "INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state)"
            f" VALUES ({STRANGER}, 0, 0, 0, 'pending', 'enqueued')",
        ),
    ],
    "ready-after-its-parents": [
        by(
            "a join was ready a microsecond before its last parent completed",
            "UPDATE tasker.workflow_step_transitions AS d SET at = b.at - interval '1 microsecond'"
            " FROM tasker.workflow_step_transitions AS b WHERE d.task_uuid = {complete} AND d.position = 3"
            " AND d.from_state = 'pending' AND b.task_uuid = {complete} AND b.position = 2 AND b.to_state = 'complete'",
        ),
    ],
    "attempts-as-in-history": [
        by(
            "a step has lost an executor of which its history knows nothing",
            "UPDATE tasker.workflow_steps SET losses = 1 WHERE task_uuid = {second_try}",
        ),
        by(
            "a step counts an attempt that was given back",
            "UPDATE tasker.workflow_steps SET attempts = 1 WHERE task_uuid = {released} AND position = 0",
        ),
    ],
    "task-transitions-allowed": [
        by(
            "a cancelled task is cancelled once more",
            DROP_HELD % "task_transitions",
            "INSERT INTO tasker.task_transitions (task_uuid, finish_no, from_state, to_state)"
            " VALUES ({cancelled}, 1, 'cancelled', 'cancelled')",
            _HOLD_AGAIN,
        ),
    ],
    "task-chain": [
        by(
            "the creation of a task is deleted from its history",
            "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete} AND from_state IS NULL",
        ),
        by(
            "a task has another state than its history says",
            "UPDATE tasker.tasks SET state = 'cancelled' WHERE task_uuid = {complete}",
        ),
        by(
            "a pause is deleted from a task's history",
            "DELETE FROM tasker.task_transitions WHERE task_uuid = {resumed} AND to_state = 'paused'",
        ),
        by("a task has no history", "DELETE FROM tasker.task_transitions WHERE task_uuid = {complete}"),
    ],
    "finish-numbers": [
        by(
            "a task counts a finish of which its history knows nothing",
            "UPDATE tasker.tasks SET finish_no = 2 WHERE task_uuid = {complete}",
        ),
        by(
            "a retry raised the number of the finish by two",
            "UPDATE tasker.task_transitions SET finish_no = 3 WHERE task_uuid = {retried} AND finish_no = 2",
            "UPDATE tasker.tasks SET finish_no = 3 WHERE task_uuid = {retried}",
        ),
    ],
    "task-audit-times": [
        by(
            "a task ended in the future",
            f"UPDATE tasker.task_transitions SET at = {FUTURE}"
            " WHERE task_uuid = {complete} AND to_state = 'complete'",
        ),
    ],
    "task-transition-has-task": [
        by(
            "a transition belongs to no task",
            "INSERT INTO tasker.task_transitions (task_uuid, finish_no, to_state)"
            f" VALUES ({STRANGER}, 1, 'in_progress')",
        ),
    ],
    "finalization-claim-numbers": [
        by(
            "a task has given out fewer finalization claims than were taken",
            "UPDATE tasker.tasks SET claim_no = 0 WHERE task_uuid = {finalized}",
        ),
        by(
            "two processors claimed under one number",
            "UPDATE tasker.finalization_attempts SET claim_no = 2 WHERE task_uuid = {finalized} AND claim_no = 1",
        ),
    ],
    "attempt-has-task": [
        by(
            "an attempt at finalization belongs to no task",
            "INSERT INTO tasker.finalization_attempts"
            " (finalization_attempt_uuid, task_uuid, processor, action, outcome, claim_no, duration_ms)"
            f" VALUES (tasker.uuid7(), {STRANGER}, 'f1', 'claim', 'claimed', 1, 0)",
        ),
    ],
    "finalized-once": [
        by(
            "one finish was finalized twice",
            "INSERT INTO tasker.finalization_attempts SELECT * FROM tasker.finalization_attempts"
            " WHERE task_uuid = {finalized} AND outcome = 'finalized'",
        ),
    ],
    "finalized-by-an-attempt": [
        by(
            "a task is final, and nobody finalized it",
            "DELETE FROM tasker.finalization_attempts WHERE task_uuid = {finalized} AND outcome = 'finalized'",
        ),
        by(
            "a task whose finish was finalized waits for it again",
            "UPDATE tasker.tasks SET finalized_at = NULL WHERE task_uuid = {finalized}",
            "INSERT INTO pgmq.q_task_finalization (vt, message)"
            " VALUES (now(), jsonb_build_object('task_uuid', {finalized}))",
        ),
    ],
}
