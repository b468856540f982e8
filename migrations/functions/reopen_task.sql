-- Takes a task back from "error": the finish it had counts no more, its claims are void, and hooks of the next finish are new
-- ones (finish_no). A task that was never admitted goes back to waiting for admission. Internal; the caller holds the lock.
CREATE OR REPLACE FUNCTION tasker.reopen_task(task_uuid uuid, actor text, reason text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE tasker.tasks AS t
    SET state = CASE WHEN t.admitted_at IS NULL THEN 'pending' ELSE 'in_progress' END, finished_at = NULL, finalized_at = NULL,
        open = NULL, failed = NULL, skipped = NULL, finish_no = t.finish_no + 1,
        context_checked = t.context_checked AND t.admitted_at IS NOT NULL,
        claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL,
        finalization_claimed_by = NULL, finalization_claimed_at = NULL, finalization_claim_expires_at = NULL
    WHERE t.task_uuid = reopen_task.task_uuid;
    INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
    SELECT t.task_uuid, 'error', t.state, t.finish_no, reopen_task.actor, reopen_task.reason
    FROM tasker.tasks AS t WHERE t.task_uuid = reopen_task.task_uuid;
END
$$;
