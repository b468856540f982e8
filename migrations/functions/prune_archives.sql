-- Removes messages that have lain in the PGMQ archives of Tasker's own queues for too long, the oldest first. Archives of
-- other queues are their owners' business.
-- request: keep_seconds, limit (messages), look (queues), after (go on behind this queue; none: from the first on).
-- Returns {messages, last, is_end}: how many went, "after" of the next call, and whether nothing is behind that queue.
CREATE OR REPLACE FUNCTION tasker.prune_archives(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN tasker.prune_queues(request, ARRAY(SELECT q FROM tasker.archived_queues() AS q), 'a_',
        'DELETE FROM pgmq.%1$I AS x WHERE x.ctid = ANY (ARRAY(
             SELECT y.ctid FROM pgmq.%1$I AS y WHERE y.archived_at < $1 ORDER BY y.archived_at LIMIT $2
             FOR UPDATE SKIP LOCKED))');
END
$$;
