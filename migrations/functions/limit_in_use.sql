-- How many steps run under a limit. A holder counts while its step runs under the holder's fence, so a step that ended, was
-- lost or taken back in any way counts for nothing. Internal.
CREATE OR REPLACE FUNCTION tasker.limit_in_use(limit_key text) RETURNS bigint
LANGUAGE plpgsql
AS $$
BEGIN
    RETURN (SELECT count(*)
            FROM tasker.limit_holders AS h
            CROSS JOIN LATERAL (SELECT FROM tasker.workflow_steps AS x
                                WHERE x.task_uuid = h.task_uuid AND x.position = h.position AND x.map_index = h.map_index
                                  AND x.state = 'in_progress' AND x.fence = h.fence OFFSET 0) AS s
            WHERE h.limit_key = limit_in_use.limit_key);
END
$$;
