-- Whether a message on step_enqueue can be understood.
CREATE OR REPLACE FUNCTION tasker.is_step_enqueue_message(message jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT coalesce(message->>'task_uuid' ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
            AND message->>'position' ~ '^(-1|[0-9]{1,5})$' AND message->>'from_index' ~ '^[0-9]{1,6}$', false)
$$;
