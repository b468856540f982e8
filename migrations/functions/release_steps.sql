-- Gives back steps that an executor holds and will not run, without spending their attempt. request: executor,
-- steps[] {task_uuid, position, map_index, fence}, finished[] (receipts). A step that is no longer held under that fence is
-- left alone: a late repeat of a release takes nothing away. Returns {released, queues[]}.
CREATE OR REPLACE FUNCTION tasker.release_steps(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    me constant uuid := (request->>'executor')::uuid;
    r record;
    queues text[] := ARRAY[]::text[];
BEGIN
    PERFORM tasker.assert_read_committed('release_steps');
    WITH locked AS MATERIALIZED (
        SELECT s.tid, k.task_uuid, k.step_position, k.map_index
        FROM (SELECT (e.step->>'task_uuid')::uuid AS task_uuid, (e.step->>'position')::integer AS step_position,
                     coalesce((e.step->>'map_index')::integer, 0) AS map_index, (e.step->>'fence')::integer AS fence
              FROM jsonb_array_elements(nullif(request->'steps', 'null')) AS e(step)
              ORDER BY 1, 2, 3 OFFSET 0) AS k
        CROSS JOIN LATERAL (
            SELECT x.ctid AS tid FROM tasker.workflow_steps AS x
            WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
              AND x.state = 'in_progress' AND x.fence = k.fence AND x.executor = me
            FOR NO KEY UPDATE) AS s
    )
    SELECT array_agg(l.tid) AS tids, array_agg(l.task_uuid) AS tasks, array_agg(l.step_position) AS positions,
           array_agg(l.map_index) AS maps
    INTO r FROM locked AS l;
    -- A delegated step runs elsewhere: its deadline is its lease, nobody here can give it back. Looked for in a statement of
    -- its own: the report that delegated it may have committed while this call waited, and it leaves the step's row alone.
    SELECT array_agg(k.tid) AS tids, array_agg(k.task_uuid) AS tasks, array_agg(k.step_position) AS positions,
           array_agg(0) AS losses
    INTO r FROM unnest(r.tids, r.tasks, r.positions, r.maps) AS k(tid, task_uuid, step_position, map_index)
    WHERE NOT EXISTS (SELECT FROM tasker.step_timers AS d
                      WHERE d.task_uuid = k.task_uuid AND d.position = k.step_position AND d.map_index = k.map_index);
    IF r.tids IS NOT NULL THEN
        queues := tasker.requeue_steps(r.tids, r.tasks, r.positions, r.losses, 'released');
    END IF;
    PERFORM tasker.delete_finished_receipts(me, ARRAY(SELECT jsonb_array_elements_text(nullif(request->'finished', 'null'))::bigint));
    RETURN jsonb_build_object('released', coalesce(cardinality(r.tids), 0),
                              'queues', to_jsonb(tasker.queues_with_idle_consumer(queues)));
END
$$;
