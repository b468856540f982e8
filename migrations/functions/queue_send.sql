-- Appends messages to a PGMQ queue. An INSERT into PGMQ's own table, by column names: pgmq.send_batch validates and
-- returns ids, which nobody here needs. Readers that use PGMQ's API see no difference.
CREATE OR REPLACE FUNCTION tasker.queue_send(queue text, messages jsonb[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('INSERT INTO pgmq.%I (vt, message) SELECT clock_timestamp(), m FROM unnest($1) AS m', 'q_' || queue)
        USING messages;
END
$$;
