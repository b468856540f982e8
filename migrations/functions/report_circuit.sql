-- Counts what calls of an external system came to, and opens or closes its circuit. Whoever uses a circuit that is closed and
-- has no failures need not report successes: there is nothing to forget.
--
-- request: name, failures (calls that failed because of the system), successes, is_probe (they were the call that a half-open
-- circuit let through; with neither failures nor successes it said nothing, and another may try), by, reason (of the last
-- failure), failure_threshold, success_threshold, timeout_seconds (the configuration; kept), max_circuits (where there are as
-- many, no further one is made). Returns as tasker.describe_circuit.
--
-- Closed: failures in a row open it, a success forgets them. Half open: successes of probes close it, a failure of one opens
-- it again. Reports of calls that began before it opened count for nothing.
CREATE OR REPLACE FUNCTION tasker.report_circuit(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    circuit constant text := request->>'name';
    failed constant integer := coalesce((request->>'failures')::integer, 0);
    succeeded constant integer := coalesce((request->>'successes')::integer, 0);
    actor constant text := request->>'by';
    c record;
BEGIN
    PERFORM tasker.assert_read_committed('report_circuit');
    IF coalesce(circuit, '') = '' OR length(circuit) > 200 THEN
        RAISE EXCEPTION 'a circuit needs a name of at most 200 characters' USING ERRCODE = 'TK001', COLUMN = 'name';
    END IF;
    -- Names may come from outside (hosts that were called), the table is read by all.
    IF NOT EXISTS (SELECT FROM tasker.circuit_breakers AS x WHERE x.name = circuit)
       AND (SELECT count(*) FROM tasker.circuit_breakers AS x) >= (request->>'max_circuits')::integer THEN
        RETURN tasker.describe_circuit(circuit);
    END IF;
    PERFORM tasker.ensure_circuit(request);
    SELECT * INTO c FROM tasker.circuit_breakers AS x WHERE x.name = circuit FOR NO KEY UPDATE;
    IF c.state = 'closed' AND (failed > 0 OR succeeded > 0) THEN
        -- In which order they came is not known: a success among them only forgets what was before.
        UPDATE tasker.circuit_breakers AS x SET failures = CASE WHEN succeeded > 0 THEN 0 ELSE x.failures END + failed
        WHERE x.name = circuit RETURNING * INTO c;
        IF c.failures >= c.failure_threshold THEN
            PERFORM tasker.change_circuit(circuit, 'open', false, c.timeout_seconds, actor,
                                          concat_ws(': ', format('%s failures in a row', c.failures), request->>'reason'));
        END IF;
    ELSIF c.state = 'half_open' AND coalesce((request->>'is_probe')::boolean, false) THEN
        IF failed > 0 THEN
            PERFORM tasker.change_circuit(circuit, 'open', false, c.timeout_seconds, actor,
                                          concat_ws(': ', 'the call that was let through failed', request->>'reason'));
        ELSIF c.successes + succeeded >= c.success_threshold THEN
            PERFORM tasker.change_circuit(circuit, 'closed', false, NULL, actor,
                                          format('%s calls in a row succeeded', c.successes + succeeded));
        ELSE
            -- The next one may try at once; those who wait are told.
            UPDATE tasker.circuit_breakers AS x SET successes = x.successes + succeeded, probe_until = tasker.now()
            WHERE x.name = circuit;
            PERFORM pg_notify('tasker_circuits', '');
        END IF;
    END IF;
    RETURN tasker.describe_circuit(circuit);
END
$$;
