"""SQL that is refused: what is called, and the error."""

from __future__ import annotations

from dataclasses import dataclass

from tests.integration.bad_input.shop import NOBODY


@dataclass(frozen=True)
class BadSql:
    """A statement that is refused.

    Attributes:
        case: the mistake, in words.
        statement: the statement; ``TASK`` stands for the uuid of a task that runs.
        sqlstate: of the error.
        says: its message, and after it its hint, where it has one.
    """

    case: str
    statement: str
    sqlstate: str
    says: str


_WRITE_IT = "(write it like 01932c07-4d8a-7c3e-9f10-2b5d6e7f8a00)"
_MEND_IT = "(nothing was created; mend the request)"

BAD_SQL: list[BadSql] = [
    BadSql(
        "a context that is a list",
        "SELECT tasker.create_task('shop', 'order', '[1]')",
        "TK001",
        f"request 0: context must be an object, not array {_MEND_IT}",
    ),
    BadSql(
        "a context nested too deep",
        "SELECT tasker.create_task('shop', 'order', (repeat('{\"a\":', 300) || '1' || repeat('}', 300))::jsonb)",
        "TK001",
        f"request 0: context is nested deeper than 200 levels {_MEND_IT}",
    ),
    BadSql(
        "a time that never comes",
        "SELECT tasker.create_task('shop', 'order', run_at => 'infinity')",
        "TK001",
        f"request 0: run_at must be a time that comes {_MEND_IT}",
    ),
    BadSql(
        "a workflow that is not registered",
        "SELECT tasker.create_task('shop', 'odrer')",
        "TK002",
        "request 0: no workflow shop/odrer is registered (register it first (tasker template register FILE), or look "
        "what is there (tasker template list))",
    ),
    BadSql(
        "a task that is no UUID",
        """SELECT tasker.cancel_tasks('{"task_uuids": ["one"]}')""",
        "TK001",
        f"task_uuids: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a task that is no UUID",
        """SELECT tasker.retry_task('{"task_uuid": "one"}')""",
        "TK001",
        f"task_uuid: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a step that is no UUID",
        """SELECT tasker.reset_step('{"task_uuid": "TASK", "step_uuid": "one"}')""",
        "TK001",
        f"step_uuid: 'one' is no UUID {_WRITE_IT}",
    ),
    BadSql(
        "a position that is no number",
        """SELECT tasker.reset_step('{"task_uuid": "TASK", "position": "first"}')""",
        "TK004",
        "task TASK has no step first (name it by step (its name), position or step_uuid)",
    ),
    BadSql(
        "a task that does not exist",
        f"SELECT tasker.explain_task('{NOBODY}')",
        "TK004",
        f"there is no task {NOBODY} (was it committed, and is it not pruned?)",
    ),
    BadSql(
        "an executor that never registered",
        f"""SELECT tasker.claim_steps('{{"executor": "{NOBODY}", "call_no": 1, "queues": ["shop_queue"]}}')""",
        "TK006",
        f"executor {NOBODY} is not registered (register anew under a new uuid; the steps it held are given to others)",
    ),
    BadSql(
        "an executor of no kind",
        f"""SELECT tasker.register_executor('{{"executor": "{NOBODY}", "kind": "cook", "worker": "w"}}')""",
        "TK001",
        'the executor cannot be registered: new row for relation "executors" violates check constraint '
        '"executors_kind_check" (it needs executor (a uuid), kind, worker and queues)',
    ),
    BadSql(
        "a namespace that is no name",
        "SELECT tasker.ensure_namespace('My Shop')",
        "TK001",
        "namespace 'My Shop' is not a name (use at most 33 of a-z, 0-9 and _, beginning with a letter)",
    ),
]
