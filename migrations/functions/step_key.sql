-- The place of a step in its task, from its uuid (see tasker.step_uuid); no row if the uuid is no step of that task.
CREATE OR REPLACE FUNCTION tasker.step_key(task_uuid uuid, step_uuid uuid, OUT step_position integer, OUT step_map_index integer)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
AS $$
SELECT ((t.difference >> 46) - 1)::integer, ((t.difference >> 22) & 16777215)::integer
FROM (SELECT ('x' || right(replace(step_key.task_uuid::text, '-', ''), 16))::bit(64)::bigint
           # ('x' || right(replace(step_key.step_uuid::text, '-', ''), 16))::bit(64)::bigint AS difference) AS t
WHERE left(step_key.task_uuid::text, 18) = left(step_key.step_uuid::text, 18)
  AND t.difference >> 46 BETWEEN 1 AND 65534
  AND t.difference & 4194303 = 0
$$;
