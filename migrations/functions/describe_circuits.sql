-- The circuits that are worth knowing: those that are not closed, and those that have failures. Internal.
CREATE OR REPLACE FUNCTION tasker.describe_circuits() RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN coalesce((SELECT jsonb_object_agg(c.name, tasker.describe_circuit(c.name)) FROM tasker.circuit_breakers AS c
                     WHERE c.state <> 'closed' OR c.failures > 0), '{}');
END
$$;
