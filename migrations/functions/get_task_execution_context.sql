-- A task as an operator reads it: counts by state and the execution status, which is derived, never stored: all_complete,
-- processing, has_ready_steps, waiting_for_retry, blocked_by_failures, waiting_for_dependencies. Null: no such task.
CREATE OR REPLACE FUNCTION tasker.get_task_execution_context(task_uuid uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_build_object(
    'task_uuid', t.task_uuid, 'namespace', d.namespace, 'name', d.name, 'version', d.version, 'state', t.state,
    'total', t.total, 'active', t.active, 'pending', c.pending, 'enqueued', c.enqueued, 'in_progress', c.in_progress,
    'waiting_for_retry', c.waiting, 'complete', c.complete, 'error', c.error, 'cancelled', c.cancelled,
    'resolved_manually', c.resolved, 'skipped', c.skipped,
    'progress', round(100.0 * (c.complete + c.resolved + c.skipped) / t.total, 1),
    'execution_status', CASE
        WHEN c.complete + c.resolved + c.skipped = t.total THEN 'all_complete'
        WHEN c.in_progress > 0 THEN 'processing'
        WHEN c.enqueued > 0 THEN 'has_ready_steps'
        WHEN c.waiting > 0 THEN 'waiting_for_retry'
        WHEN c.error > 0 THEN 'blocked_by_failures'
        ELSE 'waiting_for_dependencies' END)
FROM tasker.tasks AS t
JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE s.state = 'pending') AS pending, count(*) FILTER (WHERE s.state = 'enqueued') AS enqueued,
           count(*) FILTER (WHERE s.state = 'in_progress') AS in_progress,
           count(*) FILTER (WHERE s.state = 'waiting_for_retry') AS waiting,
           count(*) FILTER (WHERE s.state = 'complete') AS complete, count(*) FILTER (WHERE s.state = 'error') AS error,
           count(*) FILTER (WHERE s.state = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE s.state = 'resolved_manually') AS resolved,
           count(*) FILTER (WHERE s.state = 'skipped') AS skipped
    FROM tasker.workflow_steps AS s WHERE s.task_uuid = t.task_uuid) AS c
WHERE t.task_uuid = get_task_execution_context.task_uuid
$$;
