-- Closes a task by hand, whatever is left of it: steps that have not reached their end are cancelled. request: {task_uuid, by,
-- reason}. Returns {state, queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.resolve_task(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id constant uuid := tasker.to_uuid(request->>'task_uuid', 'task_uuid');
    t record;
    counts record;
    ended record;
BEGIN
    SELECT * INTO t FROM tasker.lock_task(id);
    IF t.state IN ('complete', 'cancelled', 'resolved_manually') THEN
        RAISE EXCEPTION 'task % is %, there is nothing to resolve', id, t.state USING ERRCODE = 'TK005', COLUMN = 'task_uuid';
    END IF;
    PERFORM tasker.close_steps(id, 'task_resolved');
    SELECT count(*) FILTER (WHERE s.state = 'error')::integer AS failed, count(*) FILTER (WHERE s.state = 'skipped')::integer AS skipped,
           array_agg(s.position) FILTER (WHERE s.state = 'error') AS errors
    INTO counts FROM tasker.workflow_steps AS s WHERE s.task_uuid = id;
    IF t.state = 'error' THEN
        -- It finishes a second time: claims of the first finish are void, its hooks are new ones.
        UPDATE tasker.tasks AS x
        SET finish_no = x.finish_no + 1, finalized_at = NULL, finalization_claimed_by = NULL, finalization_claimed_at = NULL,
            finalization_claim_expires_at = NULL
        WHERE x.task_uuid = id;
    END IF;
    SELECT * INTO ended FROM tasker.end_tasks(ARRAY[id], ARRAY[t.state], ARRAY['resolved_manually'], ARRAY[0], ARRAY[counts.failed],
        ARRAY[counts.skipped], request->>'by', request->>'reason', clock_timestamp());
    PERFORM tasker.close_dead_letters(id, counts.errors, 'resolved', request->>'by', request->>'reason');
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(ended.queues || 'orchestration_step_results'::text) AS q;
    RETURN jsonb_build_object('state', 'resolved_manually', 'queues', to_jsonb(ended.queues), 'notify', to_jsonb(tasker.waiting_channels()));
END
$$;
