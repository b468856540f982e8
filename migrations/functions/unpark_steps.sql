-- Lets steps go on that wait for a circuit or a limit, in the order in which they came to wait: their timers become
-- ordinary ones that are due, and before others, as they have waited longer; if one comes for nothing, it has its place again
-- (set_at). With a ramp the first ten are due at once, and twice as many in each second that follows, so
-- that what has just recovered is not run over. Timers that somebody holds are left to the next tick. Internal.
-- Returns the queues that have something due.
CREATE OR REPLACE FUNCTION tasker.unpark_steps(waits_for text, quantity integer, ramp boolean) RETURNS text[]
LANGUAGE plpgsql
AS $$
DECLARE
    queues text[];
BEGIN
    WITH parked AS MATERIALIZED (
        SELECT x.ctid AS tid FROM tasker.step_timers AS x
        WHERE x.key = waits_for AND x.kind IN ('circuit', 'limit')
        ORDER BY x.set_at LIMIT quantity FOR UPDATE SKIP LOCKED
    ), freed AS (
        UPDATE tasker.step_timers AS w
        SET kind = 'retry', key = NULL,
            due_at = CASE WHEN ramp THEN tasker.now() + make_interval(secs => log(2, (1 + (p.no - 1) / 10)::numeric)::double precision)
                          ELSE least(w.set_at, tasker.now()) END
        FROM (SELECT q.tid, row_number() OVER () AS no FROM parked AS q) AS p
        WHERE w.ctid = p.tid
        RETURNING w.queue
    )
    SELECT array_agg(DISTINCT f.queue) INTO queues FROM freed AS f;
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;
    RETURN coalesce(queues, '{}');
END
$$;
