-- Who holds which finalization claim, and for how long.
CREATE OR REPLACE VIEW tasker.finalization_claims AS
SELECT t.task_uuid, d.namespace, d.name, d.version, t.state, t.finish_no, t.claim_no,
       t.finalization_claimed_by AS processor, t.finalization_claimed_at AS claimed_at,
       t.finalization_claim_expires_at AS expires_at, t.finalization_claim_expires_at <= tasker.now() AS expired,
       extract(epoch FROM tasker.now() - t.finalization_claimed_at) AS held_seconds
FROM tasker.tasks AS t
JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
WHERE t.finished_at IS NOT NULL AND t.finalized_at IS NULL AND t.finalization_claimed_by IS NOT NULL;
