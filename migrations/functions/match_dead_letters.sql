-- Finds one batch of open dead letters for an operator's action, the oldest first. Internal; nothing is locked yet.
-- request: ids[], or filter {kind, namespace, workflow, version, step, reason, queue, task_uuid, created_after, created_before}
-- (all of them must hold; {} is every open letter), after (the last id of the batch before), until (the last id that counts:
-- letters that the action itself brings about must not be found by its next batch), limit.
-- Returns the ids, where the next batch begins (null: there is none), and until.
CREATE OR REPLACE FUNCTION tasker.match_dead_letters(
    request jsonb, only_kind text, OUT ids bigint[], OUT next_after bigint, OUT until bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    f constant jsonb := request->'filter';
    known constant text[] := ARRAY['kind', 'namespace', 'workflow', 'version', 'step', 'reason', 'queue', 'task_uuid', 'created_after', 'created_before'];
    most integer;
    beyond bigint;
    of_task constant uuid := tasker.to_uuid(f->>'task_uuid', 'filter.task_uuid');
    strange text;
    earliest timestamptz;
    latest timestamptz;
BEGIN
    most := least(greatest(coalesce((request->>'limit')::integer, 100), 1), 1000);
    beyond := coalesce((request->>'after')::bigint, 0);
    IF jsonb_typeof(request->'ids') = 'array' AND jsonb_typeof(f) IS DISTINCT FROM 'object' THEN
        SELECT array_agg(x.id) INTO ids
        FROM (SELECT DISTINCT u.id::bigint AS id FROM jsonb_array_elements_text(request->'ids') AS u(id)
              WHERE u.id::bigint > beyond ORDER BY 1 LIMIT most) AS x;
    ELSIF jsonb_typeof(f) = 'object' AND jsonb_typeof(request->'ids') IS DISTINCT FROM 'array' THEN
        -- A misspelt condition would let the action reach further than was meant.
        SELECT k.name INTO strange FROM jsonb_object_keys(f) AS k(name) WHERE k.name <> ALL (known) ORDER BY 1 LIMIT 1;
        IF strange IS NOT NULL THEN
            RAISE EXCEPTION 'dead letters are not told apart by %', quote_literal(strange)
                USING ERRCODE = 'TK001', COLUMN = 'filter', HINT = 'conditions are ' || array_to_string(known, ', ');
        END IF;
        -- Nor does null mean any: it is what a variable of the caller's holds that was never set.
        SELECT c.name INTO strange FROM jsonb_each(f) AS c(name, value) WHERE c.value = 'null' ORDER BY 1 LIMIT 1;
        IF strange IS NOT NULL THEN
            RAISE EXCEPTION 'the condition % is null', quote_literal(strange)
                USING ERRCODE = 'TK001', COLUMN = 'filter', HINT = 'leave out what does not matter; the filter {} means every open one';
        END IF;
        earliest := (f->>'created_after')::timestamptz;
        latest := (f->>'created_before')::timestamptz;
        until := coalesce((request->>'until')::bigint, (SELECT max(x.id) FROM tasker.dead_letters AS x), 0);
        SELECT array_agg(d.id ORDER BY d.id) INTO ids
        FROM (SELECT x.id FROM tasker.dead_letters AS x
              WHERE x.resolved_at IS NULL AND x.id > beyond AND x.id <= until
                AND (only_kind IS NULL OR x.kind = only_kind)
                AND (f->>'kind' IS NULL OR x.kind = f->>'kind')
                AND (f->>'namespace' IS NULL OR coalesce(x.snapshot->>'namespace', x.snapshot #>> '{message,namespace}') = f->>'namespace'
                     OR x.kind = 'message' AND x.queue IN ((f->>'namespace') || '_queue', (f->>'namespace') || '_queue_high', (f->>'namespace') || '_queue_low'))
                AND (f->>'workflow' IS NULL OR coalesce(x.snapshot->>'task', x.snapshot #>> '{message,name}') = f->>'workflow')
                AND (f->>'version' IS NULL OR coalesce(x.snapshot->>'version', x.snapshot #>> '{message,version}') = f->>'version')
                AND (f->>'step' IS NULL OR x.snapshot->>'step' = f->>'step')
                AND (f->>'reason' IS NULL OR x.reason = f->>'reason')
                AND (f->>'queue' IS NULL OR x.queue = f->>'queue')
                AND (of_task IS NULL OR x.task_uuid = of_task)
                AND (earliest IS NULL OR x.created_at >= earliest)
                AND (latest IS NULL OR x.created_at < latest)
              ORDER BY x.id LIMIT most) AS d;
    ELSE
        RAISE EXCEPTION 'which dead letters is to be said by ids, or by a filter'
            USING ERRCODE = 'TK001', COLUMN = 'ids', HINT = 'one of the two; the filter {} means every open one';
    END IF;
    ids := coalesce(ids, '{}');
    next_after := CASE WHEN cardinality(ids) = most THEN ids[most] END;
EXCEPTION
    WHEN data_exception THEN
        RAISE EXCEPTION 'dead letters cannot be looked for like this: %', sqlerrm
            USING ERRCODE = 'TK001', COLUMN = CASE WHEN f IS NULL THEN 'ids' ELSE 'filter' END,
                  HINT = 'ids are whole numbers, times are ISO 8601';
END
$$;
