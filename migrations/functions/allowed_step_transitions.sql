-- Every transition a step may make, and why. The one place: the CHECK on the audit table and the picture in the
-- documentation are made from it.
CREATE OR REPLACE FUNCTION tasker.allowed_step_transitions()
RETURNS TABLE (from_state text, to_state text, meaning text)
LANGUAGE sql IMMUTABLE
AS $$
VALUES
    ('pending',           'enqueued',          'its dependencies are satisfied: a message is on its queue'),
    ('pending',           'in_progress',       'local continuation: the executor that satisfied it runs it'),
    ('pending',           'cancelled',         'the task was cancelled'),
    ('pending',           'resolved_manually', 'an operator supplied its result'),
    ('pending',           'skipped',           'its branch was not chosen'),
    ('enqueued',          'in_progress',       'claimed by an executor'),
    ('enqueued',          'cancelled',         'the task was cancelled'),
    ('enqueued',          'error',             'its workflow''s lifecycle gave it up'),
    ('enqueued',          'resolved_manually', 'an operator supplied its result'),
    ('in_progress',       'complete',          'its handler returned'),
    ('in_progress',       'waiting_for_retry', 'an attempt failed and another may follow'),
    ('in_progress',       'error',             'it failed for good, or its workflow''s lifecycle gave it up'),
    ('in_progress',       'enqueued',          'released, or recovered from a lost executor'),
    ('in_progress',       'cancelled',         'the task was cancelled under it'),
    ('in_progress',       'resolved_manually', 'an operator supplied its result'),
    ('waiting_for_retry', 'in_progress',       'its timer is due and an executor claimed it'),
    ('waiting_for_retry', 'enqueued',          'an operator reset it'),
    ('waiting_for_retry', 'cancelled',         'the task was cancelled'),
    ('waiting_for_retry', 'error',             'its workflow''s lifecycle gave it up'),
    ('waiting_for_retry', 'resolved_manually', 'an operator supplied its result'),
    ('error',             'enqueued',          'an operator retried or reset it'),
    ('error',             'resolved_manually', 'an operator supplied its result')
$$;
