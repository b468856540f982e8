-- Makes a circuit unless it exists, and keeps its configuration: failure_threshold, success_threshold, timeout_seconds of the
-- request, where they are given. Internal.
CREATE OR REPLACE FUNCTION tasker.ensure_circuit(request jsonb) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO tasker.circuit_breakers AS x (name, failure_threshold, success_threshold, timeout_seconds)
    VALUES (request->>'name', coalesce((request->>'failure_threshold')::integer, 5),
            coalesce((request->>'success_threshold')::integer, 2), coalesce((request->>'timeout_seconds')::double precision, 30))
    ON CONFLICT ON CONSTRAINT circuit_breakers_pkey DO UPDATE
    SET failure_threshold = coalesce((request->>'failure_threshold')::integer, x.failure_threshold),
        success_threshold = coalesce((request->>'success_threshold')::integer, x.success_threshold),
        timeout_seconds = coalesce((request->>'timeout_seconds')::double precision, x.timeout_seconds)
    WHERE x.failure_threshold IS DISTINCT FROM coalesce((request->>'failure_threshold')::integer, x.failure_threshold)
       OR x.success_threshold IS DISTINCT FROM coalesce((request->>'success_threshold')::integer, x.success_threshold)
       OR x.timeout_seconds IS DISTINCT FROM coalesce((request->>'timeout_seconds')::double precision, x.timeout_seconds);
EXCEPTION
    WHEN check_violation OR data_exception THEN
        RAISE EXCEPTION 'the circuit''s configuration is not valid: %', sqlerrm USING ERRCODE = 'TK001', COLUMN = 'request',
            HINT = 'thresholds are whole numbers from 1, timeout_seconds is above 0';
END
$$;
