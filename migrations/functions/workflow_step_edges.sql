-- The graph of every task, an edge a row, for those who look for it. Edges are stored once per version, as arrays.
CREATE OR REPLACE VIEW tasker.workflow_step_edges AS
SELECT t.task_uuid, p.position AS from_position, p.name AS from_step,
       tasker.step_uuid(t.task_uuid, p.position, 0) AS from_step_uuid,
       c.position AS to_position, c.name AS to_step, tasker.step_uuid(t.task_uuid, c.position, 0) AS to_step_uuid
FROM tasker.tasks AS t
JOIN tasker.named_steps AS p ON p.named_task_id = t.named_task_id
CROSS JOIN unnest(p.dependents) AS e(child)
JOIN tasker.named_steps AS c ON c.named_task_id = t.named_task_id AND c.position = e.child;
