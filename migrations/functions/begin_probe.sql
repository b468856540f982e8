-- Takes the right to make the one call that a circuit lets through when it has been open for long enough, or when the last
-- such call did not come back in time. Whoever finds the row held by another does not get it. Internal.
CREATE OR REPLACE FUNCTION tasker.begin_probe(circuit text, lasting double precision, actor text) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    was text;
BEGIN
    SELECT x.state INTO was FROM tasker.circuit_breakers AS x
    WHERE x.name = circuit
      AND (x.state = 'open' AND NOT x.forced AND x.retry_at <= tasker.now() OR x.state = 'half_open' AND x.probe_until <= tasker.now())
    FOR NO KEY UPDATE SKIP LOCKED;
    IF was IS NULL THEN
        RETURN false;
    ELSIF was = 'open' THEN
        PERFORM tasker.change_circuit(circuit, 'half_open', false, greatest(lasting, 1), actor, 'a call is let through');
    ELSE
        UPDATE tasker.circuit_breakers AS x SET probe_until = tasker.now() + make_interval(secs => greatest(lasting, 1)), changed_by = actor
        WHERE x.name = circuit;
    END IF;
    RETURN true;
END
$$;
