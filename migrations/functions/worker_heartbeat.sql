-- Says that a Celery worker lives, and what it is: hostname, pid, pool, concurrency, queues; as a host of executors also
-- executor_slots, most_slots, scaling and drained (see the table). Answers what it must know: the
-- namespaces there are, some of which may be new.
CREATE OR REPLACE FUNCTION tasker.worker_heartbeat(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF request->>'hostname' IS NULL OR request->>'pid' IS NULL OR request->>'pool' IS NULL THEN
        RAISE EXCEPTION 'a worker needs hostname, pid and pool'
            USING ERRCODE = 'TK001', COLUMN = CASE WHEN request->>'hostname' IS NULL THEN 'hostname'
                                                   WHEN request->>'pid' IS NULL THEN 'pid' ELSE 'pool' END;
    END IF;
    INSERT INTO tasker.workers AS w (hostname, pid, pool, concurrency, queues, executor_slots, most_slots, scaling, drained)
    VALUES (request->>'hostname', (request->>'pid')::integer, request->>'pool',
            coalesce((request->>'concurrency')::integer, 0),
            ARRAY(SELECT jsonb_array_elements_text(coalesce(request->'queues', '[]'))),
            coalesce((request->>'executor_slots')::integer, 0), coalesce((request->>'most_slots')::integer, 0),
            coalesce(request->>'scaling', 'fixed'), coalesce((request->>'drained')::boolean, false))
    ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE
    SET started_at = CASE WHEN w.pid = excluded.pid THEN w.started_at ELSE excluded.started_at END,
        pid = excluded.pid, pool = excluded.pool, concurrency = excluded.concurrency, queues = excluded.queues,
        heartbeat_at = excluded.heartbeat_at, executor_slots = excluded.executor_slots, most_slots = excluded.most_slots,
        scaling = excluded.scaling, drained = excluded.drained;
    RETURN jsonb_build_object('namespaces',
        (SELECT coalesce(jsonb_agg(n.name ORDER BY n.name), '[]') FROM tasker.namespaces AS n));
END
$$;
