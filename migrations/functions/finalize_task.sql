-- Ends the after-work: the task is final. Requires the claim's number under the row lock, so that a finalizer that was
-- overtaken (its claim expired, or the task was reopened) ends nothing. The message goes with it.
-- request: {task_uuid, processor, claim_no, msg_id, events{}, rejected_events{} (see publish_task_events)}. Returns {answer: finalized | already_finalized | not_finished |
-- not_found | claim_lost, finish_no, notify[]}.
CREATE OR REPLACE FUNCTION tasker.finalize_task(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    began constant timestamptz := clock_timestamp();
    id constant uuid := (request->>'task_uuid')::uuid;
    t record;
    answer text;
BEGIN
    PERFORM tasker.assert_read_committed('finalize_task');
    PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = id FOR NO KEY UPDATE;
    SELECT x.finished_at, x.finalized_at, x.claim_no, x.finish_no, x.finalization_claimed_by AS holder, x.finalization_claimed_at AS since
    INTO t FROM tasker.tasks AS x WHERE x.task_uuid = id;
    answer := CASE WHEN t.claim_no IS NULL THEN 'not_found'
                   WHEN t.finished_at IS NULL THEN 'not_finished'
                   WHEN t.finalized_at IS NOT NULL THEN 'already_finalized'
                   WHEN t.holder IS DISTINCT FROM request->>'processor' OR t.claim_no IS DISTINCT FROM (request->>'claim_no')::integer
                       THEN 'claim_lost'
                   ELSE 'finalized' END;
    IF answer = 'finalized' THEN
        UPDATE tasker.tasks AS x
        SET finalized_at = clock_timestamp(), finalization_claimed_by = NULL, finalization_claimed_at = NULL,
            finalization_claim_expires_at = NULL
        WHERE x.task_uuid = id;
        PERFORM tasker.publish_task_events(id, request);
    END IF;
    IF answer <> 'claim_lost' AND request->>'msg_id' IS NOT NULL THEN
        PERFORM tasker.queue_remove('task_finalization', ARRAY[(request->>'msg_id')::bigint]);
    END IF;
    PERFORM tasker.record_finalization_attempt(id, coalesce(request->>'processor', ''), 'finalize', answer,
        (request->>'claim_no')::integer, t.finish_no, began, CASE WHEN answer = 'finalized' THEN t.since END);
    RETURN jsonb_build_object('answer', answer, 'finish_no', t.finish_no,
        'notify', CASE WHEN answer = 'finalized' THEN to_jsonb(tasker.waiting_channels()) ELSE '[]'::jsonb END);
END
$$;
