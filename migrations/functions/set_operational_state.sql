-- Says what the whole system is doing, as a person who knows; ticks and workers say it by judge_operational_state.
-- request: state, by, reason. Moves: startup -> normal -> graceful_shutdown -> stopped -> startup; a shutdown that is called
-- off, and an emergency that is over, begin anew with startup; emergency from all but stopped. To the state that is already:
-- nothing changes. Any other move is refused (TK005). Returns {from, state, changed}.
CREATE OR REPLACE FUNCTION tasker.set_operational_state(request jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted constant text := request->>'state';
    now_is text;
    allowed text[];
BEGIN
    IF wanted IS NULL OR wanted NOT IN ('startup', 'normal', 'graceful_shutdown', 'emergency', 'stopped') THEN
        RAISE EXCEPTION 'state must be startup, normal, graceful_shutdown, emergency or stopped'
            USING ERRCODE = 'TK001', COLUMN = 'state';
    END IF;
    IF coalesce(request->>'by', '') = '' THEN
        RAISE EXCEPTION 'who says so must be named' USING ERRCODE = 'TK001', COLUMN = 'by';
    END IF;
    SELECT o.state INTO now_is FROM tasker.operational_state AS o FOR NO KEY UPDATE;
    IF now_is = wanted THEN
        RETURN jsonb_build_object('from', now_is, 'state', now_is, 'changed', false);
    END IF;
    allowed := CASE now_is WHEN 'startup' THEN ARRAY['normal', 'graceful_shutdown', 'emergency']
                           WHEN 'normal' THEN ARRAY['graceful_shutdown', 'emergency']
                           WHEN 'graceful_shutdown' THEN ARRAY['stopped', 'startup', 'emergency']
                           WHEN 'emergency' THEN ARRAY['startup', 'graceful_shutdown', 'stopped']
                           ELSE ARRAY['startup'] END;
    IF wanted <> ALL (allowed) THEN
        RAISE EXCEPTION 'the system is in %, which does not become %', now_is, wanted
            USING ERRCODE = 'TK005', COLUMN = 'state', HINT = format('it may become %s', array_to_string(allowed, ', '));
    END IF;
    PERFORM tasker.change_operational_state(now_is, wanted, request->>'by', request->>'reason');
    RETURN jsonb_build_object('from', now_is, 'state', wanted, 'changed', true);
END
$$;
