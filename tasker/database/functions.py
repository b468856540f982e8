"""One thin typed wrapper per SQL function of the contract: it builds a ``Call``, which ``run`` or ``arun`` executes.

What a function does is written above it in ``migrations/functions``. Requests are JSON objects; their keys are in the
contract, and values that users gave are encoded strictly before they travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from tasker.database.calls import Call, Rows, aexecute, arun, execute, first_value, nothing, run
from tasker.encoding import decode, encode
from tasker.errors import ValueNotStorable

__all__ = ["Call", "aexecute", "arun", "execute", "run"]  # and the builders below

Request = Mapping[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class FinalizationClaim:
    """The answer to an attempt to claim a task for finalization.

    Attributes:
        claimed: whether the caller has the claim now.
        already_claimed_by: who has it instead.
        task_state: the task's state, ``None`` if there is no such task.
        reason: why not: ``not_found``, ``not_finished``, ``already_finalized`` or ``claimed``.
        message: the same for people.
        claim_no: the claim's number, which finalizing and releasing require.
        finalization_attempt_uuid: the attempt, as recorded.
        running: steps that are still live.
    """

    claimed: bool
    already_claimed_by: str | None
    task_state: str | None
    reason: str | None
    message: str | None
    claim_no: int | None
    finalization_attempt_uuid: UUID | None
    running: int | None


# -- templates and tasks --------------------------------------------------------------------------------------


def register_template(definition: Request) -> Call[Answer]:
    """Store one version of a workflow: ``{named_task_id, is_new, replaced}``."""
    return Call(
        "SELECT CAST(tasker.register_template(CAST(%(definition)s AS jsonb)) AS text)",
        {"definition": encode(definition, what="the template").decode()},
        decode=_json,
    )


def create_tasks(requests: Sequence[Request]) -> Call[list[Answer]]:
    """Create tasks, all or none: ``[{task_uuid, is_new, same_context, state}]``, in the order of the requests."""
    return Call(
        "SELECT CAST(tasker.create_tasks(ARRAY(SELECT jsonb_array_elements(CAST(%(requests)s AS jsonb)))) AS text)",
        {"requests": encode(requests, what="the request").decode()},
        decode=_json,
    )


def create_tasks_if(requests: Sequence[Request], expected: Sequence[Request]) -> Call[list[Answer] | None]:
    """As ``create_tasks``, if the templates are still those that the caller knows; else nothing, and ``None``.

    Each of ``expected`` is ``{namespace, name, version, digest}``; a version of ``None`` stands for the highest one. So
    a client checks contexts against the templates that it remembers, and needs no question before each task.
    """
    return Call(
        "SELECT CASE WHEN (SELECT coalesce(bool_and(e.digest IS NOT DISTINCT FROM ("
        "SELECT n.digest FROM tasker.named_tasks AS n WHERE n.namespace = e.namespace AND n.name = e.name"
        " AND (e.version IS NULL OR n.version = e.version) ORDER BY n.version_order DESC LIMIT 1)), true)"
        " FROM jsonb_to_recordset(CAST(%(expected)s AS jsonb))"
        " AS e(namespace text, name text, version text, digest text))"
        " THEN CAST(tasker.create_tasks(ARRAY(SELECT jsonb_array_elements(CAST(%(requests)s AS jsonb)))) AS text) END",
        {
            "requests": encode(requests, what="the request").decode(),
            "expected": orjson.dumps(expected).decode(),
        },
        decode=_json,
    )


# -- step executors -------------------------------------------------------------------------------------------


def register_executor(request: Request) -> Call[Answer]:
    """Announce an incarnation of an executor."""
    return _call("register_executor", request)


def heartbeat(request: Request) -> Call[Answer]:
    """Say that the executor lives: ``{stop_requested, steps_lost[]}``."""
    return _call("heartbeat", request)


def set_executor_idle(request: Request) -> Call[Answer]:
    """Say whether the executor waits for a notification."""
    return _call("set_executor_idle", request)


def request_executor_stop(request: Request) -> Call[Answer]:
    """Ask one executor, or all of a worker, to stop."""
    return _call("request_executor_stop", request)


def deregister_executor(request: Request) -> Call[Answer]:
    """Say good-bye; what the executor still holds can be recovered at once."""
    return _call("deregister_executor", request)


def claim_steps(request: Request) -> Call[Answer]:
    """Take steps that are due, with all that their handlers need."""
    return _call("claim_steps", request)


def complete_steps(request: Request) -> Call[Answer]:
    """Report outcomes, and take what became ready thereby."""
    return _call("complete_steps", request)


def release_steps(request: Request) -> Call[Answer]:
    """Give steps back without spending their attempt."""
    return _call("release_steps", request)


def mark_steps_started(request: Request) -> Call[Answer]:
    """Mark steps that must not run twice as started: ``{started[]}``."""
    return _call("mark_steps_started", request)


def get_parent_results(task_uuid: UUID | str, step_uuid: UUID | str, *, after: int | None, limit: int) -> Call[Answer]:
    """A page of parents' results that were too large for a claim: ``{results, next_after}``."""
    return Call(
        "SELECT CAST(tasker.get_parent_results(CAST(%(task_uuid)s AS uuid), CAST(%(step_uuid)s AS uuid),"
        " CAST(%(after)s AS integer), CAST(%(limit)s AS integer)) AS text)",
        {
            "task_uuid": str(task_uuid),
            "step_uuid": str(step_uuid),
            "after": -1 if after is None else after,
            "limit": limit,
        },
        decode=_json,
    )


