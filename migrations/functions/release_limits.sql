-- Steps have stopped running: what they held of limits is free, and as many of those that wait for it go on. Internal; the
-- last thing that a call does, since it waits for claims that are deciding under the same limits (some milliseconds): else
-- one of them could park a step just after this looked for parked ones. Returns the queues that have something due.
CREATE OR REPLACE FUNCTION tasker.release_limits(task_uuids uuid[], positions integer[], map_indexes integer[]) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    freed record;
    queues text[] := ARRAY[]::text[];
BEGIN
    WITH gone AS (
        DELETE FROM tasker.limit_holders AS h
        WHERE h.ctid = ANY (ARRAY(
            SELECT x.tid FROM unnest(task_uuids, positions, map_indexes) AS k(task_uuid, step_position, map_index)
            CROSS JOIN LATERAL (SELECT y.ctid AS tid FROM tasker.limit_holders AS y
                                WHERE y.task_uuid = k.task_uuid AND y.position = k.step_position AND y.map_index = k.map_index
                                OFFSET 0) AS x))
        RETURNING h.limit_key
    )
    SELECT array_agg(g.limit_key ORDER BY g.lock) AS keys, array_agg(g.n ORDER BY g.lock) AS counts,
           array_agg(g.lock ORDER BY g.lock) AS locks
    INTO freed
    FROM (SELECT x.limit_key, count(*)::integer AS n, hashtextextended('tasker.limit:' || x.limit_key, 0) AS lock
          FROM gone AS x GROUP BY x.limit_key) AS g;
    -- All locks before the first timer: a claim that holds one of them may want a timer that another would then have.
    FOR i IN 1 .. coalesce(cardinality(freed.locks), 0) LOOP
        PERFORM pg_advisory_xact_lock(freed.locks[i]);
    END LOOP;
    FOR i IN 1 .. coalesce(cardinality(freed.keys), 0) LOOP
        queues := queues || tasker.unpark_steps(freed.keys[i], freed.counts[i], false);
    END LOOP;
    RETURN queues;
END
$$;
