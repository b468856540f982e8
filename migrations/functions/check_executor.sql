-- Refuses calls of executors that were declared lost (TK006) and calls that came too late (TK008): those that the executor
-- said it no longer held would make a receipt nobody waits for. Returns whether it shall stop. Internal.
CREATE OR REPLACE FUNCTION tasker.check_executor(executor uuid, call_no bigint) RETURNS boolean
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    e record;
BEGIN
    SELECT x.lost_at, x.oldest_call_no, x.next_call_no, x.held_calls, x.stop_requested INTO e
    FROM tasker.executors AS x WHERE x.executor = check_executor.executor;
    IF NOT FOUND OR e.lost_at IS NOT NULL THEN
        RAISE EXCEPTION 'executor % is %', coalesce(executor::text, 'null'), CASE WHEN e.lost_at IS NULL THEN 'not registered' ELSE 'lost' END
            USING ERRCODE = 'TK006', HINT = 'register anew under a new uuid; the steps it held are given to others';
    END IF;
    IF call_no IS NULL OR call_no < 1 THEN
        RAISE EXCEPTION 'call_no must be a whole number from 1' USING ERRCODE = 'TK001', COLUMN = 'call_no';
    END IF;
    IF call_no < e.oldest_call_no THEN
        RAISE EXCEPTION 'call % of executor % came too late: it no longer held anything below %', call_no, executor, e.oldest_call_no
            USING ERRCODE = 'TK008', HINT = 'number calls upwards and repeat only calls whose outcome is unknown';
    END IF;
    IF call_no < e.next_call_no AND call_no <> ALL (e.held_calls) THEN
        RAISE EXCEPTION 'call % of executor % came too late: it no longer held it', call_no, executor
            USING ERRCODE = 'TK008', HINT = 'number calls upwards and repeat only calls whose outcome is unknown';
    END IF;
    RETURN e.stop_requested;
END
$$;
