-- What pools of executors are: one entry per kind, with queue '', and one of step executors for each step queue. Reads only.
-- request: most (messages of a queue that are counted), lost_seconds (an executor lost so recently counts as unhealthy).
-- Returns [{kind, queue, executors, requested, starting, healthy, degraded, unhealthy, stopping, idle, backlog,
-- oldest_seconds, items, busy_ms, executor_ms, target, state, changed_seconds, evaluated_seconds, at}]; executors: those that
-- live and were not asked to stop; what is about the past is null before a first tick.
CREATE OR REPLACE FUNCTION tasker.pool_measures(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    most constant integer := least(greatest(coalesce((request->>'most')::integer, 1000), 1), 100000);
    recently constant interval := make_interval(secs => coalesce((request->>'lost_seconds')::double precision, 0));
BEGIN
    RETURN (
        WITH waiting AS MATERIALIZED (SELECT b.* FROM tasker.queue_backlogs(most) AS b),
        present AS MATERIALIZED (
            SELECT x.kind, x.queues, x.idle, x.requested, x.lost_at IS NOT NULL AS lost,
                   CASE WHEN x.lost_at IS NOT NULL THEN 'unhealthy' WHEN x.stop_requested THEN 'stopping' ELSE x.health END AS health
            FROM tasker.executors AS x
            WHERE x.lost_at IS NULL OR x.lost_at > clock_timestamp() - recently
        ), pools AS (
            SELECT k.kind, '' AS queue, coalesce(sum(w.depth), 0) AS depth, max(w.oldest_seconds) AS oldest_seconds
            FROM unnest(ARRAY['step_executor', 'task_request_processor', 'task_claimer', 'step_enqueuer',
                              'step_result_processor', 'task_finalizer']) AS k(kind)
            LEFT JOIN waiting AS w ON w.kind = k.kind GROUP BY k.kind
            UNION ALL
            SELECT w.kind, w.queue, w.depth, w.oldest_seconds FROM waiting AS w WHERE w.queue <> ''
        )
        SELECT jsonb_agg(jsonb_build_object(
            'kind', p.kind, 'queue', p.queue, 'backlog', p.depth, 'oldest_seconds', p.oldest_seconds,
            'executors', e.executors, 'requested', e.requested, 'starting', e.starting, 'healthy', e.healthy,
            'degraded', e.degraded, 'unhealthy', e.unhealthy, 'stopping', e.stopping, 'idle', e.idle,
            'items', coalesce(r.items, 0), 'busy_ms', coalesce(r.busy_ms, 0), 'executor_ms', coalesce(r.executor_ms, 0),
            'target', r.target, 'state', coalesce(r.state, '{}'),
            'changed_seconds', extract(epoch FROM clock_timestamp() - r.changed_at),
            'evaluated_seconds', extract(epoch FROM clock_timestamp() - r.evaluated_at),
            'at', extract(epoch FROM clock_timestamp())) ORDER BY p.kind, p.queue)
        FROM pools AS p
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE NOT x.lost AND x.health <> 'stopping') AS executors,
                   count(*) FILTER (WHERE NOT x.lost AND x.health <> 'stopping' AND x.requested) AS requested,
                   count(*) FILTER (WHERE x.health = 'starting') AS starting,
                   count(*) FILTER (WHERE x.health = 'healthy') AS healthy,
                   count(*) FILTER (WHERE x.health = 'degraded') AS degraded,
                   count(*) FILTER (WHERE x.health = 'unhealthy') AS unhealthy,
                   count(*) FILTER (WHERE x.health = 'stopping') AS stopping,
                   count(*) FILTER (WHERE NOT x.lost AND x.idle) AS idle
            FROM present AS x WHERE x.kind = p.kind AND (p.queue = '' OR p.queue = ANY (x.queues))) AS e
        LEFT JOIN tasker.executor_pools AS r ON r.kind = p.kind AND r.queue = p.queue);
END
$$;
