-- Takes an executor's leave: its row goes, and so do the receipts it names as finished. Any other receipt is now the
-- receipt of nobody, which the next sweep recovers. What it counted stays, for metrics. request: executor, finished[],
-- counters{} (optional: its last).
CREATE OR REPLACE FUNCTION tasker.deregister_executor(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM tasker.delete_finished_receipts(
        (request->>'executor')::uuid, ARRAY(SELECT jsonb_array_elements_text(nullif(request->'finished', 'null'))::bigint));
    WITH gone AS (
        DELETE FROM tasker.executors AS x WHERE x.executor = (request->>'executor')::uuid
        RETURNING x.kind, CASE WHEN x.lost_at IS NULL THEN coalesce(tasker.checked_counters(request->'counters'), x.counters)
                               ELSE x.counters END AS counters
    )
    INSERT INTO tasker.ended_executors (kind, counters) SELECT g.kind, g.counters FROM gone AS g WHERE g.counters <> '{}';
    RETURN '{}'::jsonb;
END
$$;
