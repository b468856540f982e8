-- Of circuits that may be tried again, makes one parked step due each, where none is: the claim then finds it and takes it as
-- the probe. Internal.
CREATE OR REPLACE FUNCTION tasker.offer_probes(circuits text[], queues text[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE tasker.step_timers AS w SET due_at = tasker.now()
    WHERE w.ctid = ANY (ARRAY(
        SELECT p.tid
        FROM unnest(circuits) AS c(name)
        CROSS JOIN LATERAL (SELECT x.ctid AS tid FROM tasker.step_timers AS x
                            WHERE x.key = 'circuit:' || c.name AND x.queue = ANY (queues)
                            ORDER BY x.set_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS p))
      AND w.due_at > tasker.now();
END
$$;
