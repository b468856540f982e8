-- Creates a namespace and its step queue unless they exist.
CREATE OR REPLACE FUNCTION tasker.ensure_namespace(namespace text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF namespace IS NULL OR namespace !~ '^[a-z][a-z0-9_]{0,32}$' THEN
        RAISE EXCEPTION 'namespace % is not a name', coalesce(quote_literal(namespace), 'null')
            USING ERRCODE = 'TK001', COLUMN = 'namespace',
                  HINT = 'use at most 33 of a-z, 0-9 and _, beginning with a letter';
    END IF;
    IF namespace IN ('orchestration', 'task_requests', 'task_finalization') OR namespace ~ '^(celery|pgmq)_' THEN
        RAISE EXCEPTION 'namespace % is reserved', quote_literal(namespace)
            USING ERRCODE = 'TK001', COLUMN = 'namespace', HINT = 'choose another name: it belongs to the engine''s own queues';
    END IF;
    INSERT INTO tasker.namespaces (name) VALUES (namespace) ON CONFLICT DO NOTHING;
    PERFORM tasker.queue_ensure(namespace || '_queue');
END
$$;
