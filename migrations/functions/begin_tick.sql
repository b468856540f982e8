-- Whether the caller may tick now: nobody else is at it (a lock that ends with the caller's transaction), and the last tick
-- is at least half a period old, so that any number of beats makes one tick per period. Ends with record_tick.
CREATE OR REPLACE FUNCTION tasker.begin_tick(period_seconds double precision) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last timestamptz;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1413567307, -1) THEN
        RETURN false;
    END IF;
    -- A statement of its own: it sees what the last holder of the lock recorded.
    SELECT c.last_tick_at INTO last FROM tasker.coordinator AS c;
    RETURN last IS NULL OR last <= clock_timestamp() - make_interval(secs => period_seconds / 2) OR last > clock_timestamp();
END
$$;
