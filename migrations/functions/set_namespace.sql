-- Changes a namespace's limits. request: namespace, max_concurrency (steps of its queue that run at once), rate_count and
-- rate_seconds (steps of its queue that start in a time); null takes a limit away, a key left out leaves it as it is. What waits
-- for a limit that is wider now goes on. Returns the namespace's limits.
CREATE OR REPLACE FUNCTION tasker.set_namespace(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id constant text := request->>'namespace';
    n record;
BEGIN
    PERFORM tasker.assert_read_committed('set_namespace');
    UPDATE tasker.namespaces AS x
    SET max_concurrency = CASE WHEN request ? 'max_concurrency' THEN (request->>'max_concurrency')::integer ELSE x.max_concurrency END,
        rate_count = CASE WHEN request ? 'rate_count' THEN (request->>'rate_count')::integer ELSE x.rate_count END,
        rate_seconds = CASE WHEN request ? 'rate_seconds' THEN (request->>'rate_seconds')::double precision
                            WHEN request ? 'rate_count' AND request->>'rate_count' IS NULL THEN NULL ELSE x.rate_seconds END
    WHERE x.name = id RETURNING * INTO n;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no namespace %', coalesce(quote_literal(id), 'null') USING ERRCODE = 'TK004', COLUMN = 'namespace',
            HINT = 'tasker namespace list shows those there are; registering a workflow makes its namespace';
    END IF;
    IF request ?| ARRAY['rate_count', 'rate_seconds'] THEN
        -- What was counted under another rate says nothing.
        DELETE FROM tasker.rate_limits AS r WHERE r.limit_key = 'ns:' || id;
        PERFORM tasker.unpark_steps('later:ns:' || id, 10000, false);
    END IF;
    -- Waits for claims that are deciding under the old limit: they would park one more.
    PERFORM pg_advisory_xact_lock(hashtextextended('tasker.limit:ns:' || id, 0));
    PERFORM tasker.unpark_steps('ns:' || id, least(CASE WHEN n.max_concurrency IS NOT NULL
                                                        THEN tasker.limit_room('ns:' || id, n.max_concurrency) END, 10000), false);
    RETURN jsonb_build_object('namespace', n.name, 'max_concurrency', n.max_concurrency, 'rate_count', n.rate_count,
                              'rate_seconds', n.rate_seconds);
EXCEPTION
    WHEN check_violation OR data_exception THEN
        RAISE EXCEPTION 'the limits of namespace % are not valid', id USING ERRCODE = 'TK001', COLUMN = 'request',
            HINT = 'max_concurrency and rate_count are whole numbers from 1, rate_seconds is above 0 and goes with rate_count';
END
$$;
