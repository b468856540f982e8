CREATE OR REPLACE FUNCTION tasker.celery_unbind(p_exchange text, p_routing_key text, p_queue text)
RETURNS void
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM tasker.celery_bindings AS b
     WHERE b.exchange = p_exchange AND b.queue = p_queue AND b.routing_key = p_routing_key
$$;

COMMENT ON FUNCTION tasker.celery_unbind(text, text, text) IS 'Takes one binding back.';
