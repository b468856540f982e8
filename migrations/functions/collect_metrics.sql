-- Counts history into totals, each row once, so that counters of metrics are read in no time and never fall: history is
-- dropped by age, totals stay. Called by the coordinator's ticks and by those who read metrics; one at a time, the others
-- leave at once. Also folds what executors that ended had counted.
--
-- A row's time is that of its insert, and it shows when its transaction commits. So history is counted up to a moment only
-- after all who were writing history at that moment have ended: they hold a lock on its table. Most take milliseconds, and
-- are waited for (patience_seconds); for one that is open for long, nothing is counted until it ends, but no longer than
-- give_up_seconds: then it is left out, with what it wrote.
--
-- request: call_bounds[], hold_bounds[], recovery_bounds[] (upper bounds of histograms' buckets, in seconds, rising),
-- max_series (of one metric by step; further ones count as "other"), patience_seconds, give_up_seconds, most_seconds (of
-- history at once).
-- Returns {counted, behind, counted_until}: whether it was this caller's turn and anything could be counted, and whether
-- there is more.
CREATE OR REPLACE FUNCTION tasker.collect_metrics(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    call_bounds constant double precision[] := ARRAY(SELECT b::double precision FROM jsonb_array_elements(request->'call_bounds') AS b);
    hold_bounds constant double precision[] := ARRAY(SELECT b::double precision FROM jsonb_array_elements(request->'hold_bounds') AS b);
    recovery_bounds constant double precision[] := ARRAY(SELECT b::double precision FROM jsonb_array_elements(request->'recovery_bounds') AS b);
    max_series constant integer := coalesce((request->>'max_series')::integer, 2000);
    patience constant interval := make_interval(secs => coalesce((request->>'patience_seconds')::double precision, 0.2));
    most constant interval := make_interval(secs => coalesce((request->>'most_seconds')::double precision, 3600));
    give_up constant interval := make_interval(secs => coalesce((request->>'give_up_seconds')::double precision, 60));
    moment constant timestamptz := clock_timestamp();
    history constant oid[] := ARRAY[
        'tasker.task_transitions'::regclass, 'tasker.workflow_step_transitions'::regclass, 'tasker.finalization_attempts'::regclass,
        'tasker.executor_health_transitions'::regclass, 'tasker.scaling_decisions'::regclass, 'tasker.circuit_transitions'::regclass];
    since timestamptz;
    upto timestamptz;
    known jsonb;
    writers text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(1413567307, -2) THEN
        RETURN jsonb_build_object('counted', false, 'behind', false, 'counted_until', NULL);
    END IF;

    IF (SELECT count(*) FROM (SELECT FROM tasker.ended_executors LIMIT 100) AS e) = 100 THEN
        WITH gone AS (
            DELETE FROM tasker.ended_executors RETURNING kind, counters
        ), summed AS (
            SELECT g.kind, e.key, sum(e.value::double precision) AS total
            FROM gone AS g CROSS JOIN LATERAL jsonb_each(tasker.checked_counters(g.counters)) AS e
            GROUP BY g.kind, e.key
        )
        INSERT INTO tasker.ended_executors (kind, counters)
        SELECT s.kind, jsonb_object_agg(s.key, s.total) FROM summed AS s GROUP BY s.kind;
    END IF;

    SELECT p.counted_until, p.waiting INTO since, known FROM tasker.metric_progress AS p;
    -- A part at a time: whoever calls after a pause calls again.
    upto := least(moment, since + most);
    IF upto <= since THEN
        RETURN jsonb_build_object('counted', false, 'behind', false, 'counted_until', since);
    END IF;
    writers := ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks AS l
                     WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = ANY (history)
                       AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                       AND l.pid IS DISTINCT FROM pg_backend_pid());
    LOOP
        -- Those that were waited for in vain are left out for good.
        writers := ARRAY(SELECT w FROM unnest(writers) AS w WHERE coalesce((known->>w)::timestamptz > moment - give_up, true));
        EXIT WHEN cardinality(writers) = 0 OR clock_timestamp() >= moment + patience;
        PERFORM pg_sleep(0.005);
        writers := ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks AS l
                         WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = ANY (history)
                           AND l.virtualtransaction = ANY (writers));
    END LOOP;
    known := (SELECT coalesce(jsonb_object_agg(l.virtualtransaction, coalesce(known->l.virtualtransaction, to_jsonb(moment))), '{}')
              FROM (SELECT DISTINCT x.virtualtransaction FROM pg_locks AS x
                    WHERE x.locktype = 'relation' AND x.mode = 'RowExclusiveLock' AND x.relation = ANY (history)) AS l
              WHERE l.virtualtransaction = ANY (writers) OR known ? l.virtualtransaction);
    IF cardinality(writers) > 0 THEN
        UPDATE tasker.metric_progress AS p SET waiting = known;
        RETURN jsonb_build_object('counted', false, 'behind', false, 'counted_until', since);
    END IF;

    INSERT INTO tasker.metric_totals AS x (metric, labels, value)
    SELECT CASE WHEN a.from_state IS NULL THEN 'tasks_created_total' ELSE 'tasks_finalized_total' END,
           CASE WHEN a.from_state IS NULL THEN '{}' ELSE ARRAY[a.to_state] END, count(*)
    FROM tasker.task_transitions AS a
    WHERE a.at >= since AND a.at < upto
      AND (a.from_state IS NULL OR a.to_state IN ('complete', 'error', 'cancelled', 'resolved_manually'))
    GROUP BY 1, 2
    ON CONFLICT ON CONSTRAINT metric_totals_pkey DO UPDATE SET value = x.value + excluded.value;

    WITH seen AS MATERIALIZED (
        SELECT a.task_uuid, a.position, a.to_state, CASE WHEN a.to_state = 'enqueued' THEN a.reason END AS reason, count(*) AS n
        FROM tasker.workflow_step_transitions AS a
        WHERE a.at >= since AND a.at < upto
          AND (a.to_state IN ('complete', 'error') OR a.from_state = 'in_progress' AND (a.to_state = 'waiting_for_retry'
               OR a.to_state = 'enqueued' AND a.reason IN ('executor_lost', 'executor_left', 'answer_lost')))
        GROUP BY 1, 2, 3, 4
    ), by_template AS MATERIALIZED (
        SELECT t.named_task_id, s.position, s.to_state, s.reason, sum(s.n) AS n
        FROM seen AS s
        LEFT JOIN LATERAL (SELECT y.named_task_id FROM tasker.tasks AS y WHERE y.task_uuid = s.task_uuid OFFSET 0) AS t ON true
        GROUP BY 1, 2, 3, 4
    ), counted AS MATERIALIZED (
        SELECT CASE b.to_state WHEN 'complete' THEN 'steps_completed_total' WHEN 'error' THEN 'steps_failed_total'
                               WHEN 'waiting_for_retry' THEN 'steps_retried_total' ELSE 'steps_recovered_total' END AS metric,
               CASE WHEN b.reason IS NOT NULL THEN ARRAY[b.reason]
                    -- Of a task that was removed before this: nobody knows any more.
                    ELSE ARRAY[coalesce(n.namespace, 'other'), coalesce(n.name, 'other'), coalesce(n.step, 'other')] END AS labels,
               sum(b.n) AS n
        FROM by_template AS b
        LEFT JOIN LATERAL (SELECT d.namespace, d.name, z.name AS step FROM tasker.named_tasks AS d
                           JOIN tasker.named_steps AS z ON z.named_task_id = d.named_task_id AND z.position = b.position
                           WHERE d.named_task_id = b.named_task_id OFFSET 0) AS n ON true
        GROUP BY 1, 2
    ), placed AS (
        SELECT c.metric, c.n, c.labels, old.yes,
               row_number() OVER (PARTITION BY c.metric, old.yes ORDER BY c.labels)
                   + (SELECT count(*) FROM tasker.metric_totals AS y WHERE y.metric = c.metric) AS nth
        FROM counted AS c
        CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM tasker.metric_totals AS y
                                           WHERE y.metric = c.metric AND y.labels = c.labels) AS yes OFFSET 0) AS old
    )
    INSERT INTO tasker.metric_totals AS x (metric, labels, value)
    SELECT p.metric, CASE WHEN p.yes OR p.nth <= max_series THEN p.labels
                          ELSE array_fill('other'::text, ARRAY[cardinality(p.labels)]) END, sum(p.n)
    FROM placed AS p GROUP BY 1, 2
    ON CONFLICT ON CONSTRAINT metric_totals_pkey DO UPDATE SET value = x.value + excluded.value;

    WITH seen AS MATERIALIZED (
        SELECT a.action, a.outcome, count(*) AS n, sum(a.duration_ms) / 1000 AS seconds,
               coalesce((call_bounds[width_bucket(a.duration_ms / 1000, call_bounds) + 1])::text, '+Inf') AS bound
        FROM tasker.finalization_attempts AS a WHERE a.at >= since AND a.at < upto
        GROUP BY a.action, a.outcome, 5
    ), held AS MATERIALIZED (
        SELECT count(*) AS n, sum(a.held_ms) / 1000 AS seconds,
               coalesce((hold_bounds[width_bucket(a.held_ms / 1000, hold_bounds) + 1])::text, '+Inf') AS bound
        FROM tasker.finalization_attempts AS a
        WHERE a.at >= since AND a.at < upto AND a.action = 'finalize' AND a.outcome = 'finalized' AND a.held_ms IS NOT NULL
        GROUP BY 3
    ), counted (metric, labels, n) AS (
        SELECT 'finalization_claim_attempts_total', '{}'::text[], s.n FROM seen AS s WHERE s.action = 'claim'
        UNION ALL
        SELECT 'finalization_claim_success_total', '{}', s.n FROM seen AS s WHERE s.action = 'claim' AND s.outcome LIKE 'claimed%'
        UNION ALL
        SELECT 'finalization_claims_expired_total', '{}', s.n FROM seen AS s WHERE s.action = 'claim' AND s.outcome = 'claimed_expired'
        UNION ALL
        SELECT 'finalization_claim_contention_total', '{}', s.n FROM seen AS s
        WHERE s.action = 'claim' AND s.outcome NOT LIKE 'claimed%'
        UNION ALL
        SELECT 'finalization_claim_contention_by_reason_total', ARRAY[s.outcome], s.n FROM seen AS s
        WHERE s.action = 'claim' AND s.outcome NOT LIKE 'claimed%'
        UNION ALL
        SELECT format('finalization_claim_%s_total', s.action), ARRAY[s.outcome], s.n FROM seen AS s
        WHERE s.action IN ('release', 'extend')
        UNION ALL
        SELECT format('finalization_claim%s_duration_seconds_%s', CASE s.action WHEN 'claim' THEN '' ELSE '_' || s.action END, v.part),
               v.labels, v.n
        FROM seen AS s CROSS JOIN LATERAL (VALUES ('bucket', ARRAY[s.bound], s.n), ('sum', '{}', s.seconds)) AS v(part, labels, n)
        WHERE s.action <> 'finalize'
        UNION ALL
        SELECT 'finalization_duration_seconds_' || v.part, v.labels, v.n
        FROM held AS h CROSS JOIN LATERAL (VALUES ('bucket', ARRAY[h.bound], h.n), ('sum', '{}', h.seconds)) AS v(part, labels, n)
        UNION ALL
        SELECT 'executor_health_transitions_total', ARRAY[a.kind, a.from_health, a.to_health], count(*)
        FROM tasker.executor_health_transitions AS a WHERE a.at >= since AND a.at < upto
        GROUP BY a.kind, a.from_health, a.to_health
        UNION ALL
        SELECT 'executor_pool_scaling_events_total', ARRAY[a.kind, a.direction, a.reason], count(*)
        FROM tasker.scaling_decisions AS a WHERE a.at >= since AND a.at < upto AND a.direction <> 'hold'
        GROUP BY a.kind, a.direction, a.reason
        UNION ALL
        SELECT 'circuit_breaker_transitions_total', ARRAY[a.name, a.from_state, a.to_state], count(*)
        FROM tasker.circuit_transitions AS a WHERE a.at >= since AND a.at < upto
        GROUP BY a.name, a.from_state, a.to_state
        UNION ALL
        SELECT 'circuit_breaker_recovery_seconds_' || v.part, v.labels, v.n
        FROM tasker.circuit_transitions AS a
        CROSS JOIN LATERAL (VALUES
            ('bucket', ARRAY[a.name, coalesce((recovery_bounds[width_bucket(a.open_seconds, recovery_bounds) + 1])::text, '+Inf')], 1::double precision),
            ('sum', ARRAY[a.name], a.open_seconds)) AS v(part, labels, n)
        WHERE a.at >= since AND a.at < upto AND a.open_seconds IS NOT NULL
    )
    INSERT INTO tasker.metric_totals AS x (metric, labels, value)
    SELECT c.metric, c.labels, sum(c.n) FROM counted AS c GROUP BY c.metric, c.labels
    ON CONFLICT ON CONSTRAINT metric_totals_pkey DO UPDATE SET value = x.value + excluded.value;

    UPDATE tasker.metric_progress AS p SET counted_until = upto, waiting = known;
    RETURN jsonb_build_object('counted', true, 'behind', upto < moment, 'counted_until', upto);
END
$$;
