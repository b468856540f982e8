-- What metrics show beside get_system_health_counts: totals of the history as far as it is counted, what executors count
-- themselves (those that ended included), and what the server knows of sessions and tables. Reads no history.
-- Returns {totals: [[metric, labels[], value]], executors: [[counter, value]], counted_until, finalization_claims,
-- sessions_in_use, dead_tuples{}, event_ages{}}.
CREATE OR REPLACE FUNCTION tasker.get_metrics() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
SELECT jsonb_build_object(
    'totals', (SELECT coalesce(jsonb_agg(jsonb_build_array(t.metric, t.labels, t.value)), '[]') FROM tasker.metric_totals AS t),
    'executors', (SELECT coalesce(jsonb_agg(jsonb_build_array(s.key, s.total)), '[]')
                  FROM (SELECT e.key, sum(e.value::double precision) AS total
                        FROM (SELECT x.counters FROM tasker.executors AS x
                              UNION ALL SELECT z.counters FROM tasker.ended_executors AS z) AS c
                        CROSS JOIN LATERAL jsonb_each(tasker.checked_counters(c.counters)) AS e
                        GROUP BY e.key) AS s),
    'counted_until', (SELECT extract(epoch FROM p.counted_until) FROM tasker.metric_progress AS p),
    'finalization_claims', (SELECT count(*) FROM tasker.finalization_claims AS f WHERE NOT f.expired),
    -- Of other owners' sessions a login that may not see them is shown no name: those are not counted.
    'sessions_in_use', (SELECT count(*) FROM pg_stat_activity AS a
                        WHERE a.datname = current_database() AND a.application_name LIKE 'tasker%' AND a.state <> 'idle'
                          AND a.pid <> pg_backend_pid()),
    'dead_tuples', (SELECT coalesce(jsonb_object_agg(d.name, d.dead), '{}')
                    FROM (SELECT coalesce(p.relname, s.relname) AS name, sum(s.n_dead_tup) AS dead
                          FROM pg_stat_user_tables AS s
                          LEFT JOIN pg_inherits AS i ON i.inhrelid = s.relid
                          LEFT JOIN pg_class AS p ON p.oid = i.inhparent
                          WHERE s.schemaname IN ('tasker', 'pgmq') GROUP BY 1) AS d),
    'event_ages', tasker.event_ages())
$$;
