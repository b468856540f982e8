-- Asks executors to stop; they learn it by their next claim or heartbeat. request: executor, or worker for all of one.
-- Returns {requested}.
CREATE OR REPLACE FUNCTION tasker.request_executor_stop(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    UPDATE tasker.executors AS x SET stop_requested = true
    WHERE x.lost_at IS NULL AND NOT x.stop_requested
      AND (x.executor = (request->>'executor')::uuid OR x.worker = request->>'worker');
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN jsonb_build_object('requested', n);
END
$$;
