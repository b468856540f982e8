-- The channels of processes that wait for a task to finish: empty almost always, and read only when a task did.
CREATE OR REPLACE FUNCTION tasker.waiting_channels() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT coalesce(array_agg(w.channel), '{}') FROM tasker.waiters AS w WHERE w.expires_at > clock_timestamp()
$$;
