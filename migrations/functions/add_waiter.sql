-- Says that a process waits for tasks to finish, on this channel, for at most so many seconds (renew it by calling again).
CREATE OR REPLACE FUNCTION tasker.add_waiter(channel text, seconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
INSERT INTO tasker.waiters (channel, expires_at)
VALUES (add_waiter.channel, clock_timestamp() + make_interval(secs => least(greatest(seconds, 1), 3600)))
ON CONFLICT ON CONSTRAINT waiters_pkey DO UPDATE SET expires_at = excluded.expires_at
$$;
