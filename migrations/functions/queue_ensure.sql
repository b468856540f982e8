-- Creates a PGMQ queue unless it exists. The lock makes concurrent first uses wait for one another.
CREATE OR REPLACE FUNCTION tasker.queue_ensure(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF to_regclass(format('pgmq.%I', 'q_' || queue)) IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('tasker.queue_ensure', 0));
        IF to_regclass(format('pgmq.%I', 'q_' || queue)) IS NULL THEN
            PERFORM pgmq.create(queue);
        END IF;
    END IF;
END
$$;
