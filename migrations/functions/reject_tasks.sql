-- Ends tasks that wait for admission and cannot be admitted, in error. request: {tasks: [{task_uuid, reason, message}],
-- processor}. Returns {rejected, queues[], finished_tasks[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.reject_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r record;
    n_open integer;
    ended record;
    finished jsonb := '[]'::jsonb;
    queues text[] := ARRAY[]::text[];
BEGIN
    PERFORM tasker.assert_read_committed('reject_tasks');
    FOR r IN
        SELECT k.task_uuid, k.why
        FROM (SELECT (e.entry->>'task_uuid')::uuid AS task_uuid,
                     left(concat_ws(': ', e.entry->>'reason', e.entry->>'message'), 4096) AS why
              FROM jsonb_array_elements(request->'tasks') AS e(entry) ORDER BY 1 OFFSET 0) AS k
        CROSS JOIN LATERAL (
            SELECT FROM tasker.tasks AS x
            WHERE x.task_uuid = k.task_uuid AND x.state = 'pending' AND x.admitted_at IS NULL
              AND (x.claimed_by IS NULL OR x.claimed_by = request->>'processor')
            FOR NO KEY UPDATE) AS t
    LOOP
        -- A statement of its own: it sees what was committed while this call waited for the task.
        SELECT count(*)::integer INTO n_open FROM tasker.workflow_steps AS s
        WHERE s.task_uuid = r.task_uuid AND s.finished_at IS NULL;
        SELECT * INTO ended FROM tasker.end_tasks(
            ARRAY[r.task_uuid], ARRAY['pending'], ARRAY['error'], ARRAY[n_open], ARRAY[0], ARRAY[0],
            request->>'processor', r.why, clock_timestamp());
        finished := finished || ended.finished; queues := queues || ended.queues;
    END LOOP;
    RETURN jsonb_build_object('rejected', jsonb_array_length(finished), 'finished_tasks', finished,
        'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)), 'notify', to_jsonb(tasker.waiting_channels()));
END
$$;
