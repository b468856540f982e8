-- Locks one step for an operator's action, after its task; by step_uuid, or by position or name. An error (TK004) if there
-- is none. Returns the row's ctid and what is decided on.
CREATE OR REPLACE FUNCTION tasker.lock_step(
    request jsonb, named_task_id integer,
    OUT tid tid, OUT step_position integer, OUT map_index integer, OUT step_uuid uuid, OUT state text, OUT fence integer,
    OUT executor uuid, OUT name text, OUT queue text)
LANGUAGE plpgsql
AS $$
DECLARE
    id constant uuid := (request->>'task_uuid')::uuid;
BEGIN
    IF request->>'step_uuid' IS NOT NULL THEN
        SELECT k.step_position, k.step_map_index INTO step_position, map_index
        FROM tasker.step_key(id, tasker.to_uuid(request->>'step_uuid', 'step_uuid')) AS k;
    ELSIF request->>'position' IS NOT NULL THEN
        -- What is no number finds no step.
        step_position := CASE WHEN request->>'position' ~ '^[0-9]{1,5}$' THEN (request->>'position')::integer END;
        map_index := CASE WHEN coalesce(request->>'map_index', '0') ~ '^[0-9]{1,8}$' THEN coalesce((request->>'map_index')::integer, 0) END;
    ELSE
        SELECT x.position, 0 INTO step_position, map_index FROM tasker.named_steps AS x
        WHERE x.named_task_id = lock_step.named_task_id AND x.name = request->>'step';
    END IF;
    SELECT x.ctid, x.step_uuid, x.state, x.fence, x.executor INTO tid, step_uuid, state, fence, executor
    FROM tasker.workflow_steps AS x
    WHERE x.task_uuid = id AND x.position = step_position AND x.map_index = lock_step.map_index
    FOR NO KEY UPDATE;
    IF tid IS NULL THEN
        RAISE EXCEPTION 'task % has no step %', id, coalesce(request->>'step_uuid', request->>'position', request->>'step', 'null')
            USING ERRCODE = 'TK004', COLUMN = 'step', HINT = 'name it by step (its name), position or step_uuid';
    END IF;
    SELECT x.name, x.queue INTO name, queue FROM tasker.named_steps AS x
    WHERE x.named_task_id = lock_step.named_task_id AND x.position = step_position;
END
$$;
