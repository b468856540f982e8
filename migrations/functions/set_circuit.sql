-- An operator's hand on a circuit. request: name, action (open: it stays open until somebody closes it; close and reset: it
-- closes and forgets its failures, and what it held back goes on), by, reason. Returns as tasker.describe_circuit, with
-- "changed". A circuit that nobody has used yet can be opened; closing it is a no-op.
CREATE OR REPLACE FUNCTION tasker.set_circuit(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    circuit constant text := request->>'name';
    action constant text := request->>'action';
    changed boolean := false;
    c record;
BEGIN
    PERFORM tasker.assert_read_committed('set_circuit');
    IF coalesce(circuit, '') = '' OR length(circuit) > 200 THEN
        RAISE EXCEPTION 'a circuit needs a name of at most 200 characters' USING ERRCODE = 'TK001', COLUMN = 'name';
    END IF;
    IF action IS NULL OR action NOT IN ('open', 'close', 'reset') THEN
        RAISE EXCEPTION 'action must be open, close or reset' USING ERRCODE = 'TK001', COLUMN = 'action';
    END IF;
    IF action = 'open' THEN
        PERFORM tasker.ensure_circuit(jsonb_build_object('name', circuit));
    END IF;
    SELECT * INTO c FROM tasker.circuit_breakers AS x WHERE x.name = circuit FOR NO KEY UPDATE;
    IF action = 'open' AND NOT c.forced THEN
        changed := true;
        PERFORM tasker.change_circuit(circuit, 'open', true, NULL, request->>'by', coalesce(request->>'reason', 'opened by hand'));
    ELSIF action <> 'open' AND c.state <> 'closed' THEN
        changed := true;
        PERFORM tasker.change_circuit(circuit, 'closed', false, NULL, request->>'by',
                                      coalesce(request->>'reason', CASE action WHEN 'close' THEN 'closed by hand' ELSE 'reset by hand' END));
    ELSIF action <> 'open' AND c.failures > 0 THEN
        changed := true;
        UPDATE tasker.circuit_breakers AS x SET failures = 0 WHERE x.name = circuit;
        PERFORM pg_notify('tasker_circuits', '');
    END IF;
    RETURN tasker.describe_circuit(circuit) || jsonb_build_object('changed', changed);
END
$$;
