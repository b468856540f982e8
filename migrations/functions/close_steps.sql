-- Cancels every step of a task that has not reached its end, with its timer; a delegated step's deadline is made due instead,
-- so that the StepResultProcessor revokes its Celery task. Internal; the caller holds the task's lock. Returns how many.
CREATE OR REPLACE FUNCTION tasker.close_steps(task_uuid uuid, reason text) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    r record;
BEGIN
    SELECT array_agg(s.tid) AS tids, array_agg(s.position) AS positions, array_agg(s.map_index) AS maps,
           array_agg(s.fence) AS fences, array_agg(s.state) AS states, array_agg(s.executor) AS executors
    INTO r
    FROM (SELECT x.ctid AS tid, x.* FROM tasker.workflow_steps AS x
          WHERE x.task_uuid = close_steps.task_uuid AND x.finished_at IS NULL
          ORDER BY x.task_uuid, x.position, x.map_index FOR NO KEY UPDATE) AS s;
    IF r.tids IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE tasker.workflow_steps AS s SET state = 'cancelled', finished_at = clock_timestamp()
    FROM unnest(r.tids) AS k(tid) WHERE s.ctid = k.tid;
    INSERT INTO tasker.workflow_step_transitions (task_uuid, position, map_index, fence, from_state, to_state, executor, reason)
    SELECT close_steps.task_uuid, k.step_position, k.map_index, k.fence, k.state, 'cancelled', k.executor, close_steps.reason
    FROM unnest(r.positions, r.maps, r.fences, r.states, r.executors) AS k(step_position, map_index, fence, state, executor);
    UPDATE tasker.step_timers AS w SET due_at = tasker.now(), set_at = tasker.now()
    WHERE w.task_uuid = close_steps.task_uuid AND w.kind = 'deadline';
    DELETE FROM tasker.step_timers AS w WHERE w.task_uuid = close_steps.task_uuid AND w.kind <> 'deadline';
    RETURN cardinality(r.tids);
END
$$;
