-- Judges executors by their progress, and records what changed. One that lives is not healthy for that: it has to ask its
-- queues, or to be at work. request: stall_seconds {kind: seconds without either that are too many}, heartbeat_seconds,
-- multiplier (of both times, while the system starts or ends). Returns {judged, changes[] {executor, kind, worker, from, to,
-- reason}}.
--
-- starting: registered, and has asked no queue yet. healthy. degraded: late with its heartbeat, says itself that something is
-- wrong, or is silent though nobody waits for it. unhealthy: silent while messages wait in its queues, silent for twice the
-- time, or suspected of being lost by two sweeps; lost executors end here. stopping: asked to stop.
--
-- Only what an executor tells in a fresh heartbeat says that it is silent: after an outage of the database all are late, and
-- none of them is to blame. Programs in other languages tell nothing of the kind: they are judged by their heartbeats.
CREATE OR REPLACE FUNCTION tasker.judge_executors(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    multiplier constant double precision := greatest(coalesce((request->>'multiplier')::double precision, 1), 1);
    heartbeat constant interval := make_interval(secs => multiplier * coalesce((request->>'heartbeat_seconds')::double precision, 3));
    stalls constant jsonb := coalesce(nullif(request->'stall_seconds', 'null'), '{}');
    judged integer;
    changes jsonb;
BEGIN
    WITH waiting AS MATERIALIZED (
        SELECT b.kind, b.queue FROM tasker.queue_backlogs(1) AS b WHERE b.depth > 0
    ), present AS MATERIALIZED (
        SELECT x.* FROM tasker.executors AS x WHERE x.lost_at IS NULL OR x.health <> 'unhealthy'
    ), seen AS (
        SELECT l.executor, l.kind, l.worker, l.health, l.health_reason, l.lost_at, l.stop_requested, l.trouble,
               l.suspected_heartbeat IS NOT DISTINCT FROM l.heartbeat_at AND l.suspected_at < clock_timestamp() - heartbeat AS suspected,
               l.heartbeat_at NOT BETWEEN clock_timestamp() - 3 * heartbeat AND clock_timestamp() + interval '1 second' AS late,
               extract(epoch FROM l.heartbeat_at - greatest(l.polled_at, l.worked_at, l.registered_at)) AS silent_seconds,
               l.polled_at IS NOT NULL AS tells,
               coalesce(l.polled_at, l.heartbeat_at) <= l.registered_at AND l.worked_at IS NULL AS is_new,
               multiplier * coalesce((stalls->>l.kind)::double precision, 60) AS stall,
               EXISTS (SELECT FROM waiting AS w WHERE w.kind = l.kind AND (w.queue = '' OR w.queue = ANY (l.queues))) AS awaited
        FROM present AS l
    ), verdict AS MATERIALIZED (
        SELECT s.executor, s.kind, s.worker, s.health, s.health_reason, v.health AS becomes, v.reason
        FROM seen AS s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.lost_at IS NOT NULL THEN ARRAY['unhealthy', 'lost']
                        WHEN s.stop_requested THEN ARRAY['stopping', 'asked to stop']
                        WHEN s.suspected THEN ARRAY['unhealthy', 'no heartbeat']
                        WHEN s.late THEN ARRAY['degraded', 'late heartbeat']
                        WHEN s.tells AND s.silent_seconds > s.stall AND s.awaited THEN ARRAY['unhealthy', 'no poll while messages wait']
                        WHEN s.tells AND s.silent_seconds > 2 * s.stall THEN ARRAY['unhealthy', 'no poll']
                        WHEN s.tells AND s.silent_seconds > s.stall THEN ARRAY['degraded', 'no poll']
                        WHEN s.is_new THEN ARRAY['starting', NULL]
                        WHEN s.trouble IS NOT NULL THEN ARRAY['degraded', s.trouble]
                        ELSE ARRAY['healthy', NULL] END AS said) AS c
        CROSS JOIN LATERAL (SELECT c.said[1] AS health, c.said[2] AS reason) AS v
    ), locked AS MATERIALIZED (
        -- Only rows that change: heartbeats wait for nobody else's. Those that somebody has locked are judged next time.
        SELECT x.executor FROM tasker.executors AS x
        WHERE x.executor IN (SELECT v.executor FROM verdict AS v
                             WHERE (v.health, v.health_reason) IS DISTINCT FROM (v.becomes, v.reason))
        ORDER BY x.executor FOR NO KEY UPDATE SKIP LOCKED
    ), changed AS (
        UPDATE tasker.executors AS x
        SET health = v.becomes, health_since = clock_timestamp(), health_reason = v.reason
        FROM verdict AS v JOIN locked AS l ON l.executor = v.executor
        WHERE x.executor = v.executor AND x.health <> v.becomes
        RETURNING x.executor, v.kind, v.worker, v.health AS was, v.becomes, v.reason, x.health_since
    ), explained AS (
        -- The same health for another reason is no transition.
        UPDATE tasker.executors AS x SET health_reason = v.reason
        FROM verdict AS v JOIN locked AS l ON l.executor = v.executor
        WHERE x.executor = v.executor AND x.health = v.becomes AND x.health_reason IS DISTINCT FROM v.reason
    ), recorded AS (
        INSERT INTO tasker.executor_health_transitions (executor, kind, worker, from_health, to_health, reason, at)
        SELECT c.executor, c.kind, c.worker, c.was, c.becomes, c.reason, c.health_since FROM changed AS c ORDER BY c.executor
    )
    SELECT (SELECT count(*) FROM verdict),
           coalesce((SELECT jsonb_agg(jsonb_build_object('executor', c.executor, 'kind', c.kind, 'worker', c.worker, 'from', c.was,
                                                         'to', c.becomes, 'reason', c.reason) ORDER BY c.executor)
                     FROM changed AS c), '[]')
    INTO judged, changes;
    RETURN jsonb_build_object('judged', judged, 'changes', changes);
END
$$;
