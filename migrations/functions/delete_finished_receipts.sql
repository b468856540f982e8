-- Deletes the receipts that an executor names as finished, except those that still hold a step: a delayed call may have
-- made one again after its repeat was finished. A delegated step no longer needs its receipt, its deadline is its lease.
CREATE OR REPLACE FUNCTION tasker.delete_finished_receipts(executor uuid, call_nos bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF coalesce(cardinality(call_nos), 0) = 0 THEN
        RETURN;
    END IF;
    DELETE FROM tasker.step_claims AS r
    WHERE r.ctid = ANY (ARRAY(
        SELECT c.tid
        FROM (SELECT DISTINCT u.call_no FROM unnest(call_nos) AS u(call_no) ORDER BY u.call_no OFFSET 0) AS n
        CROSS JOIN LATERAL (SELECT x.ctid AS tid, x.* FROM tasker.step_claims AS x
                            WHERE x.executor = delete_finished_receipts.executor AND x.call_no = n.call_no
                            FOR UPDATE) AS c
        WHERE NOT EXISTS (
            SELECT FROM unnest(c.task_uuids, c.positions, c.map_indexes, c.fences) AS k(task_uuid, step_position, map_index, fence)
            CROSS JOIN LATERAL (
                SELECT FROM tasker.workflow_steps AS s
                WHERE s.task_uuid = k.task_uuid AND s.position = k.step_position AND s.map_index = k.map_index
                  AND s.state = 'in_progress' AND s.fence = k.fence AND s.executor = c.executor
                  AND NOT EXISTS (SELECT FROM tasker.step_timers AS d
                                  WHERE d.task_uuid = s.task_uuid AND d.position = s.position AND d.map_index = s.map_index
                                    AND d.kind = 'deadline') OFFSET 0) AS held)));
END
$$;
