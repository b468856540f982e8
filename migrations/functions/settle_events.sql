-- Ends what tasker.read_events began: events that were handled go, those that nobody can handle become dead letters, and
-- others show again at once. What is not named shows again when its time is over.
-- request: namespace, done[] (msg_ids), refused[] {msg_id, rejected: {reason, message}}, again[] (msg_ids).
-- Returns {done, refused}: how many there were.
CREATE OR REPLACE FUNCTION tasker.settle_events(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    queue constant text := (request->>'namespace') || '_domain_events';
    n integer;
BEGIN
    IF queue IS NULL OR queue !~ '^[a-z][a-z0-9_]{0,46}$' OR to_regclass(format('pgmq.%I', 'q_' || queue)) IS NULL THEN
        RAISE EXCEPTION 'namespace % has no domain events', coalesce(quote_literal(request->>'namespace'), 'null')
            USING ERRCODE = 'TK004', COLUMN = 'namespace';
    END IF;
    EXECUTE format('DELETE FROM pgmq.%I AS q WHERE q.msg_id = ANY ($1)', 'q_' || queue)
        USING tasker.whole_numbers(request->'done');
    GET DIAGNOSTICS n = ROW_COUNT;
    PERFORM tasker.queue_show_again(queue, tasker.whole_numbers(request->'again'), 0, true);
    RETURN jsonb_build_object('done', n, 'refused', CASE WHEN jsonb_typeof(request->'refused') = 'array' THEN tasker.reject_messages(queue, request->'refused') ELSE 0 END);
END
$$;
