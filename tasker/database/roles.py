"""Who may do what: three NOLOGIN roles, granted to the logins of programs, workers and people.

PUBLIC has nothing. Without the right to create roles nothing is lost: the owner of the schema may do everything.
"""

from __future__ import annotations

from typing import Any

import psycopg

ROLES = ("tasker_client", "tasker_worker", "tasker_operator")

_CLIENT = (
    "add_waiter",
    "calculate_dependency_levels",
    "cancel_tasks",
    "change_schedule",
    "create_task",
    "create_tasks",
    "explain_task",
    "get_analytics_metrics",
    "get_metrics",
    "get_slowest_steps",
    "get_slowest_tasks",
    "get_step_readiness_status",
    "get_step_readiness_statuses",
    "get_system_health_counts",
    "get_task_execution_context",
    "get_task_execution_contexts",
    "notify",
    "now",
    "pool_measures",
    "read_events",
    "remove_waiter",
    "set_schedule",
    "settle_events",
    "step_uuid",
    "uuid7",
)
_WORKER = (
    "act_on_stuck_tasks",
    "archived_queues",
    "ask_circuit",
    "begin_tick",
    "claim_ready_tasks",
    "claim_steps",
    "claim_task_for_finalization",
    "claim_tasks_for_finalization",
    "collect_metrics",
    "complete_steps",
    "deregister_executor",
    "deregister_worker",
    "enqueue_deferred_steps",
    "enqueue_ready_steps",
    "ensure_namespace",
    "extend_finalization_claim",
    "extend_task_claim",
    "finalize_task",
    "fire_schedule",
    "get_parent_results",
    "heartbeat",
    "judge_executors",
    "judge_operational_state",
    "mark_steps_started",
    "measure_admission",
    "pool_count",
    "postpone_schedule",
    "process_step_results",
    "process_task_requests",
    "prune_archives",
    "prune_events",
    "prune_history",
    "prune_registrations",
    "prune_tasks",
    "queue_ensure",
    "queue_read",
    "queue_send",
    "queue_show_again",
    "record_scaling",
    "record_retention",
    "record_tick",
    "recover_lost_steps",
    "register_executor",
    "register_template",
    "reject_tasks",
    "release_finalization_claim",
    "release_steps",
    "release_task_claim",
    "report_circuit",
    "resend_finalizations",
    "set_executor_idle",
    "request_executor_stop",
    "tend_parked",
    "worker_heartbeat",
)
_OPERATOR = (
    "archived_queues",
    "allowed_step_transitions",
    "allowed_task_transitions",
    "ensure_namespace",
    "is_step_enqueue_message",
    "is_step_message",
    "pause_namespaces",
    "dismiss_dead_letters",
    "pause_tasks",
    "prune_archives",
    "prune_events",
    "prune_history",
    "prune_tasks",
    "queue_ensure",
    "register_template",
    "request_executor_stop",
    "reset_step",
    "resolve_step",
    "resolve_task",
    "resume_tasks",
    "set_operational_state",
    "retry_dead_letters",
    "retry_task",
    "set_circuit",
    "resolve_dead_letter",
    "set_namespace",
)

GRANTED_FUNCTIONS = {
    "tasker_client": _CLIENT,
    "tasker_worker": (*_CLIENT, *_WORKER),
    "tasker_operator": (*_CLIENT, *_OPERATOR),
}
"""Functions of schema ``tasker`` that each role may call. All may call those of the Celery transport (``celery_*``);
the others are internal to the functions."""


def roles_sql() -> str:
    """Statements that make the roles, where this login may, and set all rights."""
    granted = ",\n            ".join(
        f"('{role}', ARRAY[{', '.join(repr(name) for name in names)}])" for role, names in GRANTED_FUNCTIONS.items()
    )
    return rf"""
DO $roles$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[{", ".join(repr(role) for role in ROLES)}] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % is not made: this login may not create roles', wanted;
                WHEN duplicate_object OR unique_violation THEN
                    NULL;  -- another database of this server was migrated at the same moment
            END;
        END IF;
    END LOOP;
END
$roles$;

REVOKE ALL ON SCHEMA tasker FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tasker FROM PUBLIC;

DO $grants$
DECLARE
    granted record;
    callable regprocedure;
    readable regclass;
BEGIN
    FOR granted IN
        SELECT r.rolname AS role, w.names
          FROM (VALUES
            {granted}
          ) AS w (role, names)
          JOIN pg_roles r ON r.rolname = w.role
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA tasker, pgmq TO %I', granted.role);
        -- Partitions need no rights of their own: they are read through their table.
        FOR readable IN
            SELECT oid FROM pg_class
             WHERE relnamespace = 'tasker'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition
        LOOP
            EXECUTE format('GRANT SELECT ON %s TO %I', readable, granted.role);
        END LOOP;
        FOR callable IN
            SELECT oid FROM pg_proc
             WHERE pronamespace = 'tasker'::regnamespace
               AND (proname = ANY (granted.names) OR proname LIKE 'celery\_%')
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', callable, granted.role);
        END LOOP;
        IF granted.role = 'tasker_client' THEN
            IF to_regclass('pgmq.q_task_requests_queue') IS NOT NULL THEN
                EXECUTE format('GRANT INSERT, SELECT (msg_id) ON pgmq.q_task_requests_queue TO %I', granted.role);
                EXECUTE format('GRANT SELECT ON pgmq.meta TO %I', granted.role);
            END IF;
        ELSE
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgmq TO %I', granted.role);
            EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA pgmq'
                           ' GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', granted.role);
        END IF;
    END LOOP;
END
$grants$;
"""


def ensure_roles(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Make the roles and set their rights, inside the caller's transaction; the roles that exist afterwards."""
    connection.execute(roles_sql().encode())
    return existing_roles(connection)


def existing_roles(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Those of Tasker's roles that the server has."""
    rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) ORDER BY rolname", (list(ROLES),))
    return tuple(name for (name,) in rows.fetchall())
