-- Claiming and completing lock first and read afterwards, in separate statements. That is only right when each statement
-- sees what was committed before it, so any other isolation level is refused.
CREATE OR REPLACE FUNCTION tasker.assert_read_committed(caller text) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tasker.% runs in READ COMMITTED only, not in %', caller,
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'TK007', HINT = 'call it in a transaction of its own';
    END IF;
END
$$;
