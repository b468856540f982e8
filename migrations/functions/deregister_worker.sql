-- Forgets a Celery worker that ended, unless another process has taken its hostname meanwhile.
CREATE OR REPLACE FUNCTION tasker.deregister_worker(hostname text, pid integer) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DELETE FROM tasker.workers AS w WHERE w.hostname = deregister_worker.hostname AND w.pid = deregister_worker.pid
$$;
