-- Creates tasks, set-based: all of them or none. Works at any isolation level and inside the caller's transaction.
--
-- request: namespace, name, version (none: the highest), context, identity_key, identity_strategy, priority, run_at, tags,
-- correlation_id, requested_by, source_system, reason, parent_task_uuid, context_checked (the client has checked the
-- context against the input schema; otherwise, where there is a schema, the task stays pending until TaskClaimer has).
-- Returns, in the order of the requests, {task_uuid, is_new, same_context, state}.
--
-- In a namespace with too much to do (tasker.measure_admission) new tasks wait as "pending", or, beyond its hard limit, are
-- refused (TK012, with the seconds after which to try again as detail).
--
-- Identities are inserted in hash order, so that two callers with the same keys cannot deadlock; the second one waits for
-- the first to commit (and then gets its task) or to roll back (and then creates its own). A task that is there already may
-- be pruned at any moment: what is answered about it is read together with its identity, and an identity that goes between
-- the insert and that look is inserted once more.
CREATE OR REPLACE FUNCTION tasker.create_tasks(requests jsonb[]) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    problem record;
    ids integer[];
    uuids uuid[];
    now_uuids uuid[];
    hashes bytea[];
    fresh boolean[];
    there_states text[];
    there_same boolean[];
    is_complete boolean;
    admitted boolean[];
    queues text[];
    moment constant timestamptz := clock_timestamp();
    -- Nobody measures any more: what was measured last says nothing.
    stale constant interval := interval '60 seconds';
    bands record;
    answer jsonb;
