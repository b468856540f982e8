-- Ends tasks that have no live step left: counts their steps once, decides complete or error, and makes them final at once
-- unless there is after-work. Internal: every caller holds the locks of these tasks.
CREATE OR REPLACE FUNCTION tasker.finish_tasks(task_uuids uuid[], OUT finished jsonb, OUT queues text[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    moment constant timestamptz := clock_timestamp();
    f_tasks uuid[]; f_states text[]; f_open integer[]; f_failed integer[]; f_skipped integer[]; f_from text[];
BEGIN
    SELECT array_agg(c.task_uuid ORDER BY c.task_uuid),
           array_agg(CASE WHEN c.failed = 0 AND c.open = 0 THEN 'complete' ELSE 'error' END ORDER BY c.task_uuid),
           array_agg(c.open ORDER BY c.task_uuid), array_agg(c.failed ORDER BY c.task_uuid),
           array_agg(c.skipped ORDER BY c.task_uuid), array_agg(c.state ORDER BY c.task_uuid)
    INTO f_tasks, f_states, f_open, f_failed, f_skipped, f_from
    FROM (SELECT k.task_uuid, t.state, n.open, n.failed, n.skipped
          FROM unnest(task_uuids) AS k(task_uuid)
          CROSS JOIN LATERAL (SELECT x.state FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
          CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE s.finished_at IS NULL)::integer AS open,
                                     count(*) FILTER (WHERE s.state = 'error')::integer AS failed,
                                     count(*) FILTER (WHERE s.state = 'skipped')::integer AS skipped
                              FROM tasker.workflow_steps AS s WHERE s.task_uuid = k.task_uuid) AS n) AS c;
    SELECT e.finished, e.queues INTO finished, queues
    FROM tasker.end_tasks(f_tasks, f_from, f_states, f_open, f_failed, f_skipped, NULL, NULL, moment) AS e;
END
$$;
