-- Removes finished tasks whose time is over, the oldest first: the task with its context, steps, timers, identity and dead
-- letters. Its history stays until its partitions are dropped.
--
-- request: keep_seconds (a task goes when it has been final for longer), limit (tasks), max_steps (their steps, about),
--          look (tasks looked at), after (go on behind this task; none: from the oldest on)
-- answer:  tasks and steps (how many went), passed (due, but held by somebody, or their parent is there), looked, last ("after"
--          of the next call), is_end (nothing is behind it), first_kept (the oldest task seen that stays)
--
-- Uuids begin with the time of creation, so the primary key is walked, up to what was created keep_seconds ago. Old tasks
-- that stay (open, paused for months, reopened) are looked at in passing: that is why a call is bounded by "look" too, and
-- why callers keep "last". Of what somebody holds nothing is waited for: SKIP LOCKED, and the next walk sees it again.
--
-- A child stays while its parent is there: a parent that goes on may ask for it. Uuids of children are younger than their
-- parent's, so one walk takes both. A parent does not wait for its children.
--
-- Order of locks: tasks in uuid order, then all that is theirs; whoever holds a step never waits for a task.
CREATE OR REPLACE FUNCTION tasker.prune_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    keep constant double precision := (request->>'keep_seconds')::double precision;
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 500), 1), 10000);
    most_steps constant integer := greatest(coalesce((request->>'max_steps')::integer, 5000), 1);
    look constant integer := least(greatest(coalesce((request->>'look')::integer, 10000), 1), 1000000);
    from_here constant uuid := coalesce(tasker.to_uuid(request->>'after', 'after'), '00000000-0000-0000-0000-000000000000');
    due timestamptz;
    youngest uuid;
    t record;
    looked integer := 0;
    n_steps integer := 0;
    last uuid;
    is_full boolean := false;
    first_kept uuid;
    candidates uuid[] := ARRAY[]::uuid[];
    locked record;
    going uuid[];
BEGIN
    IF keep IS NULL OR keep < 0 THEN
        RAISE EXCEPTION 'keep_seconds must be a number of seconds, 0 or more' USING ERRCODE = 'TK001', COLUMN = 'keep_seconds';
    END IF;
    PERFORM tasker.assert_read_committed('prune_tasks');
    due := clock_timestamp() - make_interval(secs => least(keep, 1e10));
    youngest := (lpad(to_hex(greatest(extract(epoch FROM due) * 1000 + 1, 0)::bigint), 12, '0') || repeat('0', 20))::uuid;

    FOR t IN
        SELECT x.task_uuid, x.finalized_at, x.total FROM tasker.tasks AS x
        WHERE x.task_uuid > from_here AND x.task_uuid < youngest ORDER BY x.task_uuid LIMIT look
    LOOP
        looked := looked + 1; last := t.task_uuid;
        IF t.finalized_at < due THEN
            candidates := candidates || t.task_uuid; n_steps := n_steps + t.total;
            is_full := cardinality(candidates) >= most OR n_steps >= most_steps;
            EXIT WHEN is_full;
        ELSIF first_kept IS NULL THEN
            first_kept := t.task_uuid;
        END IF;
    END LOOP;

    -- What was reopened meanwhile no longer fits, what is held is passed by.
    SELECT coalesce(array_agg(k.task_uuid ORDER BY k.no), '{}') AS ids, array_agg(k.parent_task_uuid ORDER BY k.no) AS parents,
           count(k.parent_task_uuid) AS children
    INTO locked
    FROM (SELECT c.id, c.no FROM unnest(candidates) WITH ORDINALITY AS c(id, no) ORDER BY c.no OFFSET 0) AS o
    CROSS JOIN LATERAL (SELECT x.task_uuid, x.parent_task_uuid, o.no FROM tasker.tasks AS x
                        WHERE x.task_uuid = o.id AND x.finalized_at < due FOR UPDATE SKIP LOCKED) AS k;
    going := locked.ids;
    IF locked.children > 0 THEN
        going := '{}';
        FOR i IN 1 .. cardinality(locked.ids) LOOP
            IF locked.parents[i] IS NULL OR locked.parents[i] = ANY (going)
               OR NOT EXISTS (SELECT FROM tasker.tasks AS p WHERE p.task_uuid = locked.parents[i]) THEN
                going := going || locked.ids[i];
            END IF;
        END LOOP;
    END IF;
    IF cardinality(going) < cardinality(candidates) THEN
        SELECT least(first_kept, c.id) INTO first_kept
        FROM (SELECT u.id FROM unnest(candidates) AS u(id) EXCEPT SELECT g.id FROM unnest(going) AS g(id)) AS c
        ORDER BY c.id LIMIT 1;
    END IF;

    n_steps := 0;
    IF cardinality(going) > 0 THEN
        -- Not joined with the uuids: a plan made while a table is small would walk the whole of it for them, for good.
        DELETE FROM tasker.workflow_steps AS x WHERE x.task_uuid = ANY (going);
        GET DIAGNOSTICS n_steps = ROW_COUNT;
        DELETE FROM tasker.step_timers AS x WHERE x.task_uuid = ANY (going);
        DELETE FROM tasker.limit_holders AS x WHERE x.task_uuid = ANY (going);
        DELETE FROM tasker.dead_letters AS x WHERE x.task_uuid = ANY (going);
        DELETE FROM tasker.task_identities AS x WHERE x.task_uuid = ANY (going);
        DELETE FROM tasker.task_contexts AS x WHERE x.task_uuid = ANY (going);
        DELETE FROM tasker.tasks AS x WHERE x.task_uuid = ANY (going);
    END IF;
    RETURN jsonb_build_object(
        'tasks', cardinality(going), 'steps', n_steps, 'passed', cardinality(candidates) - cardinality(going), 'looked', looked,
        'last', last, 'is_end', NOT is_full AND looked < look, 'first_kept', first_kept);
END
$$;
