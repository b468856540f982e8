-- Keeps a finalization claim for longer, while a hook runs. False: it expired and another took it, or it was given back.
CREATE OR REPLACE FUNCTION tasker.extend_finalization_claim(
    task_uuid uuid, processor_id text, claim_no integer, timeout_seconds integer DEFAULT 30) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    began constant timestamptz := clock_timestamp();
    extended boolean;
BEGIN
    UPDATE tasker.tasks AS x
    SET finalization_claim_expires_at = tasker.now() + make_interval(secs => greatest(coalesce(timeout_seconds, 30), 1))
    WHERE x.task_uuid = extend_finalization_claim.task_uuid AND x.finalization_claimed_by = processor_id
      AND x.claim_no = extend_finalization_claim.claim_no;
    extended := FOUND;
    PERFORM tasker.record_finalization_attempt(task_uuid, coalesce(processor_id, ''), 'extend',
        CASE WHEN extended THEN 'extended' ELSE 'not_held' END, claim_no, NULL, began, NULL);
    RETURN extended;
END
$$;
