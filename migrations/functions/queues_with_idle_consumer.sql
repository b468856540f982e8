-- Of these queues, the ones on which some executor sleeps: only they are worth a NOTIFY. A busy executor looks again by
-- itself. An executor says that it is idle in a transaction of its own and then looks twice more, so that a message sent
-- in between is found.
CREATE OR REPLACE FUNCTION tasker.queues_with_idle_consumer(queues text[]) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(array_agg(q), '{}')
FROM unnest(queues) AS q
WHERE EXISTS (SELECT FROM tasker.executors AS e WHERE e.idle AND e.lost_at IS NULL AND q = ANY (e.queues))
$$;
