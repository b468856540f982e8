-- The slowest kinds of steps by what they were expected to take, from the moving averages: [{namespace, task, version, step,
-- expected_ms}].
CREATE OR REPLACE FUNCTION tasker.get_slowest_steps(quantity integer DEFAULT 20) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM (
    SELECT t.namespace, t.name AS task, t.version, s.name AS step, s.expected_ms
    FROM tasker.named_steps AS s JOIN tasker.named_tasks AS t ON t.named_task_id = s.named_task_id
    WHERE s.expected_ms IS NOT NULL ORDER BY s.expected_ms DESC LIMIT least(greatest(quantity, 1), 1000)) AS x
$$;
