-- Whether nothing delays a step: a parked one has a timer and gets no message.
CREATE OR REPLACE FUNCTION tasker.has_no_timer(task_uuid uuid, step_position integer, step_map_index integer) RETURNS boolean
LANGUAGE sql STABLE
AS $$
SELECT NOT EXISTS (SELECT FROM tasker.step_timers AS w
                   WHERE w.task_uuid = has_no_timer.task_uuid AND w.position = step_position AND w.map_index = step_map_index)
$$;
