-- One task, for those who write SQL: SELECT tasker.create_task('shop', 'process_order', '{"order_id": 42}').
CREATE OR REPLACE FUNCTION tasker.create_task(
    namespace text, name text, context jsonb DEFAULT '{}', version text DEFAULT NULL, identity_key text DEFAULT NULL,
    priority integer DEFAULT 0, run_at timestamptz DEFAULT NULL, tags text[] DEFAULT '{}', correlation_id text DEFAULT NULL,
    requested_by text DEFAULT NULL, source_system text DEFAULT NULL, reason text DEFAULT NULL) RETURNS uuid
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT (tasker.create_tasks(ARRAY[jsonb_build_object(
    'namespace', namespace, 'name', name, 'version', version, 'context', context, 'identity_key', identity_key,
    'priority', priority, 'run_at', run_at, 'tags', to_jsonb(tags), 'correlation_id', correlation_id,
    'requested_by', requested_by, 'source_system', source_system, 'reason', reason)])->0->>'task_uuid')::uuid
$$;
