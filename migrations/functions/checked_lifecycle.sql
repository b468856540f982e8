-- The "lifecycle" of a task or a step as it is stored: without nulls, over what it inherits; null if nothing is left. An
-- error (TK001) that names the field where it cannot mean what it says. Internal, of register_template.
CREATE OR REPLACE FUNCTION tasker.checked_lifecycle(value jsonb, inherited jsonb, field text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    problem record;
BEGIN
    IF coalesce(value, 'null') <> 'null' AND jsonb_typeof(value) <> 'object' THEN
        RAISE EXCEPTION '%: must be an object', field USING ERRCODE = 'TK001', COLUMN = field;
    END IF;
    SELECT e.key, CASE
        WHEN e.key IN ('max_duration_minutes', 'max_waiting_for_dependencies_minutes', 'max_waiting_for_retry_minutes',
                       'max_steps_in_process_minutes')
            THEN CASE WHEN e.value::text !~ '^[1-9][0-9]{0,5}$' OR e.value::text::integer > 525600 THEN 'must be a whole number of minutes from 1 to 525600' END
        WHEN e.key = 'staleness_action'
            THEN CASE WHEN e.value NOT IN ('"dlq"', '"error"', '"manual_review"') THEN 'must be dlq, error or manual_review' END
        WHEN e.key IN ('auto_fail_on_timeout', 'auto_dlq_on_timeout')
            THEN CASE WHEN jsonb_typeof(e.value) <> 'boolean' THEN 'must be true or false' END
        ELSE 'is unknown' END AS message
    INTO problem
    FROM jsonb_each(CASE WHEN jsonb_typeof(value) = 'object' THEN jsonb_strip_nulls(value) ELSE '{}' END) AS e
    ORDER BY message NULLS LAST LIMIT 1;
    IF problem.message IS NOT NULL THEN
        RAISE EXCEPTION '%.%: %', field, problem.key, problem.message USING ERRCODE = 'TK001', COLUMN = field || '.' || problem.key;
    END IF;
    RETURN nullif(coalesce(inherited, '{}') || CASE WHEN jsonb_typeof(value) = 'object' THEN jsonb_strip_nulls(value) ELSE '{}' END, '{}');
END
$$;
