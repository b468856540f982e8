-- Deletes rows of those who are gone: workers without a heartbeat for keep_seconds, and waiters that expired. At most
-- limit of each. request: keep_seconds, limit. Returns {workers, waiters}: how many went.
CREATE OR REPLACE FUNCTION tasker.prune_registrations(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keep constant interval := make_interval(secs => coalesce((request->>'keep_seconds')::double precision, 3600));
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 1000), 1), 10000);
    n_workers integer; n_waiters integer;
BEGIN
    WITH gone AS (
        SELECT w.hostname FROM tasker.workers AS w
        WHERE w.heartbeat_at < clock_timestamp() - keep ORDER BY w.hostname LIMIT most FOR UPDATE SKIP LOCKED)
    DELETE FROM tasker.workers AS w USING gone AS g WHERE w.hostname = g.hostname;
    GET DIAGNOSTICS n_workers = ROW_COUNT;
    WITH gone AS (
        SELECT x.channel FROM tasker.waiters AS x
        WHERE x.expires_at < clock_timestamp() ORDER BY x.channel LIMIT most FOR UPDATE SKIP LOCKED)
    DELETE FROM tasker.waiters AS x USING gone AS g WHERE x.channel = g.channel;
    GET DIAGNOSTICS n_waiters = ROW_COUNT;
    RETURN jsonb_build_object('workers', n_workers, 'waiters', n_waiters);
END
$$;
