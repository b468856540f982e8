-- Opens a dead letter for steps that just ended in "error", with a snapshot for whoever looks into it. The reason is the
-- type of the step's error unless one is given.
CREATE OR REPLACE FUNCTION tasker.bury_steps(task_uuids uuid[], positions integer[], map_indexes integer[], reason text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, queue, reason, snapshot)
    SELECT 'step', s.task_uuid, s.position, s.map_index, n.queue,
           coalesce(bury_steps.reason, s.error->>'type', 'error'),
           jsonb_build_object('step', n.name, 'namespace', d.namespace, 'task', d.name, 'version', d.version, 'fence', s.fence,
                              'attempts', s.attempts, 'losses', s.losses, 'executor', s.executor, 'error', s.error)
    FROM unnest(task_uuids, positions, map_indexes) AS k(task_uuid, step_position, map_index)
    JOIN tasker.workflow_steps AS s
      ON s.task_uuid = k.task_uuid AND s.position = k.step_position AND s.map_index = k.map_index
    JOIN tasker.tasks AS t ON t.task_uuid = s.task_uuid
    JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
    JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position
    ON CONFLICT (task_uuid, position, map_index) WHERE resolved_at IS NULL AND kind = 'step' DO NOTHING;
END
$$;