def notify(channels: Sequence[str]) -> Call[None]:
    """Wake the listeners of these channels, after the commit of what they shall find."""
    return Call(
        "SELECT tasker.notify(ARRAY(SELECT jsonb_array_elements_text(CAST(%(channels)s AS jsonb))))",
        {"channels": orjson.dumps(list(channels)).decode()},
        decode=nothing,
    )


def set_local(**settings: str) -> Call[None]:
    """Change settings of PostgreSQL until the transaction ends, such as ``lock_timeout="100ms"``."""
    return Call(
        "SELECT set_config(s.key, s.value, true) FROM jsonb_each_text(CAST(%(settings)s AS jsonb)) AS s",
        {"settings": orjson.dumps(settings).decode()},
        decode=nothing,
    )


def report_circuit(request: Request) -> Call[Answer]:
    """Count what calls of an external system came to: its circuit's ``{state, failures, retry_after_seconds}``."""
    return _call("report_circuit", request)


def ask_circuit(request: Request) -> Call[Answer]:
    """Ask whether a call may go through a circuit: its state, ``allowed`` and ``is_probe``."""
    return _call("ask_circuit", request)


# -- orchestration executors and the coordinator --------------------------------------------------------------


def recover_lost_steps(request: Request) -> Call[Answer]:
    """Find lost executors and give their steps back."""
    return _call("recover_lost_steps", request)


def process_task_requests(request: Request) -> Call[Answer]:
    """Turn checked messages of ``task_requests_queue`` into tasks or dead letters."""
    return _call("process_task_requests", request)


def process_step_results(request: Request) -> Call[Answer]:
    """Turn checked messages of ``orchestration_step_results`` into outcomes, and time out what is overdue."""
    return _call("process_step_results", request)


def enqueue_deferred_steps(request: Request) -> Call[Answer]:
    """Send messages that a burst left for later: ``{taken, sent, queues[]}``."""
    return _call("enqueue_deferred_steps", request)


def claim_ready_tasks(request: Request) -> Call[Answer]:
    """Claim tasks that are due for admission."""
    return _call("claim_ready_tasks", request)


def enqueue_ready_steps(request: Request) -> Call[Answer]:
    """Admit claimed tasks."""
    return _call("enqueue_ready_steps", request)


def reject_tasks(request: Request) -> Call[Answer]:
    """End claimed tasks whose context does not fit."""
    return _call("reject_tasks", request)


def release_task_claim(request: Request) -> Call[Answer]:
    """Give a claim for admission back."""
    return _call("release_task_claim", request)


def extend_task_claim(request: Request) -> Call[Answer]:
    """Keep a claim for admission longer."""
    return _call("extend_task_claim", request)


