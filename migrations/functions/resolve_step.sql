-- Supplies a step's result by hand; it satisfies its dependents, and the task goes on in this transaction. A result that still
-- comes from elsewhere is stale. request: {task_uuid, step | position | step_uuid, results, by, reason}.
-- Returns {state (of the step), task_state, queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.resolve_step(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id constant uuid := tasker.to_uuid(request->>'task_uuid', 'task_uuid');
    t record;
    s record;
    moved record;
    after record;
    queues text[] := ARRAY[]::text[];
    finished jsonb;
BEGIN
    IF tasker.json_is_deep(request->'results') THEN
        RAISE EXCEPTION 'results are nested deeper than 200 levels'
            USING ERRCODE = 'TK001', COLUMN = 'results', HINT = 'nothing was changed; give them another shape';
    END IF;
    SELECT * INTO t FROM tasker.lock_task(id);
    SELECT * INTO s FROM tasker.lock_step(request, t.named_task_id);
    IF s.state IN ('complete', 'skipped', 'resolved_manually', 'cancelled') THEN
        RAISE EXCEPTION 'step % is %, there is nothing to resolve', s.name, s.state USING ERRCODE = 'TK005', COLUMN = 'step';
    END IF;
    IF t.state IN ('complete', 'cancelled', 'resolved_manually') THEN
        RAISE EXCEPTION 'task % is %: its steps cannot be resolved', id, t.state USING ERRCODE = 'TK005', COLUMN = 'task_uuid';
    END IF;
    IF t.state = 'error' THEN
        PERFORM tasker.reopen_task(id, request->>'by', coalesce(request->>'reason', 'step resolved'));
    END IF;
    UPDATE tasker.workflow_steps AS x
    SET state = 'resolved_manually', results = request->'results', finished_at = clock_timestamp()
    WHERE x.ctid = s.tid;
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
    VALUES (id, s.step_position, s.map_index, s.fence, s.state, 'resolved_manually', s.executor,
            concat_ws(': ', request->>'by', request->>'reason'));
    -- A delegated step's deadline is made due, which revokes its Celery task; any other timer goes.
    UPDATE tasker.step_timers AS w SET due_at = tasker.now(), set_at = tasker.now()
    WHERE w.task_uuid = id AND w.position = s.step_position AND w.map_index = s.map_index AND w.kind = 'deadline';
    IF NOT FOUND THEN
        PERFORM tasker.delete_timers(ARRAY[id], ARRAY[s.step_position], ARRAY[s.map_index]);
    END IF;
    PERFORM tasker.close_dead_letters(id, ARRAY[s.step_position], 'resolved', request->>'by', request->>'reason');
    PERFORM tasker.publish_step_events(ARRAY[id], ARRAY[s.step_position], ARRAY[s.map_index], NULL);

    SELECT * INTO moved FROM tasker.advance_tasks(
        ARRAY[id], ARRAY[s.step_position], ARRAY[false],
        CASE WHEN s.state IN ('enqueued', 'in_progress', 'waiting_for_retry') THEN ARRAY[id] ELSE ARRAY[]::uuid[] END,
        NULL, NULL, ARRAY[]::text[], 0, 0);
    queues := moved.queues; finished := moved.finished;
    SELECT x.state, x.active, x.admitted_at INTO after FROM tasker.tasks AS x WHERE x.task_uuid = id;
    IF after.active = 0 AND after.admitted_at IS NOT NULL AND after.state IN ('in_progress', 'paused') THEN
        -- Nothing lives and nothing became ready: a failed step was the last to be settled, or another one still failed.
        SELECT * INTO moved FROM tasker.finish_tasks(ARRAY[id]);
        queues := queues || moved.queues; finished := moved.finished;
        SELECT x.state INTO after FROM tasker.tasks AS x WHERE x.task_uuid = id;
    END IF;
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues || 'orchestration_step_results'::text) AS q;
    RETURN jsonb_build_object('state', 'resolved_manually', 'task_state', after.state, 'queues', to_jsonb(queues),
                              'notify', CASE WHEN finished = '[]' THEN '[]'::jsonb ELSE to_jsonb(tasker.waiting_channels()) END);
END
$$;
