-- Moves a circuit to another state, with its history, and tells all processes. Internal: the caller holds the row.
-- "lasting": while open, until a probe may be let through; while half open, how long one is waited for.
-- What it held back when it closes goes on with a ramp (tasker.unpark_steps); the rest of it by the coordinator's ticks.
CREATE OR REPLACE FUNCTION tasker.change_circuit(
    circuit text, to_state text, forced boolean, lasting double precision, actor text, reason text) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    c record;
BEGIN
    SELECT x.state, x.opened_at INTO c FROM tasker.circuit_breakers AS x WHERE x.name = circuit;
    UPDATE tasker.circuit_breakers AS x
    SET state = to_state, forced = change_circuit.forced, successes = 0,
        failures = CASE WHEN to_state = 'closed' THEN 0 ELSE x.failures END,
        opened_at = CASE WHEN to_state <> 'closed' THEN coalesce(x.opened_at, tasker.now()) END,
        retry_at = CASE WHEN to_state = 'open' AND NOT change_circuit.forced THEN tasker.now() + make_interval(secs => lasting) END,
        probe_until = CASE WHEN to_state = 'half_open' THEN tasker.now() + make_interval(secs => lasting) END,
        transitions = x.transitions + 1, reason = left(change_circuit.reason, 1024), changed_by = actor, changed_at = clock_timestamp()
    WHERE x.name = circuit;
    INSERT INTO tasker.circuit_transitions (name, from_state, to_state, reason, actor, open_seconds)
    VALUES (circuit, c.state, to_state, left(change_circuit.reason, 1024), actor,
            CASE WHEN to_state = 'closed' THEN greatest(extract(epoch FROM tasker.now() - c.opened_at), 0) END);
    PERFORM pg_notify('tasker_circuits', '');
    RETURN CASE WHEN to_state = 'closed' THEN tasker.unpark_steps('circuit:' || circuit, 10000, true) ELSE '{}'::text[] END;
END
$$;