def claim_task_for_finalization(
    task_uuid: UUID | str, processor: str, timeout_seconds: int = 30
) -> Call[FinalizationClaim]:
    """Claim the after-work of one task."""
    return Call(
        "SELECT claimed, already_claimed_by, task_state, reason, message, claim_no, finalization_attempt_uuid, running"
        " FROM tasker.claim_task_for_finalization(CAST(%(task_uuid)s AS uuid), %(processor)s,"
        " CAST(%(timeout_seconds)s AS integer))",
        {"task_uuid": str(task_uuid), "processor": processor, "timeout_seconds": timeout_seconds},
        decode=lambda rows: FinalizationClaim(*rows[0]),
    )


def claim_tasks_for_finalization(request: Request) -> Call[Answer]:
    """Claim the after-work of the next tasks in the queue: ``{claims[]}``."""
    return _call("claim_tasks_for_finalization", request)


def finalize_task(request: Request) -> Call[Answer]:
    """Record that the after-work is done."""
    return _call("finalize_task", request)


def release_finalization_claim(task_uuid: UUID | str, processor: str, claim_no: int) -> Call[bool]:
    """Give a claim for finalization back; whether it was the caller's."""
    return Call(
        "SELECT tasker.release_finalization_claim(CAST(%(task_uuid)s AS uuid), %(processor)s,"
        " CAST(%(claim_no)s AS integer))",
        {"task_uuid": str(task_uuid), "processor": processor, "claim_no": claim_no},
        decode=first_value,
    )


def extend_finalization_claim(
    task_uuid: UUID | str, processor: str, claim_no: int, timeout_seconds: int = 30
) -> Call[bool]:
    """Keep a claim for finalization longer; whether it was the caller's."""
    return Call(
        "SELECT tasker.extend_finalization_claim(CAST(%(task_uuid)s AS uuid), %(processor)s,"
        " CAST(%(claim_no)s AS integer), CAST(%(timeout_seconds)s AS integer))",
        {
            "task_uuid": str(task_uuid),
            "processor": processor,
            "claim_no": claim_no,
            "timeout_seconds": timeout_seconds,
        },
        decode=first_value,
    )


def ensure_namespace(namespace: str) -> Call[None]:
    """Make a namespace and its queue, unless they exist."""
    return Call("SELECT tasker.ensure_namespace(%(namespace)s)", {"namespace": namespace}, decode=nothing)


# -- operators ------------------------------------------------------------------------------------------------


def measure_admission(request: Request) -> Call[Answer]:
    """Decide by what there is to do whether new tasks start, wait or are refused."""
    return _call("measure_admission", request)


def tend_parked(request: Request) -> Call[Answer]:
    """Let parked steps go on whose circuit is closed or whose limit has room."""
    return _call("tend_parked", request)


def set_namespace(request: Request) -> Call[Answer]:
    """Change a namespace's limits."""
    return _call("set_namespace", request, strict=True)


def pause_namespaces(request: Request) -> Call[Answer]:
    """Pause namespaces, or resume them."""
    return _call("pause_namespaces", request, strict=True)


def pause_tasks(request: Request) -> Call[Answer]:
    """Let running steps finish and start no others."""
    return _call("pause_tasks", request, strict=True)


def resume_tasks(request: Request) -> Call[Answer]:
    """Go on with paused tasks."""
    return _call("resume_tasks", request, strict=True)


def cancel_tasks(request: Request) -> Call[Answer]:
    """End tasks at once."""
    return _call("cancel_tasks", request, strict=True)


def retry_task(request: Request) -> Call[Answer]:
    """Run a failed task again from its failed steps."""
    return _call("retry_task", request, strict=True)


def reset_step(request: Request) -> Call[Answer]:
    """Run one step again."""
    return _call("reset_step", request, strict=True)


def resolve_step(request: Request) -> Call[Answer]:
    """Settle a step by hand, with results that its dependents receive."""
    return _call("resolve_step", request, strict=True)


def resolve_task(request: Request) -> Call[Answer]:
    """Close a task by hand."""
    return _call("resolve_task", request, strict=True)


def retry_dead_letters(request: Request) -> Call[Answer]:
    """Retry a batch of dead letters: ``{letters[], retried, next_after, until}``."""
    return _call("retry_dead_letters", request, strict=True)


