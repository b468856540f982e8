-- Guards the after-work of a finished task: at most one processor holds the claim. Locks the row before it reads; takes the
-- claim if the task is finished, not finalized, and the claim is free, expired or already the caller's (which extends it).
-- reason: claimed, already_claimed, already_finalized, not_finished (running says how many steps live), not_found.
CREATE OR REPLACE FUNCTION tasker.claim_task_for_finalization(
    task_uuid uuid, processor_id text, timeout_seconds integer DEFAULT 30,
    OUT claimed boolean, OUT already_claimed_by text, OUT task_state text, OUT reason text, OUT message text,
    OUT claim_no integer, OUT finish_no integer, OUT running integer, OUT finalization_attempt_uuid uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    began constant timestamptz := clock_timestamp();
    t record;
BEGIN
    PERFORM tasker.assert_read_committed('claim_task_for_finalization');
    IF coalesce(processor_id, '') = '' OR coalesce(timeout_seconds, 0) < 1 THEN
        RAISE EXCEPTION 'a finalization claim needs a processor_id and a timeout of at least one second'
            USING ERRCODE = 'TK001', COLUMN = CASE WHEN coalesce(processor_id, '') = '' THEN 'processor_id' ELSE 'timeout_seconds' END;
    END IF;
    claimed := false;
    PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = claim_task_for_finalization.task_uuid FOR NO KEY UPDATE;
    SELECT x.state, x.active, x.finished_at, x.finalized_at, x.claim_no, x.finish_no, x.finalization_claimed_by AS holder,
           x.finalization_claim_expires_at AS expires_at
    INTO t FROM tasker.tasks AS x WHERE x.task_uuid = claim_task_for_finalization.task_uuid;
    task_state := t.state; claim_no := t.claim_no; finish_no := t.finish_no; running := t.active;
    IF t.state IS NULL THEN
        reason := 'not_found'; message := format('there is no task %s', task_uuid);
    ELSIF t.finished_at IS NULL THEN
        reason := 'not_finished'; message := format('%s of its steps still live', t.active);
    ELSIF t.finalized_at IS NOT NULL THEN
        reason := 'already_finalized'; message := format('finalized at %s', t.finalized_at);
    ELSIF t.holder IS NOT NULL AND t.holder <> processor_id AND t.expires_at > tasker.now() THEN
        reason := 'already_claimed'; already_claimed_by := t.holder;
        message := format('%s holds the claim until %s', t.holder, t.expires_at);
    ELSE
        claimed := true; reason := 'claimed'; message := 'claimed';
        -- The holder's own repeat keeps its number; a new holder gets the next one, also after an expiry.
        IF t.holder IS DISTINCT FROM processor_id THEN
            claim_no := t.claim_no + 1;
        END IF;
        UPDATE tasker.tasks AS x
        SET finalization_claimed_by = processor_id, claim_no = claim_task_for_finalization.claim_no,
            finalization_claimed_at = CASE WHEN t.holder = processor_id THEN x.finalization_claimed_at ELSE tasker.now() END,
            finalization_claim_expires_at = tasker.now() + make_interval(secs => timeout_seconds)
        WHERE x.task_uuid = claim_task_for_finalization.task_uuid;
    END IF;
    finalization_attempt_uuid := tasker.record_finalization_attempt(
        task_uuid, processor_id, 'claim', CASE WHEN claimed AND t.expires_at <= tasker.now() THEN 'claimed_expired' ELSE reason END,
        claim_no, finish_no, began, NULL);
END
$$;
