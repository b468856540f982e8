-- Removes domain events that nobody has read for too long, the oldest first: without it, a queue that nobody reads grows for ever.
-- request: keep_seconds, limit (messages), look (queues), after (go on behind this queue; none: from the first on).
-- Returns {messages, last, is_end}: how many went, "after" of the next call, and whether nothing is behind that queue.
CREATE OR REPLACE FUNCTION tasker.prune_events(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    -- Ids rise with time: where the oldest message is young, nothing else is looked at.
    RETURN tasker.prune_queues(request,
        ARRAY(SELECT q.name FROM tasker.namespaces AS n CROSS JOIN LATERAL (SELECT n.name || '_domain_events' AS name) AS q
              WHERE to_regclass(format('pgmq.%I', 'q_' || q.name)) IS NOT NULL), 'q_',
        'DELETE FROM pgmq.%1$I AS x WHERE x.ctid = ANY (ARRAY(
             SELECT y.ctid FROM pgmq.%1$I AS y
             WHERE y.msg_id = ANY (ARRAY(SELECT z.msg_id FROM (SELECT w.msg_id, w.enqueued_at FROM pgmq.%1$I AS w
                                                               ORDER BY w.msg_id LIMIT $2) AS z WHERE z.enqueued_at < $1))
             FOR UPDATE SKIP LOCKED))');
END
$$;