def resolve_dead_letter(request: Request) -> Call[Answer]:
    """Settle the step of a dead letter by hand, with results that its dependents receive."""
    return _call("resolve_dead_letter", request, strict=True)


def dismiss_dead_letters(request: Request) -> Call[Answer]:
    """Close a batch of dead letters of messages: ``{letters[], dismissed, next_after, until}``."""
    return _call("dismiss_dead_letters", request, strict=True)


def act_on_stuck_tasks(request: Request) -> Call[Answer]:
    """Give up what takes longer than its workflow's lifecycle allows: one page of open tasks."""
    return _call("act_on_stuck_tasks", request)


def read_events(request: Request) -> Call[Answer]:
    """The next domain events of a namespace: ``{events[], last, is_end, newest}``."""
    return _call("read_events", request, strict=True)


def settle_events(request: Request) -> Call[Answer]:
    """Delete domain events that were handled, and bury those that cannot be: ``{done, refused}``."""
    return _call("settle_events", request, strict=True)


def set_circuit(request: Request) -> Call[Answer]:
    """Open, close or reset a circuit by hand: its state, and ``changed``."""
    return _call("set_circuit", request, strict=True)


# -- schedules ------------------------------------------------------------------------------------------------


def set_schedule(request: Request) -> Call[Answer]:
    """Make a schedule, or change one: ``{name, outcome, next_due_at}``."""
    return _call("set_schedule", request, strict=True)


def change_schedule(request: Request) -> Call[Answer]:
    """Pause, resume or remove a schedule: ``{name, changed}``."""
    return _call("change_schedule", request)


def fire_schedule(request: Request) -> Call[Answer]:
    """Make the tasks of slots that are due, unless somebody else has: ``{fired, task_uuids[]}``."""
    return _call("fire_schedule", request)


def postpone_schedule(request: Request) -> Call[Answer]:
    """Note why a slot could not be fired, and when to try again: ``{postponed}``."""
    return _call("postpone_schedule", request)


# -- reading --------------------------------------------------------------------------------------------------


def get_step_readiness_status(task_uuid: UUID | str) -> Call[Any]:
    """For each step of a task, what it waits for."""
    return _read("get_step_readiness_status", task_uuid)


def get_task_execution_context(task_uuid: UUID | str) -> Call[Any]:
    """A task's execution status, derived from its steps."""
    return _read("get_task_execution_context", task_uuid)


def explain_task(task_uuid: UUID | str) -> Call[Any]:
    """Why a task is not running, by one of a closed list of reasons."""
    return _read("explain_task", task_uuid)


# -- waiting --------------------------------------------------------------------------------------------------


def add_waiter(channel: str, seconds: int) -> Call[None]:
    """Have ``channel`` notified whenever tasks finish, for so many seconds."""
    return Call(
        "SELECT tasker.add_waiter(%(channel)s, CAST(%(seconds)s AS integer))",
        {"channel": channel, "seconds": seconds},
        decode=nothing,
    )


def remove_waiter(channel: str) -> Call[None]:
    """Stop that."""
    return Call("SELECT tasker.remove_waiter(%(channel)s)", {"channel": channel}, decode=nothing)


def _call(name: str, request: Request, *, strict: bool = False) -> Call[Answer]:
    """A function that takes and returns one JSON value.

    ``strict`` checks every value inside, which costs a walk over them: for what users gave and nobody has checked yet.
    """
    try:
        encoded = encode(request, what="the request") if strict else orjson.dumps(request, default=str)
    except TypeError as error:
        raise ValueNotStorable(f"the request for {name} cannot be sent as JSON: {error}") from error
    return Call(
        f"SELECT CAST(tasker.{name}(CAST(%(request)s AS jsonb)) AS text)", {"request": encoded.decode()}, decode=_json
    )


def _read(name: str, task_uuid: UUID | str) -> Call[Any]:
    return Call(
        f"SELECT CAST(tasker.{name}(CAST(%(task_uuid)s AS uuid)) AS text)", {"task_uuid": str(task_uuid)}, decode=_json
    )


def _json(rows: Rows) -> Any:
    value = rows[0][0]
    return None if value is None else decode(value)
