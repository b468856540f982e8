-- The batch form of tasker.get_task_execution_context, in the order of the uuids; unknown ones are left out.
CREATE OR REPLACE FUNCTION tasker.get_task_execution_contexts(task_uuids uuid[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_agg(c.context ORDER BY k.no) FILTER (WHERE c.context IS NOT NULL), '[]')
FROM unnest(task_uuids) WITH ORDINALITY AS k(task_uuid, no)
CROSS JOIN LATERAL (SELECT tasker.get_task_execution_context(k.task_uuid) AS context) AS c
$$;
