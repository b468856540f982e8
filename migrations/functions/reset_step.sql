-- Runs one step anew: one that failed, waits, is queued, or runs (whose outcome then is stale). A step that satisfied its
-- dependents cannot be reset: they would be counted down twice. request: {task_uuid, step | position | step_uuid, by, reason}.
-- Returns {state, queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.reset_step(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id constant uuid := tasker.to_uuid(request->>'task_uuid', 'task_uuid');
    t record;
    s record;
    queues text[];
BEGIN
    SELECT * INTO t FROM tasker.lock_task(id);
    SELECT * INTO s FROM tasker.lock_step(request, t.named_task_id);
    IF s.state IN ('complete', 'skipped', 'resolved_manually', 'cancelled', 'pending') THEN
        RAISE EXCEPTION 'step % is %, which cannot be reset', s.name, s.state
            USING ERRCODE = 'TK005', COLUMN = 'step', HINT = 'only steps in error, waiting_for_retry, enqueued or in_progress can';
    END IF;
    IF t.state NOT IN ('in_progress', 'paused', 'error') THEN
        RAISE EXCEPTION 'task % is %: its steps cannot be reset', id, t.state USING ERRCODE = 'TK005', COLUMN = 'task_uuid';
    END IF;
    IF t.state = 'error' THEN
        PERFORM tasker.reopen_task(id, request->>'by', coalesce(request->>'reason', 'step reset'));
    END IF;
    PERFORM tasker.close_dead_letters(id, ARRAY[s.step_position], 'reset', request->>'by', request->>'reason');
    queues := tasker.requeue_by_operator(id, t.named_task_id, ARRAY[s.tid], CASE WHEN s.state = 'error' THEN 1 ELSE 0 END,
        -- Only here does the step's history say who did it: a step that was live has no dead letter, its task does not change.
        left('reset' || coalesce(' by ' || (request->>'by'), '') || coalesce(': ' || (request->>'reason'), ''), 1024));
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;
    RETURN jsonb_build_object('state', 'enqueued', 'queues', to_jsonb(queues), 'notify', '[]'::jsonb);
END
$$;
