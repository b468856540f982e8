-- Figures that say how the system is. Reads open tasks, queues and executors, never finished history.
CREATE OR REPLACE FUNCTION tasker.get_system_health_counts() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    q record;
    depth bigint;
    oldest double precision;
    queues jsonb := '{}'::jsonb;
BEGIN
    FOR q IN SELECT n.queue FROM tasker.namespaces AS n
             UNION ALL SELECT n.queue || '_high' FROM tasker.namespaces AS n WHERE n.has_high
             UNION ALL SELECT n.queue || '_low' FROM tasker.namespaces AS n WHERE n.has_low
             UNION ALL SELECT unnest(ARRAY['task_requests_queue', 'orchestration_step_results', 'step_enqueue', 'task_finalization']) LOOP
        EXECUTE format('SELECT count(*), extract(epoch FROM clock_timestamp() - min(m.enqueued_at)) FROM pgmq.%I AS m', 'q_' || q.queue)
            INTO depth, oldest;
        queues := queues || jsonb_build_object(q.queue, jsonb_build_object('depth', depth, 'oldest_seconds', oldest));
    END LOOP;
    RETURN (SELECT jsonb_build_object(
        'queues', queues,
        'tasks', (SELECT jsonb_build_object('open', count(*), 'pending', count(*) FILTER (WHERE t.state = 'pending'),
                                            'in_progress', count(*) FILTER (WHERE t.state = 'in_progress'),
                                            'paused', count(*) FILTER (WHERE t.state = 'paused'),
                                            'live_steps', coalesce(sum(t.active), 0))
                  FROM (SELECT x.state, x.active FROM tasker.tasks AS x WHERE x.finished_at IS NULL AND x.admitted_at IS NOT NULL
                        UNION ALL
                        -- In two halves, each of which has an index: together they would be sought among all tasks.
                        SELECT x.state, x.active FROM tasker.tasks AS x
                        WHERE x.finished_at IS NULL AND x.admitted_at IS NULL AND NOT x.scheduled
                        UNION ALL
                        SELECT x.state, x.active FROM tasker.tasks AS x
                        WHERE x.finished_at IS NULL AND x.admitted_at IS NULL AND x.scheduled) AS t),
        'to_finalize', (SELECT count(*) FROM tasker.tasks AS t WHERE t.finished_at IS NOT NULL AND t.finalized_at IS NULL),
        'timers', (SELECT jsonb_build_object('waiting', count(*), 'overdue', count(*) FILTER (WHERE w.due_at < tasker.now() - interval '1 minute'))
                   FROM tasker.step_timers AS w),
        'dead_letters', (SELECT count(*) FROM tasker.dead_letters AS d WHERE d.resolved_at IS NULL),
        'executors', (SELECT coalesce(jsonb_object_agg(e.kind, e.counts), '{}')
                      FROM (SELECT x.kind, jsonb_build_object('alive', count(*) FILTER (WHERE x.lost_at IS NULL),
                                'idle', count(*) FILTER (WHERE x.idle AND x.lost_at IS NULL),
                                'lost', count(*) FILTER (WHERE x.lost_at IS NOT NULL)) AS counts
                            FROM tasker.executors AS x GROUP BY x.kind) AS e),
        'last_tick_seconds', (SELECT extract(epoch FROM clock_timestamp() - c.last_tick_at) FROM tasker.coordinator AS c)));
END
$$;
