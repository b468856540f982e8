-- Tasker's own queues that have an archive (of PGMQ's plain kind): of workflows, orchestration, events and Celery.
CREATE OR REPLACE FUNCTION tasker.archived_queues() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
SELECT m.queue_name::text
FROM pgmq.meta AS m
WHERE NOT m.is_partitioned AND to_regclass(format('pgmq.%I', 'a_' || m.queue_name)) IS NOT NULL
  AND (m.queue_name IN ('task_requests_queue', 'orchestration_step_results', 'step_enqueue', 'task_finalization')
       OR EXISTS (SELECT FROM tasker.celery_queues AS c WHERE c.pgmq_queue = m.queue_name)
       OR EXISTS (SELECT FROM tasker.namespaces AS n
                  WHERE m.queue_name IN (n.queue, n.queue || '_high', n.queue || '_low', n.name || '_domain_events')))
$$;
