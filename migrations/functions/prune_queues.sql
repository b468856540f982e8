-- What prune_archives and prune_events share: goes from queue to queue, and removes from each what is too old. Internal.
-- queues: all there are; prefix and queue make the table; removal: the statement with %1$I for it, $1 for the moment before
-- which a message is too old, and $2 for how many may go. request and answer: as theirs.
CREATE OR REPLACE FUNCTION tasker.prune_queues(request jsonb, queues text[], prefix text, removal text) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
    keep constant double precision := (request->>'keep_seconds')::double precision;
    most constant integer := least(greatest(coalesce((request->>'limit')::integer, 1000), 1), 10000);
    look constant integer := least(greatest(coalesce((request->>'look')::integer, 50), 1), 10000);
    due timestamptz;
    queue text;
    looked integer := 0;
    n integer;
    went integer := 0;
    behind text := request->>'after';
BEGIN
    IF keep IS NULL OR keep < 0 THEN
        RAISE EXCEPTION 'keep_seconds must be a number of seconds, 0 or more' USING ERRCODE = 'TK001', COLUMN = 'keep_seconds';
    END IF;
    due := clock_timestamp() - make_interval(secs => least(keep, 1e10));
    FOR queue IN SELECT q FROM unnest(queues) AS q WHERE behind IS NULL OR q > behind ORDER BY q LIMIT look LOOP
        EXECUTE format(removal, prefix || queue) USING due, most - went;
        GET DIAGNOSTICS n = ROW_COUNT;
        went := went + n;
        -- One that is not done is looked at again.
        EXIT WHEN went >= most;
        looked := looked + 1; behind := queue;
    END LOOP;
    RETURN jsonb_build_object('messages', went, 'last', behind, 'is_end', went < most AND looked < look);
END
$$;
