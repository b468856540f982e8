-- Says why a slot could not be fired, for those who look, and when to try again: no slot is lost by it.
-- request: {name, expected_due_at (the slot), failure, retry_seconds}. Returns {postponed}.
CREATE OR REPLACE FUNCTION tasker.postpone_schedule(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE tasker.schedules AS s
    SET failure = left(coalesce(request->>'failure', 'unknown'), 1000), failed_at = clock_timestamp(),
        look_at = greatest(s.next_due_at, tasker.now()
                           + make_interval(secs => least(greatest((request->>'retry_seconds')::double precision, 1), 86400)))
    -- Skipped where another holds it: that one fires or changes it, and nobody who admits tasks waits for somebody's open
    -- transaction.
    WHERE s.name = (SELECT x.name FROM tasker.schedules AS x WHERE x.name = request->>'name'
                    AND x.next_due_at = (request->>'expected_due_at')::timestamptz FOR NO KEY UPDATE SKIP LOCKED);
    RETURN jsonb_build_object('postponed', FOUND);
END
$$;
