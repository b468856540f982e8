"""For each rule about the schema the ways to break it, and it alone."""

from __future__ import annotations

from tests.integration.verification.corruption import DROP_HELD, by

CORRUPTIONS = {
    "workflow-steps": [
        by(
            "a workflow says that it has one step more",
            "UPDATE tasker.named_tasks SET step_count = step_count + 1 WHERE namespace = 'complete'",
        ),
    ],
    "workflow-edges": [
        by(
            "a step of a workflow forgets who depends on it",
            "UPDATE tasker.named_steps AS n SET dependents = '{{}}' FROM tasker.named_tasks AS d"
            " WHERE d.named_task_id = n.named_task_id AND d.namespace = 'scheduled' AND n.position = 0",
        ),
    ],
    "queue-exists": [
        by(
            "a namespace has no queue",
            "INSERT INTO tasker.namespaces (name) VALUES ('nowhere')",
        ),
        by("a queue of the engine is dropped", "SELECT pgmq.drop_queue('orchestration_step_results')"),
    ],
    "partitions-cover-time": [
        by(
            "the partition of the day after tomorrow is detached",
            """DO $$ BEGIN EXECUTE format('ALTER TABLE tasker.task_transitions DETACH PARTITION tasker.%I',
               'task_transitions_p' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 2, 'YYYYMMDD'));
           END $$""",
        ),
        by(
            "the partition without an end is detached",
            """DO $$ BEGIN EXECUTE format('ALTER TABLE tasker.finalization_attempts DETACH PARTITION tasker.%I',
                   'finalization_attempts_p' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 14, 'YYYYMMDD'));
               END $$""",
        ),
    ],
    "indexes-in-place": [
        by("an index is dropped", "DROP INDEX tasker.tasks_due"),
    ],
    "constraints-in-force": [
        by(
            "a constraint is not valid",
            "ALTER TABLE tasker.tasks ADD CONSTRAINT odd CHECK (total > 0) NOT VALID",
        ),
    ],
    "transitions-are-held": [
        by("the constraint on transitions is dropped", DROP_HELD % "task_transitions"),
    ],
    "functions-as-shipped": [
        by(
            "a function is replaced",
            "CREATE OR REPLACE FUNCTION"
            " tasker.has_no_timer(task_uuid uuid, step_position integer, step_map_index integer)"
            " RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'",
        ),
        by("a view is dropped", "DROP VIEW tasker.workflow_step_edges"),
    ],
    "public-has-nothing": [
        by("everybody may read tasks", "GRANT SELECT ON tasker.tasks TO PUBLIC"),
    ],
}
