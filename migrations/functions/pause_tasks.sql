-- Pauses tasks: what runs may finish, nothing starts. Steps that become ready meanwhile are enqueued without a message;
-- messages and due timers of a paused task are dropped by whoever pops them. request: {task_uuids[], by, reason}.
-- Returns {tasks: [{task_uuid, changed, state}], queues[], notify[]}.
CREATE OR REPLACE FUNCTION tasker.pause_tasks(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id uuid;
    t record;
    told jsonb[] := ARRAY[]::jsonb[];
BEGIN
    PERFORM tasker.assert_read_committed('pause_tasks');
    FOR id IN SELECT DISTINCT tasker.to_uuid(u.id, 'task_uuids') FROM jsonb_array_elements_text(request->'task_uuids') AS u(id) ORDER BY 1 LOOP
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = id FOR NO KEY UPDATE;
        SELECT x.state, x.finish_no INTO t FROM tasker.tasks AS x WHERE x.task_uuid = id;
        IF t.state IS NULL OR t.state NOT IN ('pending', 'in_progress') THEN
            told := told || jsonb_build_object('task_uuid', id, 'changed', false, 'state', t.state);
            CONTINUE;
        END IF;
        UPDATE tasker.tasks AS x SET state = 'paused', claimed_by = NULL, claimed_at = NULL, claim_expires_at = NULL
        WHERE x.task_uuid = id;
        -- Parked steps give up their places: one that is woken while it may not go would use up the turn of those behind it.
        DELETE FROM tasker.step_timers AS w WHERE w.task_uuid = id AND w.kind IN ('circuit', 'limit');
        INSERT INTO tasker.task_transitions (task_uuid, from_state, to_state, finish_no, actor, reason)
        VALUES (id, t.state, 'paused', t.finish_no, request->>'by', request->>'reason');
        told := told || jsonb_build_object('task_uuid', id, 'changed', true, 'state', 'paused');
    END LOOP;
    RETURN jsonb_build_object('tasks', to_jsonb(told), 'queues', '[]'::jsonb, 'notify', '[]'::jsonb);
END
$$;
