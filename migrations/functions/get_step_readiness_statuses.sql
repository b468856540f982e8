-- The batch form of tasker.get_step_readiness_status: {task_uuid: [...]}.
CREATE OR REPLACE FUNCTION tasker.get_step_readiness_statuses(task_uuids uuid[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_object_agg(k.task_uuid, tasker.get_step_readiness_status(k.task_uuid)), '{}')
FROM (SELECT DISTINCT u.task_uuid FROM unnest(task_uuids) AS u(task_uuid)) AS k
$$;
