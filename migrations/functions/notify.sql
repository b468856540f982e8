-- Wakes listeners. A hint without payload; callers coalesce, and commit first what the listeners shall find.
CREATE OR REPLACE FUNCTION tasker.notify(channels text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT pg_notify(c, '') FROM unnest(channels) AS c WHERE c ~ '^tasker_[a-z0-9_]{1,56}$'
$$;
