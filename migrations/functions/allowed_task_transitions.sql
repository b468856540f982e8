-- Every transition a task may make, and why; 'new' stands for a task that is being created. The one place: the CHECK on
-- the audit table and the picture in the documentation are made from it.
CREATE OR REPLACE FUNCTION tasker.allowed_task_transitions()
RETURNS TABLE (from_state text, to_state text, meaning text)
LANGUAGE sql IMMUTABLE
AS $$
VALUES
    ('new',         'pending',           'created; waits for its time, or for a check of its context'),
    ('new',         'in_progress',       'created and admitted at once'),
    ('pending',     'in_progress',       'admitted'),
    ('pending',     'paused',            'an operator paused it before it was admitted'),
    ('pending',     'cancelled',         'an operator cancelled it'),
    ('pending',     'error',             'its context does not fit the input schema'),
    ('pending',     'complete',          'admitted with nothing left to run'),
    ('pending',     'resolved_manually', 'an operator closed it'),
    ('in_progress', 'complete',          'every step is satisfied'),
    ('in_progress', 'error',             'a step failed for good and nothing can run'),
    ('in_progress', 'paused',            'an operator paused it'),
    ('in_progress', 'cancelled',         'an operator cancelled it'),
    ('in_progress', 'resolved_manually', 'an operator closed it'),
    ('paused',      'in_progress',       'an operator resumed it'),
    ('paused',      'pending',           'an operator resumed it; it was never admitted'),
    ('paused',      'complete',          'its running steps were its last ones'),
    ('paused',      'error',             'its running steps were its last ones, and one failed'),
    ('paused',      'cancelled',         'an operator cancelled it'),
    ('paused',      'resolved_manually', 'an operator closed it'),
    ('error',       'in_progress',       'an operator retried it, or settled the step that failed'),
    ('error',       'pending',           'an operator retried it; it was never admitted'),
    ('error',       'complete',          'an operator settled the last step that failed'),
    ('error',       'resolved_manually', 'an operator closed it')
$$;
