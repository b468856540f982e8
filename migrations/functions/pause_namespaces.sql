-- Pauses namespaces, or resumes them: the queue of a paused one is not popped, so what runs may finish and nothing starts.
-- request: {namespaces[], paused (default true), by, reason}. Returns {namespaces: [{namespace, changed, paused}]}.
CREATE OR REPLACE FUNCTION tasker.pause_namespaces(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted constant boolean := coalesce((request->>'paused')::boolean, true);
    asked constant text[] := ARRAY(SELECT DISTINCT u.name FROM jsonb_array_elements_text(request->'namespaces') AS u(name) ORDER BY 1);
    id text;
    was boolean;
    told jsonb[] := ARRAY[]::jsonb[];
BEGIN
    SELECT x.name INTO id FROM unnest(asked) AS x(name)
    WHERE NOT EXISTS (SELECT FROM tasker.namespaces AS n WHERE n.name = x.name) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no namespace %', coalesce(quote_literal(id), 'null') USING ERRCODE = 'TK004', COLUMN = 'namespaces',
            HINT = 'nothing was changed; tasker namespace list shows those there are';
    END IF;
    FOREACH id IN ARRAY asked LOOP
        SELECT x.paused_at IS NOT NULL INTO was FROM tasker.namespaces AS x WHERE x.name = id FOR NO KEY UPDATE;
        IF was <> wanted THEN
            UPDATE tasker.namespaces AS x
            SET paused_at = CASE WHEN wanted THEN clock_timestamp() END, paused_by = CASE WHEN wanted THEN request->>'by' END,
                paused_reason = CASE WHEN wanted THEN left(request->>'reason', 1024) END
            WHERE x.name = id;
            IF NOT wanted THEN
                PERFORM pg_notify('tasker_' || id || '_queue', '');
            END IF;
        END IF;
        told := told || jsonb_build_object('namespace', id, 'changed', was <> wanted, 'paused', wanted);
    END LOOP;
    RETURN jsonb_build_object('namespaces', to_jsonb(told));
END
$$;
