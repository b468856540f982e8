-- Cancels tasks: every step that has not reached its end is cancelled at once, and late outcomes are stale. Running handlers
-- learn it by their executor's heartbeat. Terminal tasks stay as they are. request: {task_uuids[], by, reason}.
-- Returns {tasks: [{task_uuid, changed, state}], queues[], notify[]}; state null: there is no such task.
CREATE OR REPLACE FUNCTION tasker.cancel_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id uuid;
    t record;
    counts record;
    ended record;
    told jsonb[] := ARRAY[]::jsonb[];
    queues text[] := ARRAY['orchestration_step_results'];
BEGIN
    PERFORM tasker.assert_read_committed('cancel_tasks');
    FOR id IN SELECT DISTINCT tasker.to_uuid(u.id, 'task_uuids') FROM jsonb_array_elements_text(request->'task_uuids') AS u(id) ORDER BY 1 LOOP
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = id FOR NO KEY UPDATE;
        SELECT x.state INTO t FROM tasker.tasks AS x WHERE x.task_uuid = id;
        IF t.state IS NULL OR t.state NOT IN ('pending', 'in_progress', 'paused') THEN
            told := told || jsonb_build_object('task_uuid', id, 'changed', false, 'state', t.state);
            CONTINUE;
        END IF;
        PERFORM tasker.close_steps(id, 'task_cancelled');
        SELECT count(*) FILTER (WHERE s.state = 'error')::integer AS failed, count(*) FILTER (WHERE s.state = 'skipped')::integer AS skipped,
               array_agg(s.position) FILTER (WHERE s.state = 'error') AS errors
        INTO counts FROM tasker.workflow_steps AS s WHERE s.task_uuid = id;
        SELECT * INTO ended FROM tasker.end_tasks(ARRAY[id], ARRAY[t.state], ARRAY['cancelled'], ARRAY[0], ARRAY[counts.failed],
            ARRAY[counts.skipped], request->>'by', request->>'reason', clock_timestamp());
        PERFORM tasker.close_dead_letters(id, counts.errors, 'cancelled', request->>'by', request->>'reason');
        queues := queues || ended.queues;
        told := told || jsonb_build_object('task_uuid', id, 'changed', true, 'state', 'cancelled');
    END LOOP;
    RETURN jsonb_build_object('tasks', to_jsonb(told), 'notify', to_jsonb(tasker.waiting_channels()),
                              'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)));
END
$$;
