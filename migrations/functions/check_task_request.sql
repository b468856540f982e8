-- What is wrong with the form of a request to create a task: a field and a message, or no row.
CREATE OR REPLACE FUNCTION tasker.check_task_request(request jsonb, OUT field text, OUT message text) RETURNS record
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    known constant text[] := ARRAY['namespace', 'name', 'version', 'context', 'identity_key', 'identity_strategy', 'priority',
        'run_at', 'tags', 'correlation_id', 'requested_by', 'source_system', 'reason', 'parent_task_uuid', 'context_checked'];
    entry record;
    kind text;
BEGIN
    IF jsonb_typeof(request) IS DISTINCT FROM 'object' THEN
        message := 'a request is a JSON object';
        RETURN;
    END IF;
    FOR entry IN SELECT e.key, e.value FROM jsonb_each(request) AS e LOOP
        kind := jsonb_typeof(entry.value);
        field := entry.key;
        IF entry.key <> ALL (known) THEN
            message := format('is an unknown field; known are %s', array_to_string(known, ', '));
        ELSIF kind = 'null' THEN
            CONTINUE;
        ELSIF entry.key = 'context' THEN
            message := CASE WHEN kind <> 'object' THEN 'must be an object, not ' || kind
                            WHEN tasker.json_is_deep(entry.value) THEN 'is nested deeper than 200 levels' END;
        ELSIF entry.key = 'priority' THEN
            message := CASE WHEN kind <> 'number' OR entry.value::text !~ '^-?[0-9]{1,9}$'
                            THEN 'must be a whole number of at most 9 digits' END;
        ELSIF entry.key = 'context_checked' THEN
            message := CASE WHEN kind <> 'boolean' THEN 'must be true or false' END;
        ELSIF entry.key = 'tags' THEN
            message := CASE WHEN kind <> 'array' OR jsonb_array_length(entry.value) > 100
                              OR EXISTS (SELECT FROM jsonb_array_elements(CASE kind WHEN 'array' THEN entry.value ELSE '[]' END) AS t
                                         WHERE jsonb_typeof(t) <> 'string' OR length(t #>> '{}') > 1024)
                            THEN 'must be an array of at most 100 strings, each of at most 1024 characters' END;
        ELSIF kind <> 'string' THEN
            message := 'must be a string, not ' || kind;
        ELSIF length(entry.value #>> '{}') > 1024 THEN
            message := 'must have at most 1024 characters';
        ELSIF entry.key = 'identity_key' AND entry.value = '""' THEN
            message := 'must not be empty';
        ELSIF entry.key = 'identity_strategy'
              AND entry.value #>> '{}' NOT IN ('strict', 'caller_provided', 'always_unique') THEN
            message := 'must be strict, caller_provided or always_unique';
        ELSIF entry.key IN ('run_at', 'parent_task_uuid') THEN
            BEGIN
                IF entry.key = 'run_at' THEN
                    message := CASE WHEN NOT isfinite((entry.value #>> '{}')::timestamptz) THEN 'must be a time that comes' END;
                ELSE
                    PERFORM (entry.value #>> '{}')::uuid;
                END IF;
            EXCEPTION WHEN data_exception THEN
                message := CASE entry.key WHEN 'run_at' THEN 'is no time; write it like 2026-01-31T12:00:00Z' ELSE 'is no UUID' END;
            END;
        END IF;
        EXIT WHEN message IS NOT NULL;
    END LOOP;
    IF message IS NULL THEN
        field := CASE WHEN nullif(request->'namespace', 'null') IS NULL THEN 'namespace'
                      WHEN nullif(request->'name', 'null') IS NULL THEN 'name' END;
        message := CASE WHEN field IS NOT NULL THEN 'is missing' END;
    END IF;
END
$$;
