-- Takes back what tasker.add_waiter said.
CREATE OR REPLACE FUNCTION tasker.remove_waiter(channel text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM tasker.waiters AS w WHERE w.channel = remove_waiter.channel
$$;
