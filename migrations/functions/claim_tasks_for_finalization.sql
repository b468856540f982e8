-- The batch form: reads messages of task_finalization (invisible for as long as the claim lasts) and claims their tasks,
-- skipping those that are locked. A message goes only when there is nothing left to do for it; that of a task that another
-- holds stays, in case the holder dies.
-- request: {processor, limit, timeout_seconds}. Returns {claims: [{task_uuid, claim_no, finish_no, state, msg_id,
-- named_task_id, namespace, name, version}], read}.
CREATE OR REPLACE FUNCTION tasker.claim_tasks_for_finalization(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    own constant text := 'task_finalization';
    lasting constant integer := greatest(coalesce((request->>'timeout_seconds')::integer, 30), 1);
    message record;
    claim record;
    claims jsonb[] := ARRAY[]::jsonb[];
    over bigint[] := ARRAY[]::bigint[];
    later bigint[] := ARRAY[]::bigint[];
    n integer := 0;
    about record;
BEGIN
    PERFORM tasker.assert_read_committed('claim_tasks_for_finalization');
    FOR message IN
        SELECT q.msg_id, q.message AS body, tasker.is_uuid(q.message->>'task_uuid') AS is_good
        FROM tasker.queue_read(own, lasting, least(greatest(coalesce((request->>'limit')::integer, 10), 1), 200)) AS q
        ORDER BY q.message->>'task_uuid'
    LOOP
        n := n + 1;
        IF NOT message.is_good THEN
            PERFORM tasker.bury_messages(ARRAY[own], ARRAY[message.msg_id], ARRAY[message.body], 'not_a_finalization_message');
            CONTINUE;
        END IF;
        PERFORM FROM tasker.tasks AS x WHERE x.task_uuid = (message.body->>'task_uuid')::uuid FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT FROM tasker.tasks AS x WHERE x.task_uuid = (message.body->>'task_uuid')::uuid) THEN
            later := later || message.msg_id;
            CONTINUE;
        END IF;
        IF EXISTS (SELECT FROM unnest(claims) AS c WHERE (c->>'task_uuid')::uuid = (message.body->>'task_uuid')::uuid) THEN
            -- Sent twice: the first message guards the claim, and its hooks run once.
            over := over || message.msg_id;
            CONTINUE;
        END IF;
        SELECT * INTO claim FROM tasker.claim_task_for_finalization(
            (message.body->>'task_uuid')::uuid, request->>'processor', lasting);
        IF claim.claimed THEN
            SELECT d.named_task_id, d.namespace, d.name, d.version INTO about
            FROM tasker.tasks AS t JOIN tasker.named_tasks AS d ON d.named_task_id = t.named_task_id
            WHERE t.task_uuid = (message.body->>'task_uuid')::uuid;
            claims := claims || jsonb_build_object(
                'task_uuid', message.body->>'task_uuid', 'claim_no', claim.claim_no, 'finish_no', claim.finish_no,
                'state', claim.task_state, 'msg_id', message.msg_id, 'named_task_id', about.named_task_id,
                'namespace', about.namespace, 'name', about.name, 'version', about.version);
        ELSIF claim.reason <> 'already_claimed' THEN
            over := over || message.msg_id;
        END IF;
    END LOOP;
    PERFORM tasker.queue_remove(own, over);
    PERFORM tasker.queue_show_again(own, later, 0.5);
    RETURN jsonb_build_object('claims', to_jsonb(claims), 'read', n);
END
$$;
