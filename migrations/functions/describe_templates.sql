-- What an executor must know of workflow versions, by named_task_id. Read once per process and version.
CREATE OR REPLACE FUNCTION tasker.describe_templates(named_task_ids integer[]) RETURNS json
LANGUAGE sql STABLE
AS $$
SELECT coalesce(json_object_agg(t.named_task_id, json_build_object(
    'namespace', t.namespace, 'name', t.name, 'version', t.version, 'input_schema', t.input_schema,
    'document', t.definition->'document',
    'steps', (SELECT json_agg(json_build_object(
                  'position', s.position, 'name', s.name, 'kind', s.kind, 'namespace', s.namespace, 'handler', s.handler,
                  'delegated', s.delegated, 'depends_on', s.depends_on, 'retryable', s.retryable,
                  'max_attempts', s.max_attempts, 'timeout_seconds', s.timeout_seconds,
                  'system_dependency', s.system_dependency, 'result_schema', s.result_schema,
                  'publishes_events', s.publishes_events, 'expected_ms', s.expected_ms) ORDER BY s.position)
              FROM tasker.named_steps AS s WHERE s.named_task_id = t.named_task_id))), '{}')
FROM tasker.named_tasks AS t
WHERE t.named_task_id = ANY (named_task_ids)
$$;
