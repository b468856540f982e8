-- Creates the tasks that messages on task_requests_queue ask for, buries those that were rejected, and deletes both kinds
-- of messages: one transaction. The caller has read them with a visibility timeout and checked their contexts.
-- request: {messages: [{msg_id, request} | {msg_id, rejected: {reason, message}} | {msg_id, again_seconds: the namespace takes
-- no more tasks at present; the message shows again then, and was not read}]}. Returns {created[], rejected, queues[]}.
CREATE OR REPLACE FUNCTION tasker.process_task_requests(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    requests jsonb[];
    ids bigint[];
    rejected jsonb;
    created jsonb := '[]'::jsonb;
    n_rejected integer := 0;
BEGIN
    SELECT array_agg(m.entry->'request' ORDER BY m.no) FILTER (WHERE m.entry ? 'request'),
           array_agg((m.entry->>'msg_id')::bigint ORDER BY m.no) FILTER (WHERE m.entry ? 'request'),
           jsonb_agg(m.entry) FILTER (WHERE m.entry ? 'rejected')
    INTO requests, ids, rejected
    FROM jsonb_array_elements(request->'messages') WITH ORDINALITY AS m(entry, no);
    IF requests IS NOT NULL THEN
        created := tasker.create_tasks(requests);
        PERFORM tasker.queue_remove('task_requests_queue', ids);
    END IF;
    PERFORM tasker.queue_show_again('task_requests_queue', l.ids, l.seconds, true)
    FROM (SELECT array_agg((e.entry->>'msg_id')::bigint) AS ids, (e.entry->>'again_seconds')::double precision AS seconds
          FROM jsonb_array_elements(request->'messages') AS e(entry) WHERE e.entry ? 'again_seconds' GROUP BY 2) AS l;
    IF rejected IS NOT NULL THEN
        n_rejected := tasker.reject_messages('task_requests_queue', rejected);
    END IF;
    RETURN jsonb_build_object('created', created, 'rejected', n_rejected, 'queues', '[]'::jsonb);
END
$$;
