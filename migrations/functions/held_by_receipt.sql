-- The steps of a receipt that its executor still holds: the answer to a repeated call.
CREATE OR REPLACE FUNCTION tasker.held_by_receipt(
    executor uuid, call_no bigint, OUT known boolean, OUT task_uuids uuid[], OUT positions integer[], OUT map_indexes integer[])
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    SELECT true, array_agg(s.task_uuid ORDER BY k.no) FILTER (WHERE s.task_uuid IS NOT NULL),
           array_agg(s.position ORDER BY k.no) FILTER (WHERE s.task_uuid IS NOT NULL),
           array_agg(s.map_index ORDER BY k.no) FILTER (WHERE s.task_uuid IS NOT NULL)
    INTO known, task_uuids, positions, map_indexes
    FROM tasker.step_claims AS c
    LEFT JOIN LATERAL unnest(c.task_uuids, c.positions, c.map_indexes, c.fences)
              WITH ORDINALITY AS k(task_uuid, step_position, map_index, fence, no) ON true
    LEFT JOIN LATERAL (
        SELECT x.task_uuid, x.position, x.map_index FROM tasker.workflow_steps AS x
        WHERE x.task_uuid = k.task_uuid AND x.position = k.step_position AND x.map_index = k.map_index
          AND x.state = 'in_progress' AND x.fence = k.fence AND x.executor = c.executor OFFSET 0) AS s ON true
    WHERE c.executor = held_by_receipt.executor AND c.call_no = held_by_receipt.call_no
    GROUP BY c.executor, c.call_no;
    known := coalesce(known, false);
    task_uuids := coalesce(task_uuids, '{}');
    positions := coalesce(positions, '{}');
    map_indexes := coalesce(map_indexes, '{}');
END
$$;
