-- Gives a finalization claim back without ending the after-work; anybody may take it when its message shows again. False: the claim is not,
-- or no longer, this processor's under this number.
CREATE OR REPLACE FUNCTION tasker.release_finalization_claim(task_uuid uuid, processor_id text, claim_no integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    began constant timestamptz := clock_timestamp();
    since timestamptz;
    was_ours boolean;
BEGIN
    SELECT x.finalization_claimed_at INTO since FROM tasker.tasks AS x
    WHERE x.task_uuid = release_finalization_claim.task_uuid AND x.finalization_claimed_by = processor_id
      AND x.claim_no = release_finalization_claim.claim_no FOR NO KEY UPDATE;
    was_ours := FOUND;
    IF was_ours THEN
        UPDATE tasker.tasks AS x
        SET finalization_claimed_by = NULL, finalization_claimed_at = NULL, finalization_claim_expires_at = NULL
        WHERE x.task_uuid = release_finalization_claim.task_uuid;
    END IF;
    PERFORM tasker.record_finalization_attempt(task_uuid, coalesce(processor_id, ''), 'release',
        CASE WHEN was_ours THEN 'released' ELSE 'not_held' END, claim_no, NULL, began, since);
    RETURN was_ours;
END
$$;
