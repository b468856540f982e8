-- Opens a dead letter for steps that just ended in "error", with a snapshot for whoever looks into it. The reason is the
-- type of the step's error unless one is given.
CREATE OR REPLACE FUNCTION tasker.bury_steps(task_uuids uuid[], positions integer[], map_indexes integer[], reason text)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO tasker.dead_letters (kind, task_uuid, position, map_index, queue, reason, snapshot)
    SELECT 'step', s.task_uuid, s.position, s.map_index, n.queue,
           coalesce(bury_steps.reason, s.error->>'type', 'error'),
           jsonb_build_object('step', n.name, 'namespace', d.namespace, 'task', d.name, 'version', d.version, 'fence', s.fence,
                              'attempts', s.attempts, 'losses', s.losses, 'executor', s.executor, 'error', s.error)
    FROM unnest(task_uuids, positions, map_indexes) AS k(task_uuid, step_position, map_index)
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x
                        WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                        OFFSET 0) AS s
    CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.named_tasks AS x WHERE x.named_task_id = t.named_task_id OFFSET 0) AS d
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.named_steps AS x
                        WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n
    ON CONFLICT (task_uuid, position, map_index) WHERE resolved_at IS NULL AND kind = 'step' DO NOTHING;
END
$$;
