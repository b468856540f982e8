-- The identifier of a step follows from its task and its place: the task's low 64 bits XOR ((position + 1) << 46 |
-- map_index << 22). It needs no index, and tasker.step_key() turns it back into the primary key. The shifted value never
-- reaches the variant (the top two bits), nor the cell (the last byte). One expression, so that it is inlined: a task is
-- created with one for each of its steps.
CREATE OR REPLACE FUNCTION tasker.step_uuid(task_uuid uuid, step_position integer, step_map_index integer) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT (left(task_uuid::text, 18)
     || lpad(to_hex(('x' || right(replace(task_uuid::text, '-', ''), 16))::bit(64)::bigint
                    # (((step_position + 1)::bigint << 46) | (step_map_index::bigint << 22))), 16, '0'))::uuid
$$;
