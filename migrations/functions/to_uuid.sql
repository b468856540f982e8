-- The UUID that a text of a request stands for, null for null; an error that names the field where PostgreSQL's own would not.
CREATE OR REPLACE FUNCTION tasker.to_uuid(value text, field text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF value IS NULL OR tasker.is_uuid(value) THEN
        RETURN value::uuid;
    END IF;
    RAISE EXCEPTION '%: % is no UUID', field, quote_literal(left(value, 100))
        USING ERRCODE = 'TK001', COLUMN = field, HINT = 'write it like 01932c07-4d8a-7c3e-9f10-2b5d6e7f8a00';
END
$$;
