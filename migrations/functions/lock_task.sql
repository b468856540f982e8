-- Locks one task for an operator's action and returns what is decided on; an error (TK004) if there is none.
CREATE OR REPLACE FUNCTION tasker.lock_task(
    task_uuid uuid, OUT state text, OUT active integer, OUT admitted boolean, OUT finish_no integer, OUT named_task_id integer)
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM tasker.assert_read_committed('lock_task');
    PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = lock_task.task_uuid FOR NO KEY UPDATE;
    SELECT x.state, x.active, x.admitted_at IS NOT NULL, x.finish_no, x.named_task_id
    INTO state, active, admitted, finish_no, named_task_id
    FROM tasker.tasks AS x WHERE x.task_uuid = lock_task.task_uuid;
    IF state IS NULL THEN
        RAISE EXCEPTION 'there is no task %', coalesce(task_uuid::text, 'null')
            USING ERRCODE = 'TK004', COLUMN = 'task_uuid', HINT = 'was it committed, and is it not pruned?';
    END IF;
END
$$;
