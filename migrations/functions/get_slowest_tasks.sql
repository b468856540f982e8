-- The slowest tasks that ended since a moment: [{task_uuid, namespace, name, version, state, seconds}]. Found by the audit
-- partitions of that time, not by reading all tasks.
CREATE OR REPLACE FUNCTION tasker.get_slowest_tasks(since timestamptz, quantity integer DEFAULT 20) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM (
    SELECT t.task_uuid, d.namespace, d.name, d.version, t.state, extract(epoch FROM t.finished_at - t.created_at) AS seconds
    FROM (SELECT DISTINCT a.task_uuid FROM tasker.task_transitions AS a
          WHERE a.at >= since AND a.to_state IN ('complete', 'error', 'cancelled', 'resolved_manually')) AS a
    JOIN tasker.tasks AS t ON t.task_uuid = a.task_uuid AND t.finished_at IS NOT NULL
    JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
    ORDER BY t.finished_at - t.created_at DESC LIMIT least(greatest(quantity, 1), 1000)) AS x
$$;
