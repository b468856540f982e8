-- Asks whether a call may go through a circuit. Only a call that the caller believes to be refused, or that half-opens the
-- circuit, needs to ask: of an open circuit whose time is up, and of a half-open one whose probe did not come back in time,
-- this takes the right to try, for probe_seconds (default 60). Its outcome goes to tasker.report_circuit with is_probe.
-- request: name, probe_seconds, by. Returns as tasker.describe_circuit, with "allowed" and "is_probe".
CREATE OR REPLACE FUNCTION tasker.ask_circuit(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    circuit constant text := request->>'name';
    is_probe boolean;
    answer jsonb;
BEGIN
    PERFORM tasker.assert_read_committed('ask_circuit');
    is_probe := tasker.begin_probe(circuit, coalesce((request->>'probe_seconds')::double precision, 60), request->>'by');
    answer := tasker.describe_circuit(circuit);
    RETURN answer || jsonb_build_object('is_probe', is_probe, 'allowed', is_probe OR answer->>'state' = 'closed');
END
$$;
