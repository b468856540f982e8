-- Of these queues, the ones on which some executor sleeps: only they are worth a NOTIFY. A busy executor looks again by
-- itself. An executor says that it is idle in a transaction of its own and then looks twice more, so that a message sent
-- in between is found. Internal. PL/pgSQL, as all that completions call: before PostgreSQL 18 an SQL function that cannot be
-- inlined is parsed and planned anew for each of them.
CREATE OR REPLACE FUNCTION tasker.queues_with_idle_consumer(queues text[]) RETURNS text[]
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN ARRAY(SELECT q FROM unnest(queues) AS q
                 WHERE EXISTS (SELECT FROM tasker.executors AS e WHERE e.idle AND e.lost_at IS NULL AND q = ANY (e.queues)));
END
$$;
