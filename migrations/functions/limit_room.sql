-- How many more steps may run under a limit, whose key this locks for the transaction; -1 when somebody else has it locked.
-- Internal. A statement after the lock: it sees what the last one to have it committed.
CREATE OR REPLACE FUNCTION tasker.limit_room(limit_key text, most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('tasker.limit:' || limit_key, 0)) THEN
        RETURN -1;
    END IF;
    RETURN greatest(most - tasker.limit_in_use(limit_key), 0);
END
$$;
