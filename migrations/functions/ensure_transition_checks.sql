-- Holds the audit tables to the allowed transitions, by CHECK constraints with the list written out: a function call in a
-- CHECK would be planned anew for every insert. Called by the migration after the functions are in place; does nothing
-- when the constraints are up to date. NOT VALID: old rows obeyed the list of their time.
CREATE OR REPLACE FUNCTION tasker.ensure_transition_checks() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted record;
    signature text;
BEGIN
    FOR wanted IN
        SELECT 'task_transitions' AS audit_table, 'coalesce(from_state, ''new'')' AS source,
               array_agg(a.from_state || '>' || a.to_state ORDER BY a.from_state, a.to_state) AS pairs
        FROM tasker.allowed_task_transitions() AS a
        UNION ALL
        SELECT 'workflow_step_transitions', 'from_state',
               array_agg(a.from_state || '>' || a.to_state ORDER BY a.from_state, a.to_state)
        FROM tasker.allowed_step_transitions() AS a
    LOOP
        signature := md5(wanted.pairs::text);
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_constraint AS c
            WHERE c.conrelid = format('tasker.%I', wanted.audit_table)::regclass
              AND c.conname = 'allowed_transition' AND obj_description(c.oid, 'pg_constraint') = signature);
        EXECUTE format('ALTER TABLE tasker.%I DROP CONSTRAINT IF EXISTS allowed_transition', wanted.audit_table);
        EXECUTE format('ALTER TABLE tasker.%I ADD CONSTRAINT allowed_transition CHECK ((%s || ''>'' || to_state) = ANY (%L::text[])) NOT VALID',
                       wanted.audit_table, wanted.source, wanted.pairs);
        EXECUTE format('COMMENT ON CONSTRAINT allowed_transition ON tasker.%I IS %L', wanted.audit_table, signature);
    END LOOP;
END
$$;
