-- Moves the operational state, with its history. The caller has locked the row. Internal.
CREATE OR REPLACE FUNCTION tasker.change_operational_state(from_state text, to_state text, actor text, reason text) RETURNS void
LANGUAGE sql
AS $$
INSERT INTO tasker.operational_state_transitions (from_state, to_state, reason, actor)
VALUES (change_operational_state.from_state, change_operational_state.to_state, change_operational_state.reason,
        change_operational_state.actor);
UPDATE tasker.operational_state AS o
SET state = change_operational_state.to_state, reason = change_operational_state.reason,
    changed_by = change_operational_state.actor, changed_at = clock_timestamp()
$$;
