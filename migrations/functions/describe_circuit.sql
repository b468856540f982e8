-- How a circuit is: {name, state, forced, failures, retry_after_seconds (open: until a call may try; half open: until another
-- may, if the one under way does not end)}. A circuit that nobody has used is closed. Internal.
CREATE OR REPLACE FUNCTION tasker.describe_circuit(circuit text) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
SELECT coalesce(
    (SELECT jsonb_build_object('name', x.name, 'state', x.state, 'forced', x.forced, 'failures', x.failures,
                               'retry_after_seconds', CASE WHEN coalesce(x.retry_at, x.probe_until) IS NOT NULL
                                                          THEN greatest(extract(epoch FROM coalesce(x.retry_at, x.probe_until) - tasker.now()), 0) END)
     FROM tasker.circuit_breakers AS x WHERE x.name = circuit),
    jsonb_build_object('name', circuit, 'state', 'closed', 'forced', false, 'failures', 0, 'retry_after_seconds', NULL))
$$;
