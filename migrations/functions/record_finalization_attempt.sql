-- One row for every attempt at a finalization claim: the metrics' raw numbers. Internal.
CREATE OR REPLACE FUNCTION tasker.record_finalization_attempt(
    task_uuid uuid, processor text, action text, outcome text, claim_no integer, finish_no integer, began timestamptz,
    held_since timestamptz) RETURNS uuid
LANGUAGE sql
AS $$
INSERT INTO tasker.finalization_attempts
    (finalization_attempt_uuid, task_uuid, processor, action, outcome, claim_no, finish_no, duration_ms, held_ms)
VALUES (tasker.uuid7(), record_finalization_attempt.task_uuid, processor, action, outcome, claim_no, finish_no,
        greatest(extract(epoch FROM clock_timestamp() - began) * 1000, 0), extract(epoch FROM tasker.now() - held_since) * 1000)
RETURNING finalization_attempt_uuid
$$;
