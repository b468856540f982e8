-- Moves the operational state by what is seen, and says what it is now. request: within_seconds (a worker, an executor
-- without a heartbeat for longer is not there), leaving (the caller is a worker that ends, and has taken its leave).
-- Returns {from, state, changed}.
--
-- stopped, and a worker is there: startup. startup, and an executor is healthy: normal. All workers that host executors are
-- drained, or the last one leaves: graceful_shutdown; the last one has left, with all executors: stopped. A shutdown that was
-- seen and no longer is begins anew with startup; one that a person declared, and an emergency, are theirs to end, but stop
-- all the same. Workers that vanish without a word are no shutdown: that is what alerts are for.
CREATE OR REPLACE FUNCTION tasker.judge_operational_state(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    since constant timestamptz := clock_timestamp() - make_interval(secs => coalesce((request->>'within_seconds')::double precision, 30));
    leaving constant boolean := coalesce((request->>'leaving')::boolean, false);
    actor constant text := 'tasker';
    o record;
    w record;
    e record;
    wanted text;
    why text;
BEGIN
    SELECT s.state, s.changed_by INTO o FROM tasker.operational_state AS s FOR NO KEY UPDATE;
    SELECT count(*) AS living, count(*) FILTER (WHERE x.executor_slots > 0 OR x.drained) AS hosts,
           count(*) FILTER (WHERE x.drained) AS drained INTO w
    FROM tasker.workers AS x WHERE x.heartbeat_at > since;
    SELECT count(*) AS living, count(*) FILTER (WHERE x.health IN ('healthy', 'degraded') AND NOT x.stop_requested) AS healthy INTO e
    FROM tasker.executors AS x WHERE x.lost_at IS NULL AND x.heartbeat_at > since;
    IF leaving AND w.living = 0 THEN
        IF e.living = 0 AND o.state IN ('graceful_shutdown', 'emergency') THEN
            wanted := 'stopped'; why := 'the last worker has left';
        ELSIF o.state IN ('startup', 'normal') THEN
            wanted := 'graceful_shutdown'; why := 'the last worker leaves';
        END IF;
    ELSIF o.state IN ('startup', 'normal') AND w.hosts > 0 AND w.drained = w.hosts THEN
        wanted := 'graceful_shutdown'; why := 'all workers are drained';
    ELSIF o.state = 'startup' AND e.healthy > 0 THEN
        wanted := 'normal'; why := 'executors are healthy';
    ELSIF o.state = 'stopped' AND w.living > 0 THEN
        wanted := 'startup'; why := 'a worker is there';
    ELSIF o.state = 'graceful_shutdown' AND o.changed_by = actor AND w.hosts > w.drained THEN
        wanted := 'startup'; why := 'a worker is there that hosts executors';
    END IF;
    IF wanted IS NOT NULL THEN
        PERFORM tasker.change_operational_state(o.state, wanted, actor, why);
    END IF;
    RETURN jsonb_build_object('from', o.state, 'state', coalesce(wanted, o.state), 'changed', wanted IS NOT NULL);
END
$$;
