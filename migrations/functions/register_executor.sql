-- Announces an incarnation of an executor. request: executor (a new uuid), kind, worker, queues[], pid, requested
-- (optional: the coordinator asked for it). Registering the same uuid again is a no-op while it lives; a lost one stays lost.
CREATE OR REPLACE FUNCTION tasker.register_executor(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    -- One for both: an executor whose heartbeat is no later than its registration has sent none.
    moment constant timestamptz := clock_timestamp();
BEGIN
    INSERT INTO tasker.executors (executor, kind, worker, pid, queues, requested, registered_at, heartbeat_at)
    VALUES ((request->>'executor')::uuid, request->>'kind', request->>'worker', (request->>'pid')::integer,
            ARRAY(SELECT jsonb_array_elements_text(nullif(request->'queues', 'null'))),
            coalesce((request->>'requested')::boolean, false), moment, moment)
    ON CONFLICT DO NOTHING;
    PERFORM tasker.check_executor((request->>'executor')::uuid, 9223372036854775807);
    RETURN '{}'::jsonb;
EXCEPTION
    WHEN check_violation OR not_null_violation OR invalid_text_representation THEN
        RAISE EXCEPTION 'the executor cannot be registered: %', sqlerrm
            USING ERRCODE = 'TK001', COLUMN = 'request', HINT = 'it needs executor (a uuid), kind, worker and queues';
END
$$;
