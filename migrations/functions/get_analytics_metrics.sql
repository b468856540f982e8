-- What was done since a moment: tasks by end state, steps by outcome, and how long they took.
CREATE OR REPLACE FUNCTION tasker.get_analytics_metrics(since timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT jsonb_build_object(
    'since', since,
    'tasks', (SELECT coalesce(jsonb_object_agg(t.to_state, t.n), '{}')
              FROM (SELECT x.to_state, count(*) AS n FROM tasker.task_transitions AS x WHERE x.at >= since GROUP BY x.to_state) AS t),
    'steps', (SELECT coalesce(jsonb_object_agg(s.to_state, s.n), '{}')
              FROM (SELECT x.to_state, count(*) AS n FROM tasker.workflow_step_transitions AS x WHERE x.at >= since GROUP BY x.to_state) AS s),
    'finalization', (SELECT coalesce(jsonb_object_agg(f.action || '.' || f.outcome, jsonb_build_object('n', f.n, 'mean_ms', f.mean_ms)), '{}')
                     FROM (SELECT a.action, a.outcome, count(*) AS n, avg(a.duration_ms) AS mean_ms
                           FROM tasker.finalization_attempts AS a WHERE a.at >= since GROUP BY a.action, a.outcome) AS f))
$$;
