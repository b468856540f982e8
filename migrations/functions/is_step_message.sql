-- Whether a message on a step queue can be understood. Checked before any cast, so that no message can fail a claim.
CREATE OR REPLACE FUNCTION tasker.is_step_message(message jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
SELECT coalesce(message->>'task_uuid' ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
            AND message->>'position' ~ '^[0-9]{1,5}$'
            AND coalesce(message->>'map_index', '0') ~ '^[0-9]{1,8}$', false)
$$;