BEGIN
    IF coalesce(cardinality(requests), 0) = 0 THEN
        RETURN '[]'::jsonb;
    END IF;
    SELECT r.no - 1 AS request_no, p.field, p.message INTO problem
    FROM unnest(requests) WITH ORDINALITY AS r(request, no)
    CROSS JOIN LATERAL tasker.check_task_request(r.request) AS p
    WHERE p.message IS NOT NULL ORDER BY r.no LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request %: % %', problem.request_no, coalesce(problem.field, ''), problem.message
            USING ERRCODE = 'TK001', COLUMN = coalesce(problem.field, 'request'), HINT = 'nothing was created; mend the request';
    END IF;

    SELECT array_agg(n.named_task_id ORDER BY r.no) INTO ids
    FROM unnest(requests) WITH ORDINALITY AS r(request, no)
    LEFT JOIN LATERAL (
        SELECT c.named_task_id FROM tasker.named_tasks AS c
        WHERE c.namespace = r.request->>'namespace' AND c.name = r.request->>'name'
          AND (r.request->>'version' IS NULL OR c.version = r.request->>'version')
        ORDER BY c.version_order DESC LIMIT 1) AS n ON true;
    IF array_position(ids, NULL) IS NOT NULL THEN
        SELECT r.no - 1 AS request_no, r.request->>'namespace' AS namespace, r.request->>'name' AS name,
               r.request->>'version' AS version INTO problem
        FROM unnest(requests, ids) WITH ORDINALITY AS r(request, id, no) WHERE r.id IS NULL ORDER BY r.no LIMIT 1;
        RAISE EXCEPTION 'request %: no workflow % is registered', problem.request_no,
            format('%s/%s', problem.namespace, problem.name) || coalesce(' of version ' || problem.version, '')
            USING ERRCODE = 'TK002', COLUMN = CASE WHEN problem.version IS NULL THEN 'name' ELSE 'version' END,
                  HINT = 'register it first (tasker template register FILE), or look what is there (tasker template list)';
    END IF;
    SELECT r.no - 1 AS request_no, n.namespace, s.admission_reason, s.admission_retry_seconds INTO problem
    FROM unnest(ids) WITH ORDINALITY AS r(id, no)
    JOIN tasker.named_tasks AS n ON n.named_task_id = r.id
    JOIN tasker.namespaces AS s ON s.name = n.namespace
    WHERE s.admission = 'hard' AND s.admission_at > clock_timestamp() - stale ORDER BY r.no LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request %: namespace % takes no more tasks at present: %', problem.request_no, problem.namespace,
            coalesce(problem.admission_reason, 'it has too much to do')
            USING ERRCODE = 'TK012', COLUMN = 'namespace', DETAIL = coalesce(problem.admission_retry_seconds, 5)::text,
                  HINT = format('nothing was created; try again in %s s', coalesce(problem.admission_retry_seconds, 5));
    END IF;
    -- From now on these versions are immutable: register_template holds the row while it replaces one.
    UPDATE tasker.named_tasks AS n SET used = true WHERE n.named_task_id = ANY (ids) AND NOT n.used;

    SELECT r.no - 1 AS request_no, p.sqlstate_, p.field, p.message INTO problem
    FROM unnest(requests, ids) WITH ORDINALITY AS r(request, id, no)
    JOIN tasker.named_tasks AS n ON n.named_task_id = r.id
    CROSS JOIN LATERAL (SELECT coalesce(r.request->>'identity_strategy', n.identity_strategy) AS strategy,
                               r.request->>'identity_key' AS key) AS i
    CROSS JOIN LATERAL (
        SELECT 'TK001' AS sqlstate_, 'identity_key' AS field, 'is needed: this workflow is caller_provided' AS message
        WHERE i.strategy = 'caller_provided' AND i.key IS NULL
        UNION ALL
        SELECT 'TK001', 'identity_key', format('has no meaning: this workflow is %s', i.strategy)
        WHERE i.strategy IN ('strict', 'always_unique') AND i.key IS NOT NULL
        UNION ALL
        SELECT 'TK001', 'parent_task_uuid', format('is %s, and there is no such task', r.request->>'parent_task_uuid')
        WHERE r.request->>'parent_task_uuid' IS NOT NULL
          AND NOT EXISTS (SELECT FROM tasker.tasks AS x WHERE x.task_uuid = (r.request->>'parent_task_uuid')::uuid)
        UNION ALL
        SELECT 'TK011', 'context', format('has %s bytes of JSON; %s are allowed',
                                          octet_length((r.request->'context')::text), n.max_context_bytes)
        WHERE pg_column_size(r.request->'context') > n.max_context_bytes / 2
          AND octet_length((r.request->'context')::text) > n.max_context_bytes) AS p
    ORDER BY r.no LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'request %: % %', problem.request_no, problem.field, problem.message
            USING ERRCODE = problem.sqlstate_, COLUMN = problem.field, HINT = 'nothing was created; mend the request';
    END IF;

    SELECT array_agg(tasker.uuid7() ORDER BY r.no),
           array_agg(CASE coalesce(r.request->>'identity_strategy', n.identity_strategy,
                                   CASE WHEN r.request->>'identity_key' IS NULL THEN 'always_unique' ELSE 'caller_provided' END)
               -- JSON arrays as the hashed text: no choice of names and keys can run into one another.
               WHEN 'caller_provided' THEN
                   sha256(convert_to(jsonb_build_array('key', n.namespace, n.name, r.request->>'identity_key')::text, 'UTF8'))
               WHEN 'strict' THEN
                   sha256(convert_to(jsonb_build_array('context', n.namespace, n.name, n.version,
                                                       coalesce(nullif(r.request->'context', 'null'), '{}'))::text, 'UTF8'))
               END ORDER BY r.no)
    INTO uuids, hashes
    FROM unnest(requests, ids) WITH ORDINALITY AS r(request, id, no)
    JOIN tasker.named_tasks AS n ON n.named_task_id = r.id;

    fresh := array_fill(true, ARRAY[cardinality(requests)]);
    there_states := array_fill(NULL::text, ARRAY[cardinality(requests)]);
    there_same := array_fill(NULL::boolean, ARRAY[cardinality(requests)]);
    IF EXISTS (SELECT FROM unnest(hashes) AS h WHERE h IS NOT NULL) THEN
        LOOP
            INSERT INTO tasker.task_identities (identity_hash, task_uuid)
            SELECT DISTINCT ON (i.hash) i.hash, i.task_uuid
            FROM unnest(hashes, uuids) WITH ORDINALITY AS i(hash, task_uuid, no)
            WHERE i.hash IS NOT NULL ORDER BY i.hash, i.no
            ON CONFLICT DO NOTHING;
            -- Under REPEATABLE READ an identity that was pruned since the snapshot is still seen beside our own: the latest counts.
            SELECT array_agg(coalesce(t.task_uuid, i.task_uuid) ORDER BY i.no),
                   array_agg(t.task_uuid IS NULL OR t.task_uuid = i.task_uuid ORDER BY i.no),
                   array_agg(t.state ORDER BY i.no), array_agg(t.is_same ORDER BY i.no),
                   bool_and(i.hash IS NULL OR t.task_uuid IS NOT NULL)
            INTO now_uuids, fresh, there_states, there_same, is_complete
            FROM unnest(hashes, uuids, requests) WITH ORDINALITY AS i(hash, task_uuid, request, no)
            LEFT JOIN LATERAL (
                SELECT x.task_uuid, y.state, c.context = coalesce(nullif(i.request->'context', 'null'), '{}') AS is_same
                FROM tasker.task_identities AS x
                LEFT JOIN tasker.tasks AS y ON x.task_uuid <> i.task_uuid AND y.task_uuid = x.task_uuid
                LEFT JOIN tasker.task_contexts AS c ON x.task_uuid <> i.task_uuid AND c.task_uuid = x.task_uuid
                WHERE x.identity_hash = i.hash ORDER BY x.task_uuid DESC LIMIT 1) AS t ON true;
            EXIT WHEN is_complete;
        END LOOP;
        uuids := now_uuids;
    END IF;

    SELECT array_agg(coalesce((r.request->>'run_at')::timestamptz <= tasker.now(), true)
                     AND (n.input_schema IS NULL OR coalesce((r.request->>'context_checked')::boolean, false))
                     AND (s.admission = 'open' OR s.admission_at <= clock_timestamp() - stale) ORDER BY r.no)
    INTO admitted
    FROM unnest(requests, ids) WITH ORDINALITY AS r(request, id, no)
    JOIN tasker.named_tasks AS n ON n.named_task_id = r.id
    JOIN tasker.namespaces AS s ON s.name = n.namespace;

    SELECT array_agg(DISTINCT s.namespace) AS namespaces, bool_or((r.request->>'priority')::integer > 0) AS high,
           bool_or((r.request->>'priority')::integer < 0) AS low
    INTO bands
    FROM unnest(requests, ids) AS r(request, id)
    JOIN tasker.named_steps AS s ON s.named_task_id = r.id
    WHERE (r.request->>'priority')::integer <> 0;
    IF bands.namespaces IS NOT NULL THEN
        PERFORM tasker.ensure_bands(bands.namespaces, bands.high, bands.low);
    END IF;

    INSERT INTO tasker.tasks (
        task_uuid, named_task_id, state, priority, total, active, context_checked, scheduled, created_at, run_at, admitted_at,
        parent_task_uuid, correlation_id, initiator, source_system, reason, tags, concurrency_key)
    SELECT r.task_uuid, r.id, CASE WHEN r.admitted THEN 'in_progress' ELSE 'pending' END,
           coalesce((r.request->>'priority')::integer, 0), n.step_count,
           CASE WHEN r.admitted THEN (SELECT count(*) FROM tasker.named_steps AS s
                                      WHERE s.named_task_id = r.id AND s.depends_on = '{}') ELSE 0 END,
           n.input_schema IS NULL OR coalesce((r.request->>'context_checked')::boolean, false),
           coalesce((r.request->>'run_at')::timestamptz > tasker.now(), false), moment,
           (r.request->>'run_at')::timestamptz, CASE WHEN r.admitted THEN moment END,
           (r.request->>'parent_task_uuid')::uuid, r.request->>'correlation_id', r.request->>'requested_by',
           r.request->>'source_system', r.request->>'reason',
           CASE WHEN jsonb_typeof(r.request->'tags') = 'array'
                THEN ARRAY(SELECT jsonb_array_elements_text(r.request->'tags')) ELSE '{}' END,
           -- Tasks whose context has no such value share one limit: leaving it out is no way around.
           CASE WHEN n.concurrency_path IS NOT NULL
                THEN (SELECT CASE WHEN length(k.key) <= 200 THEN k.key ELSE left(k.key, 160) || ' ' || md5(k.key) END
                      FROM (SELECT coalesce(r.request->'context' #>> n.concurrency_path, '') AS key) AS k) END
    FROM unnest(requests, ids, uuids, fresh, admitted) AS r(request, id, task_uuid, fresh, admitted)
    JOIN tasker.named_tasks AS n ON n.named_task_id = r.id
    WHERE r.fresh;

    INSERT INTO tasker.task_contexts (task_uuid, context)
    SELECT r.task_uuid, coalesce(nullif(r.request->'context', 'null'), '{}')
    FROM unnest(requests, uuids, fresh) AS r(request, task_uuid, fresh) WHERE r.fresh;

    INSERT INTO tasker.workflow_steps (task_uuid, position, step_uuid, state, unmet)
    SELECT r.task_uuid, s.position, tasker.step_uuid(r.task_uuid, s.position, 0),
           CASE WHEN r.admitted AND s.depends_on = '{}' THEN 'enqueued' ELSE 'pending' END, cardinality(s.depends_on)
    FROM unnest(ids, uuids, fresh, admitted) AS r(id, task_uuid, fresh, admitted)
    JOIN tasker.named_steps AS s ON s.named_task_id = r.id
    WHERE r.fresh;

    INSERT INTO tasker.task_transitions (task_uuid, to_state, finish_no, actor, reason)
    SELECT r.task_uuid, CASE WHEN r.admitted THEN 'in_progress' ELSE 'pending' END, 1, r.request->>'requested_by', 'created'
    FROM unnest(requests, uuids, fresh, admitted) AS r(request, task_uuid, fresh, admitted) WHERE r.fresh;

    queues := tasker.enqueue_roots(ARRAY(SELECT r.task_uuid FROM unnest(uuids, fresh, admitted) AS r(task_uuid, fresh, admitted)
                                         WHERE r.fresh AND r.admitted));
    IF EXISTS (SELECT FROM unnest(fresh, admitted) AS r(fresh, admitted) WHERE r.fresh AND NOT r.admitted) THEN
        queues := queues || 'admission'::text;
    END IF;
    -- Always, not only where somebody is idle: whether somebody will be, once the caller commits, nobody knows yet.
    PERFORM pg_notify('tasker_' || q, '') FROM unnest(queues) AS q;

    SELECT jsonb_agg(jsonb_build_object('task_uuid', r.task_uuid, 'is_new', r.fresh, 'state', coalesce(r.state, t.state),
               'same_context', r.fresh OR coalesce(r.is_same, c.context = coalesce(nullif(r.request->'context', 'null'), '{}'))) ORDER BY r.no)
    INTO answer
    FROM unnest(requests, uuids, fresh, there_states, there_same) WITH ORDINALITY AS r(request, task_uuid, fresh, state, is_same, no)
    LEFT JOIN tasker.tasks AS t ON r.state IS NULL AND t.task_uuid = r.task_uuid
    LEFT JOIN tasker.task_contexts AS c ON NOT r.fresh AND r.is_same IS NULL AND c.task_uuid = r.task_uuid;
    RETURN answer;
END
$$;
