-- Gives running steps back to their queues: the attempt is returned, the fence stays. Requeueing always sends the message,
-- also in a paused task: whether it is paused is for whoever pops it to see. Internal; the caller has locked the rows
-- (tids). losses: 1 where their executor was lost, else 0. Returns the queues.
CREATE OR REPLACE FUNCTION tasker.requeue_steps(
    tids tid[], task_uuids uuid[], positions integer[], losses integer[], reason text) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    r record;
BEGIN
    SELECT array_agg(k.task_uuid) AS tasks, array_agg(s.step_uuid) AS steps, array_agg(s.position) AS positions,
           array_agg(s.map_index) AS maps, array_agg(n.queue) AS queues, array_agg(s.fence) AS fences,
           array_agg(s.executor) AS executors, array_agg(-1) AS parents
    INTO r
    FROM unnest(tids, task_uuids, positions) AS k(tid, task_uuid, step_position)
    CROSS JOIN LATERAL (SELECT x.* FROM tasker.workflow_steps AS x WHERE x.ctid = k.tid OFFSET 0) AS s
    CROSS JOIN LATERAL (SELECT x.named_task_id FROM tasker.tasks AS x WHERE x.task_uuid = k.task_uuid OFFSET 0) AS t
    CROSS JOIN LATERAL (SELECT x.queue FROM tasker.named_steps AS x
                        WHERE x.named_task_id = t.named_task_id AND x.position = k.step_position OFFSET 0) AS n;
    IF r.tasks IS NULL THEN
        RETURN ARRAY[]::text[];
    END IF;
    UPDATE tasker.workflow_steps AS s
    SET state = 'enqueued', attempts = greatest(s.attempts - 1, 0), losses = s.losses + k.losses, start_marked_at = NULL
    FROM unnest(tids, requeue_steps.losses) AS k(tid, losses) WHERE s.ctid = k.tid;
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
    SELECT k.task_uuid, k.step_position, k.map_index, k.fence, 'in_progress', 'enqueued', k.executor, requeue_steps.reason
    FROM unnest(r.tasks, r.positions, r.maps, r.fences, r.executors) AS k(task_uuid, step_position, map_index, fence, executor);
    RETURN tasker.send_step_messages(r.tasks, r.steps, r.positions, r.maps, r.queues, r.parents);
END
$$;
