-- Deletes the timers of steps, of whatever kind: every way out of a live state calls it, or knows that there is none.
CREATE OR REPLACE FUNCTION tasker.delete_timers(task_uuids uuid[], positions integer[], map_indexes integer[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    DELETE FROM tasker.step_timers AS w
    WHERE w.ctid = ANY (ARRAY(
        SELECT t.tid
        FROM unnest(task_uuids, positions, map_indexes) AS k(task_uuid, step_position, map_index)
        CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.step_timers AS x
                            WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
                            FOR UPDATE) AS t));
END
$$;
