-- Runs a task in "error" on from its failed steps, with fresh attempts; finished work is not done again. A task whose context
-- was refused goes back to admission. request: {task_uuid, by, reason}. Returns {state, retried, queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.retry_task(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id constant uuid := tasker.to_uuid(request->>'task_uuid', 'task_uuid');
    t record;
    r record;
    queues text[] := ARRAY[]::text[];
    state_now text;
BEGIN
    SELECT * INTO t FROM tasker.lock_task(id);
    IF t.state <> 'error' THEN
        RAISE EXCEPTION 'task % is %, only one in error can be retried', id, t.state
            USING ERRCODE = 'TK005', COLUMN = 'task_uuid', HINT = 'a task that runs needs no retry, one that ended otherwise has none';
    END IF;
    SELECT array_agg(s.tid) AS tids, array_agg(s.position) AS positions INTO r
    FROM (SELECT x.ctid AS tid, x.position FROM tasker.workflow_steps AS x
          WHERE x.task_uuid = id AND t.admitted AND (x.state = 'error' OR x.state = 'pending' AND x.unmet = 0)
          ORDER BY x.task_uuid, x.position, x.map_index FOR NO KEY UPDATE) AS s;
    PERFORM tasker.reopen_task(id, request->>'by', coalesce(request->>'reason', 'retried'));
    IF t.admitted THEN
        PERFORM tasker.close_dead_letters(id, r.positions, 'retried', request->>'by', request->>'reason');
        queues := tasker.requeue_by_operator(id, t.named_task_id, r.tids, coalesce(cardinality(r.tids), 0), 'retried');
    ELSE
        queues := ARRAY['admission'];
    END IF;
    SELECT x.state INTO state_now FROM tasker.tasks AS x WHERE x.task_uuid = id;
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;
    RETURN jsonb_build_object('state', state_now, 'retried', coalesce(cardinality(r.tids), 0), 'queues', to_jsonb(queues),
                              'notify', '[]'::jsonb);
END
$$;
