-- The steps of a task with what each waits for: [{position, step, state, ready, unmet, unmet_parents[], attempts, max_attempts,
-- losses, retry_due_at, deadline_at, executor, started_at, finished_at, error}].
CREATE OR REPLACE FUNCTION tasker.get_step_readiness_status(task_uuid uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(jsonb_agg(jsonb_build_object(
    'position', s.position, 'map_index', s.map_index, 'step', n.name, 'step_uuid', s.step_uuid, 'namespace', n.namespace,
    'queue', n.queue, 'state', s.state, 'ready', s.state = 'enqueued', 'unmet', s.unmet,
    'unmet_parents', (SELECT coalesce(jsonb_agg(p.name ORDER BY p.position), '[]')
                      FROM tasker.named_steps AS p
                      JOIN tasker.workflow_steps AS w ON w.task_uuid = t.task_uuid AND w.position = p.position AND w.map_index = 0
                      WHERE p.named_task_id = t.named_task_id AND p.position = ANY (n.depends_on)
                        AND w.state NOT IN ('complete', 'resolved_manually', 'skipped')),
    'attempts', s.attempts, 'max_attempts', n.max_attempts, 'losses', s.losses, 'fence', s.fence,
    'retry_due_at', CASE WHEN d.kind = 'retry' THEN d.due_at END, 'deadline_at', CASE WHEN d.kind = 'deadline' THEN d.due_at END,
    'executor', s.executor, 'started_at', s.started_at, 'finished_at', s.finished_at, 'error', s.error)
    ORDER BY s.position, s.map_index), '[]')
FROM tasker.tasks AS t
JOIN tasker.workflow_steps AS s ON s.task_uuid = t.task_uuid
JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position
LEFT JOIN tasker.step_timers AS d ON d.task_uuid = s.task_uuid AND d.position = s.position AND d.map_index = s.map_index
WHERE t.task_uuid = get_step_readiness_status.task_uuid
$$;
