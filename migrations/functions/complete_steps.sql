-- Records the outcomes of a batch and hands back newly ready steps, already claimed for the same executor. One transaction.
--
-- request: executor, call_no, queues[], outcomes[], finished[] (receipts), known_templates[], continue_limit, budget_ms,
--          wait (block on busy tasks instead of answering "busy"; one task per call, with a lock_timeout), max_claim_bytes
-- answer:  the keys of claim_steps for continued steps; outcomes[] {step_uuid, fence, answer, reason, state} in order;
--          finished_tasks[]; queues[] and notify[]: whom to wake after the commit; circuits{} as claim_steps has them
CREATE OR REPLACE FUNCTION tasker.complete_steps(request jsonb) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    me constant uuid := (request->>'executor')::uuid;
    this_call constant bigint := (request->>'call_no')::bigint;
    stop boolean;
    settled record;
    held record;
    claimed record;
    circuits jsonb := jsonb '{}';
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM tasker.assert_read_committed('complete_steps');
    END IF;
    stop := tasker.check_executor(me, this_call);
    settled := tasker.settle_outcomes(
        nullif(request->'outcomes', 'null'), coalesce((request->>'wait')::boolean, false), me, this_call,
        ARRAY(SELECT jsonb_array_elements_text(nullif(request->'queues', 'null'))),
        CASE WHEN stop THEN 0 ELSE coalesce((request->>'continue_limit')::integer, 0) END,
        coalesce((request->>'budget_ms')::double precision, 50));
    IF request->'finished' <> '[]' THEN
        PERFORM tasker.delete_finished_receipts(me, tasker.whole_numbers(request->'finished'));
    END IF;
    IF cardinality(settled.next_tasks) = 0 THEN
        -- A repeat finds its outcomes recorded, and here the steps that the original continued.
        held := tasker.held_by_receipt(me, this_call);
        settled.next_tasks := held.task_uuids; settled.next_positions := held.positions; settled.next_maps := held.map_indexes;
    END IF;
    claimed := tasker.describe_claims(
        settled.next_tasks, settled.next_positions, settled.next_maps,
        tasker.whole_numbers(request->'known_templates')::integer[], coalesce((request->>'max_claim_bytes')::bigint, 8388608));
    IF EXISTS (SELECT FROM tasker.circuit_breakers AS c WHERE c.state <> 'closed' OR c.failures > 0) THEN
        circuits := tasker.describe_circuits();
    END IF;
    RETURN json_build_object(
        'steps', claimed.steps, 'tasks', claimed.tasks, 'results', claimed.results, 'templates', claimed.templates,
        'call_no', this_call, 'stop_requested', stop, 'circuits', circuits, 'outcomes', settled.answers, 'finished_tasks', settled.finished,
        'queues', CASE WHEN cardinality(settled.queues) = 0 THEN '{}' ELSE tasker.queues_with_idle_consumer(settled.queues) END,
        'notify', CASE WHEN settled.finished = '[]' THEN '{}' ELSE tasker.waiting_channels() END);
END
$$;
