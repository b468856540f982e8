-- Adds what executors have done since the last tick to their pools: items of work, how long they worked, how long they
-- lived. A step executor counts in the pool of each queue that it serves. What one does between a tick and its end is not
-- seen. Rows that somebody has locked are left to the next tick. Returns how many executors were counted.
CREATE OR REPLACE FUNCTION tasker.pool_count() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    n integer;
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT x.executor, x.kind, x.queues, x.counted_items, x.counted_busy_ms, coalesce(x.counted_at, x.registered_at) AS since,
               CASE WHEN x.kind = 'step_executor'
                    THEN coalesce((x.counters->>'completed')::numeric::bigint, 0) + coalesce((x.counters->>'failed')::numeric::bigint, 0)
                    ELSE coalesce((x.counters->>'taken')::numeric::bigint, 0) END AS items,
               coalesce((x.counters->>'busy_ms')::numeric::bigint, 0) AS busy_ms
        FROM tasker.executors AS x WHERE x.lost_at IS NULL ORDER BY x.executor FOR NO KEY UPDATE SKIP LOCKED
    ), counted AS (
        UPDATE tasker.executors AS x
        SET counted_at = clock_timestamp(), counted_items = l.items, counted_busy_ms = l.busy_ms
        FROM locked AS l WHERE x.executor = l.executor
        RETURNING l.kind, l.queues, greatest(l.items - l.counted_items, 0) AS items,
                  greatest(l.busy_ms - l.counted_busy_ms, 0) AS busy_ms,
                  greatest((extract(epoch FROM x.counted_at - l.since) * 1000)::bigint, 0) AS lived_ms
    ), sums AS (
        SELECT c.kind, q.queue, sum(c.items)::bigint AS items, sum(least(c.busy_ms, c.lived_ms))::bigint AS busy_ms,
               sum(c.lived_ms)::bigint AS lived_ms, count(*) FILTER (WHERE q.queue = '') AS executors
        FROM counted AS c
        CROSS JOIN LATERAL (SELECT '' AS queue
                            UNION ALL SELECT u.queue FROM unnest(c.queues) AS u(queue)
                                      WHERE c.kind = 'step_executor'
                                        AND EXISTS (SELECT FROM tasker.namespaces AS n WHERE n.queue = u.queue)) AS q
        GROUP BY c.kind, q.queue ORDER BY c.kind, q.queue
    ), added AS (
        INSERT INTO tasker.executor_pools AS p (kind, queue, target, items, busy_ms, executor_ms)
        SELECT s.kind, s.queue, 0, s.items, s.busy_ms, s.lived_ms FROM sums AS s
        ON CONFLICT ON CONSTRAINT executor_pools_pkey DO UPDATE
        SET items = p.items + excluded.items, busy_ms = p.busy_ms + excluded.busy_ms,
            executor_ms = p.executor_ms + excluded.executor_ms
    )
    SELECT coalesce(sum(s.executors), 0) INTO n FROM sums AS s;
    RETURN n;
END
$$;
