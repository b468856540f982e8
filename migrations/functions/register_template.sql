-- Stores a version of a workflow. The same digest again is a no-op; a different one replaces a version that no task has
-- used yet, and is an error (TK003) under a used one. Steps come in topological order and name what they depend on, so
-- the graph is acyclic by construction, here as in every other language that calls this.
--
-- definition: namespace, name, version, digest, document, identity_strategy, input_schema, has_after_work,
-- max_context_bytes, lifecycle, domain_events[] {name, condition, delivery, …}, steps[] {name, kind, namespace, handler, delegated, depends_on[], retryable, max_attempts, backoff,
-- backoff_base_ms, backoff_max_ms, backoff_multiplier, jitter_fraction, timeout_seconds, system_dependency, result_schema,
-- lifecycle, publishes_events[]}. What a step's lifecycle leaves out it has from the task's, but for max_duration_minutes, which is the task's own.
-- Returns {named_task_id, is_new, replaced}.
CREATE OR REPLACE FUNCTION tasker.register_template(definition jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    d record;
    known record;
    id integer;
    was_new boolean := true;
    problem record;
    places jsonb;
    lifecycle_of_task jsonb;
    lifecycles jsonb[];
    events_of_task jsonb;
    events jsonb[];
BEGIN
    IF jsonb_typeof(definition) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'a definition is a JSON object' USING ERRCODE = 'TK001', COLUMN = 'definition';
    END IF;
    IF tasker.json_is_deep(definition) THEN
        RAISE EXCEPTION 'the definition is nested deeper than 200 levels' USING ERRCODE = 'TK001', COLUMN = 'definition';
    END IF;
    SELECT * INTO d FROM jsonb_to_record(definition) AS x(
        namespace text, name text, version text, digest text, identity_strategy text, input_schema jsonb,
        has_after_work boolean, max_context_bytes integer, lifecycle jsonb, domain_events jsonb, steps jsonb);
    IF d.name IS NULL OR d.version IS NULL OR d.digest IS NULL OR jsonb_typeof(d.steps) IS DISTINCT FROM 'array'
       OR jsonb_array_length(d.steps) = 0 THEN
        RAISE EXCEPTION 'a definition needs namespace, name, version, digest and at least one step'
            USING ERRCODE = 'TK001', COLUMN = 'definition';
    END IF;

    PERFORM tasker.ensure_namespace(n.namespace)
    FROM (SELECT d.namespace AS namespace
          UNION
          SELECT coalesce(s->>'namespace', d.namespace) FROM jsonb_array_elements(d.steps) AS s ORDER BY 1) AS n;

    SELECT jsonb_object_agg(s.step->>'name', s.no) FILTER (WHERE s.step->>'name' IS NOT NULL) INTO places
    FROM jsonb_array_elements(d.steps) WITH ORDINALITY AS s(step, no);
    SELECT s.no - 1 AS step_no, s.step->>'name' AS name, missing.name AS missing INTO problem
    FROM jsonb_array_elements(d.steps) WITH ORDINALITY AS s(step, no)
    LEFT JOIN LATERAL (
        SELECT p.name FROM jsonb_array_elements_text(coalesce(nullif(s.step->'depends_on', 'null'), '[]')) AS p(name)
        WHERE coalesce((places->>p.name)::bigint, s.no) >= s.no LIMIT 1) AS missing ON true
    WHERE s.step->>'name' IS NULL OR missing.name IS NOT NULL
    ORDER BY s.no LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%', CASE WHEN problem.name IS NULL THEN format('steps[%s] has no name', problem.step_no)
            ELSE format('step %L depends on %L, which is no earlier step', problem.name, problem.missing) END
            USING ERRCODE = 'TK001', COLUMN = format('steps[%s]', problem.step_no),
                  HINT = 'list the steps in an order in which each comes after all that it depends on';
    END IF;

    lifecycle_of_task := tasker.checked_lifecycle(d.lifecycle, NULL, 'lifecycle');
    SELECT array_agg(tasker.checked_lifecycle(s.step->'lifecycle', lifecycle_of_task - 'max_duration_minutes',
                                              format('steps[%s].lifecycle', s.no - 1)) ORDER BY s.no)
    INTO lifecycles FROM jsonb_array_elements(d.steps) WITH ORDINALITY AS s(step, no);
    -- With the shortest limit of all: a younger task need not be looked at.
    SELECT coalesce(lifecycle_of_task, '{}') || jsonb_build_object('earliest_minutes', min(e.value::text::integer)) INTO lifecycle_of_task
    FROM unnest(lifecycles || lifecycle_of_task) AS l(lifecycle) CROSS JOIN jsonb_each(l.lifecycle) AS e
    WHERE starts_with(e.key, 'max_') HAVING count(*) > 0;

    events_of_task := tasker.checked_events(d.domain_events, 'domain_events');
    SELECT array_agg(tasker.checked_events(s.step->'publishes_events', format('steps[%s].publishes_events', s.no - 1)) ORDER BY s.no)
    INTO events FROM jsonb_array_elements(d.steps) WITH ORDINALITY AS s(step, no);
    IF EXISTS (SELECT FROM unnest(events || events_of_task) AS l(listed) CROSS JOIN jsonb_array_elements(l.listed) AS e
               WHERE coalesce(e->>'delivery', 'durable') <> 'fast') THEN
        PERFORM tasker.queue_ensure(d.namespace || '_domain_events');
    END IF;
    -- They are sent by whoever finalizes the task.
    d.has_after_work := coalesce(d.has_after_work, false) OR events_of_task IS NOT NULL;

    INSERT INTO tasker.named_tasks (namespace, name, version, digest, definition, identity_strategy, input_schema,
                                    has_after_work, max_context_bytes, lifecycle, step_count)
    VALUES (d.namespace, d.name, d.version, d.digest, definition, d.identity_strategy, nullif(d.input_schema, 'null'),
            d.has_after_work, coalesce(d.max_context_bytes, 1048576), lifecycle_of_task, jsonb_array_length(d.steps))
    ON CONFLICT ON CONSTRAINT named_tasks_namespace_name_version_key DO NOTHING
    RETURNING named_task_id INTO id;

    IF id IS NULL THEN
        was_new := false;
        SELECT n.named_task_id, n.digest, n.used INTO known FROM tasker.named_tasks AS n
        WHERE n.namespace = d.namespace AND n.name = d.name AND n.version = d.version FOR UPDATE;
        IF known.digest = d.digest THEN
            RETURN jsonb_build_object('named_task_id', known.named_task_id, 'is_new', false, 'replaced', false);
        END IF;
        IF known.used THEN
            RAISE EXCEPTION 'a different definition of %/% is registered as version %, and tasks use it',
                d.namespace, d.name, d.version
                USING ERRCODE = 'TK003', COLUMN = 'version', HINT = 'raise the version: a version in use never changes';
        END IF;
        id := known.named_task_id;
        UPDATE tasker.named_tasks AS n
        SET digest = d.digest, definition = register_template.definition, identity_strategy = d.identity_strategy,
            input_schema = nullif(d.input_schema, 'null'), has_after_work = d.has_after_work,
            max_context_bytes = coalesce(d.max_context_bytes, 1048576), lifecycle = lifecycle_of_task, step_count = jsonb_array_length(d.steps)
        WHERE n.named_task_id = id;
        DELETE FROM tasker.named_steps AS n WHERE n.named_task_id = id;
    END IF;

    WITH listed AS (
        SELECT (s.no - 1)::integer AS step_position, s.step
        FROM jsonb_array_elements(d.steps) WITH ORDINALITY AS s(step, no)
    ), edges AS (
        SELECT DISTINCT l.step_position AS child, (places->>needed.name)::integer - 1 AS parent
        FROM listed AS l
        CROSS JOIN jsonb_array_elements_text(coalesce(nullif(l.step->'depends_on', 'null'), '[]')) AS needed(name)
    ), ups AS (
        SELECT e.child, array_agg(e.parent ORDER BY e.parent) AS parents FROM edges AS e GROUP BY e.child
    ), downs AS (
        SELECT e.parent, array_agg(e.child ORDER BY e.child) AS children FROM edges AS e GROUP BY e.parent
    )
    INSERT INTO tasker.named_steps (
        named_task_id, position, name, kind, namespace, handler, delegated, depends_on, dependents, retryable,
        max_attempts, backoff, backoff_base_ms, backoff_max_ms, backoff_multiplier, jitter_fraction, timeout_seconds,
        system_dependency, result_schema, lifecycle, publishes_events, expected_ms)
    SELECT id, l.step_position, l.step->>'name', coalesce(l.step->>'kind', 'standard'),
           coalesce(l.step->>'namespace', d.namespace), coalesce(l.step->'handler', '{}'),
           coalesce((l.step->>'delegated')::boolean, false),
           coalesce(ups.parents, '{}'), coalesce(downs.children, '{}'),
           coalesce((l.step->>'retryable')::boolean, true), greatest(coalesce((l.step->>'max_attempts')::integer, 3), 1),
           coalesce(l.step->>'backoff', 'exponential'), coalesce((l.step->>'backoff_base_ms')::bigint, 1000),
           coalesce((l.step->>'backoff_max_ms')::bigint, 60000),
           coalesce((l.step->>'backoff_multiplier')::double precision, 2),
           coalesce((l.step->>'jitter_fraction')::double precision, 0), (l.step->>'timeout_seconds')::double precision,
           l.step->>'system_dependency', nullif(l.step->'result_schema', 'null'),
           lifecycles[l.step_position + 1], events[l.step_position + 1], known_step.expected_ms
    FROM listed AS l
    LEFT JOIN ups ON ups.child = l.step_position
    LEFT JOIN downs ON downs.parent = l.step_position
    -- The same step of the highest other version takes as long, until it is known better: what is unknown is claimed alone.
    LEFT JOIN tasker.named_steps AS known_step
           ON known_step.name = l.step->>'name' AND known_step.handler = coalesce(l.step->'handler', '{}')
          AND known_step.named_task_id = (SELECT n.named_task_id FROM tasker.named_tasks AS n
                                          WHERE n.namespace = d.namespace AND n.name = d.name AND n.named_task_id <> id
                                          ORDER BY n.version_order DESC LIMIT 1);

    -- definition.concurrency: {path[] (of the key in the context), max_steps, rate_count, rate_seconds}.
    UPDATE tasker.named_tasks AS n
    SET concurrency_path = CASE WHEN jsonb_typeof(c.spec->'path') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(c.spec->'path')) END,
        key_max_concurrency = (c.spec->>'max_steps')::integer, key_rate_count = (c.spec->>'rate_count')::integer,
        key_rate_seconds = (c.spec->>'rate_seconds')::double precision
    FROM (SELECT definition->'concurrency' AS spec) AS c
    WHERE n.named_task_id = id AND (jsonb_typeof(c.spec) = 'object' OR n.concurrency_path IS NOT NULL);

    RETURN jsonb_build_object('named_task_id', id, 'is_new', was_new, 'replaced', NOT was_new);
EXCEPTION
    WHEN check_violation OR unique_violation OR not_null_violation OR data_exception THEN
        RAISE EXCEPTION 'the definition is not valid: %', sqlerrm
            USING ERRCODE = 'TK001', COLUMN = 'definition', HINT = 'see the reference of the template format';
END
$$;
