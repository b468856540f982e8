-- Removes what tells of times long over, the oldest first: resolved dead letters, and the history of circuits, executors'
-- health, pools and the operational state. (That of tasks and steps is partitioned, and goes by whole partitions.)
-- request: keep_letters_seconds, keep_history_seconds (none: for ever), limit (rows of each). Returns how many went, by table.
CREATE OR REPLACE FUNCTION tasker.prune_history(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 1000), 1), 10000);
    keep_letters constant double precision := (request->>'keep_letters_seconds')::double precision;
    keep_history constant double precision := (request->>'keep_history_seconds')::double precision;
    letters timestamptz;
    history timestamptz;
    n integer;
    went jsonb := '{}'::jsonb;
    old record;
BEGIN
    IF keep_letters < 0 OR keep_history < 0 THEN
        RAISE EXCEPTION 'what is to be kept is said in seconds, 0 or more'
            USING ERRCODE = 'TK001', COLUMN = CASE WHEN keep_letters < 0 THEN 'keep_letters_seconds' ELSE 'keep_history_seconds' END;
    END IF;
    -- least passes over null, and what is not to be pruned has no moment.
    letters := CASE WHEN keep_letters IS NOT NULL THEN clock_timestamp() - make_interval(secs => least(keep_letters, 1e10)) END;
    history := CASE WHEN keep_history IS NOT NULL THEN clock_timestamp() - make_interval(secs => least(keep_history, 1e10)) END;
    FOR old IN
        SELECT * FROM (VALUES
            ('dead_letters', 'resolved_at', letters), ('circuit_transitions', 'at', history),
            ('executor_health_transitions', 'at', history), ('scaling_decisions', 'at', history),
            ('operational_state_transitions', 'at', history)) AS v(name, at_column, due) WHERE v.due IS NOT NULL
    LOOP
        EXECUTE format(
            'DELETE FROM tasker.%1$I AS x WHERE x.ctid = ANY (ARRAY(
                 SELECT y.ctid FROM tasker.%1$I AS y WHERE y.%2$I < $1 ORDER BY y.%2$I LIMIT $2 FOR UPDATE SKIP LOCKED))',
            old.name, old.at_column) USING old.due, most;
        GET DIAGNOSTICS n = ROW_COUNT;
        went := went || jsonb_build_object(old.name, n);
    END LOOP;
    RETURN went;
END
$$;
