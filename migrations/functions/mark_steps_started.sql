-- The committed start mark of steps that may not run twice (retryable: false), set before their handlers run. request:
-- executor, steps[] {task_uuid, position, map_index, fence}. Returns {started: [true | false]} in order; false means: this
-- step is no longer yours, do not run it.
CREATE OR REPLACE FUNCTION tasker.mark_steps_started(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    me constant uuid := (request->>'executor')::uuid;
    rows_ tid[];
    started jsonb;
BEGIN
    PERFORM tasker.check_executor(me, 9223372036854775807);
    WITH locked AS MATERIALIZED (
        SELECT k.no, s.tid
        FROM (SELECT e.no, (e.step->>'task_uuid')::uuid AS task_uuid, (e.step->>'position')::integer AS step_position,
                     coalesce((e.step->>'map_index')::integer, 0) AS map_index, (e.step->>'fence')::integer AS fence
              FROM jsonb_array_elements(nullif(request->'steps', 'null')) WITH ORDINALITY AS e(step, no)
              ORDER BY 2, 3, 4 OFFSET 0) AS k
        LEFT JOIN LATERAL (
            SELECT x.ctid AS tid FROM tasker.workflow_steps AS x
            WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
              AND x.state = 'in_progress' AND x.fence = k.fence AND x.executor = me
            FOR NO KEY UPDATE) AS s ON true
    )
    SELECT jsonb_agg(l.tid IS NOT NULL ORDER BY l.no), array_agg(l.tid) FILTER (WHERE l.tid IS NOT NULL)
    INTO started, rows_ FROM locked AS l;
    UPDATE tasker.workflow_steps AS s SET start_marked_at = clock_timestamp()
    FROM unnest(rows_) AS k(tid) WHERE s.ctid = k.tid;
    RETURN jsonb_build_object('started', coalesce(started, '[]'));
END
$$;
