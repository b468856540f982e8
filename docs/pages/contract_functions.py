"""The functions that programs in any language call, key by key; tests hold this against the SQL and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """One key of a request or an answer.

    Attributes:
        name: its name; in answers a path, where ``[]`` is each element and ``{…}`` each key.
        type: of its value, as JSON has it; ``any`` is a value of the users'.
        meaning: what it says.
        default: what holds where it is left out; ``None``: it may not be.
    """

    name: str
    type: str
    meaning: str
    default: str | None = None


@dataclass(frozen=True)
class Function:
    """One function of schema ``tasker``.

    Attributes:
        name: its name.
        does: what it does.
        request: keys of its argument.
        answer: keys of what it returns.
        takes: the arguments, where they are not one JSON object.
        claims: whether its answer has the keys of ``CLAIMED``, too.
    """

    name: str
    does: str
    request: Sequence[Key] = ()
    answer: Sequence[Key] = ()
    takes: str = "request jsonb"
    claims: bool = False


EXECUTOR = Key("executor", "uuid", "the incarnation that calls")
CALL_NO = Key("call_no", "integer", "the number of this call: see [calls and receipts](#calls-and-receipts)")
QUEUES = Key("queues", "text[]", "the queues it serves")
FINISHED = Key("finished", "integer[]", "receipts that are no longer needed, by the number of their call", "[]")
KNOWN = Key("known_templates", "integer[]", "workflow versions that it remembers: left out of `templates`", "[]")
BYTES = Key("max_claim_bytes", "integer", "parents' results beyond this are left out: `results_paged`", "8388608")

STEP_KEYS = (
    Key("task_uuid", "uuid", "the task"),
    Key("position", "integer", "the step's place in its workflow"),
    Key("map_index", "integer", "0, but for steps that were mapped over a list", "0"),
    Key("fence", "integer", "of the claim"),
)
"""What names a claimed step in a request."""

OUTCOME = (
    Key("task_uuid", "uuid", "from the claim"),
    Key("step_uuid", "uuid", "from the claim"),
    Key("position", "integer", "from the claim", "what `step_uuid` says"),
    Key("map_index", "integer", "from the claim", "what `step_uuid` says"),
    Key("fence", "integer", "from the claim"),
    Key("executor", "uuid", "who claimed it; needed in a message, where nobody calls", "the caller"),
    Key(
        "status", "text", "`complete`, `error`; `delegated` for steps that the workflow declares so; `parked`: not run"
    ),
    Key("circuit", "text", "with `parked`: the circuit that it waits for, its attempt not spent", "null"),
    Key("results", "any", "the result, with `complete`: any JSON value that PostgreSQL stores", "null"),
    Key("error", "object", "what went wrong, with `error`", "{}"),
    Key("deadline_seconds", "number", "with `delegated`: how long to wait for the outcome to come as a message", "0"),
    Key("may_continue", "boolean", "whether a step that this one makes ready may be handed back at once", "false"),
    Key("events", "object", "payloads of [domain events](#domain-events), by name", "the result or the error"),
    Key(
        "rejected_events",
        "object",
        "events that go to dead letters, by name: `reason`, `message`, `payload`",
        "{}",
    ),
)

ERROR = (
    Key("message", "text", "for people; cut at 16,384 characters", "no message"),
    Key("type", "text", "for programs; cut at 256 characters", "Error"),
    Key("retryable", "boolean", "`false`: no further attempt", "true"),
    Key("retry_after_seconds", "number", "wait so long, instead of the step's back-off; at most 30 days", "null"),
    Key("timeout", "boolean", "whether it is the step's timeout that has passed", "false"),
)

CLAIMED = (
    Key("call_no", "integer", "as in the request"),
    Key("stop_requested", "boolean", "an operator wants this executor to stop"),
    Key("steps[]", "object", "the steps that are now the caller's, to be started in this order"),
    Key("steps[].task_uuid", "uuid", "the task"),
    Key("steps[].step_uuid", "uuid", "the step, for logs and as a key for idempotency; the same in every attempt"),
    Key("steps[].position", "integer", "its place in its workflow: an index into the template's `steps`"),
    Key("steps[].map_index", "integer", "0, but for steps that were mapped over a list"),
    Key("steps[].fence", "integer", "the number of this claim of the step: it rises with each, and outcomes carry it"),
    Key("steps[].attempt", "integer", "which attempt this is, from 1"),
    Key("steps[].losses", "integer", "how many executors were lost with it"),
    Key("steps[].queue", "text", "its queue"),
    Key("steps[].template", "integer", "its workflow version: a key of `templates`, now or in an earlier answer"),
    Key("steps[].results_paged", "boolean", "its parents' results are not here: read them by `get_parent_results`"),
    Key(
        "steps[].waited_seconds",
        "number | null",
        "of a step in its first attempt: how long ago it could have run, as its last parent ended or its task was"
        " admitted",
    ),
    Key("tasks", "object", "the tasks of these steps, by uuid"),
    Key("tasks.{task}.context", "any", "the task's context"),
    Key("tasks.{task}.correlation_id", "text | null", "as given at creation"),
    Key("tasks.{task}.priority", "integer", "as given at creation"),
    Key("tasks.{task}.tags", "text[]", "as given at creation"),
    Key("results", "object", "results of parents, by task and position; each once, whichever of the steps need it"),
    Key("results.{task}.{position}", "any", "the result of the step in that place"),
    Key("templates", "object", "workflow versions that are not among `known_templates`, by number"),
    Key("templates.{template}.namespace", "text", "its namespace"),
    Key("templates.{template}.name", "text", "its name"),
    Key("templates.{template}.version", "text", "its version"),
    Key("templates.{template}.document", "any", "the document it was registered with"),
    Key("templates.{template}.input_schema", "any", "JSON Schema of its contexts, or null"),
    Key("templates.{template}.steps[].position", "integer", "equals the index"),
    Key("templates.{template}.steps[].name", "text", "name of the step"),
    Key("templates.{template}.steps[].kind", "text", "`standard`"),
    Key("templates.{template}.steps[].namespace", "text", "whose workers run it"),
    Key(
        "templates.{template}.steps[].handler",
        "any",
        "`callable`: which code; `initialization`: its settings, verbatim",
    ),
    Key("templates.{template}.steps[].depends_on", "integer[]", "positions of its parents"),
    Key("templates.{template}.steps[].retryable", "boolean", "`false`: it may not run twice, so mark its start"),
    Key("templates.{template}.steps[].max_attempts", "integer", "counts all runs"),
    Key(
        "templates.{template}.steps[].timeout_seconds", "number | null", "deadline of one attempt; the worker's to keep"
    ),
    Key("templates.{template}.steps[].delegated", "boolean", "it is a Celery task: leave it to Tasker's own workers"),
    Key(
        "templates.{template}.steps[].result_schema", "any", "JSON Schema of its result, or null; the worker's to keep"
    ),
    Key("templates.{template}.steps[].system_dependency", "text | null", "the circuit that guards it"),
    Key(
        "templates.{template}.steps[].publishes_events",
        "any",
        "its [domain events](#domain-events), or null: `schema` and `publisher` of each are the worker's to keep",
    ),
    Key(
        "templates.{template}.steps[].expected_ms",
        "number | null",
        "how long it takes on the average, if that is known",
    ),
)
"""What an answer says of steps that were claimed."""

_WHOM_TO_WAKE = (
    Key("queues[]", "text", "queues with new messages and a sleeping consumer: notify `tasker_{queue}`"),
    Key("notify[]", "text", "channels of those who wait for tasks to finish: notify them"),
)

_CIRCUITS = Key(
    "circuits",
    "any",
    "circuits that are not closed or have failures, by name: as `report_circuit` answers",
)

_CIRCUIT = (
    Key("name", "text", "the circuit's"),
    Key("state", "text", "`closed`, `open` or `half_open`"),
    Key("forced", "boolean", "an operator opened it: it does not close by itself"),
    Key("failures", "integer", "in a row"),
    Key("retry_after_seconds", "number | null", "how long until a call, or another one, may try"),
)

REGISTER_TEMPLATE_STEP = (
    Key("name", "text", "its name"),
    Key("depends_on", "text[]", "names of earlier steps", "[]"),
    Key("handler", "object", "`callable` and `initialization`: what whoever runs it is told", "{}"),
    Key("namespace", "text", "whose workers run it", "the workflow's"),
    Key("kind", "text", "`standard`", "standard"),
    Key("delegated", "boolean", "whether its outcome comes as a message", "false"),
    Key("retryable", "boolean", "`false`: it may not run twice", "true"),
    Key("max_attempts", "integer", "counts all runs", "3"),
    Key("backoff", "text", "`exponential`, `linear`, `fixed`, `none`", "exponential"),
    Key("backoff_base_ms", "integer", "the first wait", "1000"),
    Key("backoff_max_ms", "integer", "the longest wait", "60000"),
    Key("backoff_multiplier", "number", "of an exponential back-off", "2"),
    Key("jitter_fraction", "number", "by which waits vary", "0"),
    Key("timeout_seconds", "number", "deadline of one attempt", "null"),
    Key("system_dependency", "text", "the circuit that guards it", "null"),
    Key("result_schema", "object", "JSON Schema of its result", "null"),
    Key(
        "lifecycle",
        "object",
        "how long it may take and wait, as in [templates](templates.md#lifecycles)",
        "the workflow's, without `max_duration_minutes`",
    ),
    Key(
        "publishes_events",
        "object[]",
        "[events](#domain-events): `name`, `condition` (`success`), `delivery` (`durable`), `schema`, `publisher`",
        "[]",
    ),
)

WORKER_FUNCTIONS = (
    Function(
        "register_executor",
        "Announces an incarnation of an executor. Again under the same uuid it does nothing; under that of a lost one"
        " it fails (`TK006`).",
        (
            Key("executor", "uuid", "a new UUID of your making"),
            Key("kind", "text", "`step_executor`"),
            Key("worker", "text", "name of the process, for people"),
            Key("queues", "text[]", "the queues it serves, `{namespace}_queue`", "[]"),
            Key("pid", "integer", "the process", "null"),
            Key("requested", "boolean", "it came because the coordinator asked for one more", "false"),
        ),
    ),
    Function(
        "heartbeat",
        "Says that the executor lives, and what it still holds. Call it every 3 seconds, on a connection of its own: an"
        " executor whose heartbeat stands still for `orchestration.executor_lease_seconds` (15) is lost.",
        (
            EXECUTOR,
            Key(
                "oldest_call_no",
                "integer",
                "the oldest call it holds, or its next: see [calls and receipts](#calls-and-receipts)",
            ),
            Key("next_call_no", "integer", "the number that its next call will have", "unchanged"),
            Key(
                "held_calls",
                "integer[]",
                "every call below `next_call_no` that it holds: receipts of others are nobody's, however old; goes with"
                " `next_call_no`",
                "unchanged",
            ),
            Key("idle", "boolean", "as in `set_executor_idle`", "unchanged"),
            Key("counters", "object", "numbers for people who look at `tasker executor list`", "unchanged"),
            Key("expected_ms", "object", 'average run times to mix in: `{"template:position": milliseconds}`', "{}"),
            Key(
                "silence",
                "object",
                "for its health: `poll_seconds` and `work_seconds` since it last asked its queues, and last worked",
                "unchanged",
            ),
            Key("trouble", "text", "what it says is wrong with it; null: nothing", "unchanged"),
        ),
        (
            Key("stop_requested", "boolean", "an operator wants this executor to stop"),
            Key(
                "health", "text", "what the last tick found: `starting`, `healthy`, `degraded`, `unhealthy`, `stopping`"
            ),
            Key(
                "steps_lost[]", "object", "steps in its receipts that are no longer its own: stop them, report nothing"
            ),
            Key("steps_lost[].task_uuid", "uuid", "the task"),
            Key("steps_lost[].step_uuid", "uuid", "the step"),
            Key("steps_lost[].position", "integer", "its place"),
            Key("steps_lost[].map_index", "integer", "its map index"),
            Key("steps_lost[].fence", "integer", "of the claim that is void"),
            Key("steps_lost[].reason", "text", "`taken_over`, or the state it was put in, such as `cancelled`"),
        ),
    ),
    Function(
        "set_executor_idle",
        "Says that the executor sleeps, or no longer does: only sleeping ones are woken by NOTIFY.",
        (EXECUTOR, Key("idle", "boolean", "whether it sleeps")),
    ),
    Function(
        "claim_steps",
        "Takes steps that are due, and hands over all that their handlers need.",
        (
            EXECUTOR,
            CALL_NO,
            QUEUES,
            Key("limit", "integer", "most steps to take, at most 1000", "1"),
            Key(
                "budget_ms",
                "number",
                "take steps while their `expected_ms` sum up to no more; the first one always, and one that nothing is"
                " known of counts as all of it",
                "50",
            ),
            FINISHED,
            KNOWN,
            BYTES,
            Key(
                "look_from",
                "object",
                "`found_from` of the last answer, at most for a second: saves time where much was taken and a snapshot"
                " that somebody holds keeps it from being vacuumed. What lies before is not looked at",
                "{}",
            ),
        ),
        (
            *CLAIMED,
            Key("queue_empty", "boolean", "nothing is left on the queues; never with `look_from`"),
            Key("found_from", "object", "where the queues were found to begin"),
            Key("found_from.{queue}", "text | null", "the number of the first message that was free"),
            Key("next_due_seconds", "number | null", "when the next retry is due; `null`: none is known"),
            _CIRCUITS,
            Key(
                "probes",
                "any",
                "steps by `step_uuid`, with the name of the half-open circuit that each is to try: what comes of it"
                " goes to `report_circuit` with `is_probe`",
            ),
        ),
    ),
    Function(
        "get_parent_results",
        "Results of a step's parents, a page at a time, where `results_paged` says that they are not in the claim."
        " `after` is -1 at first.",
        (),
        (
            Key("results", "object", "by position"),
            Key("results.{position}", "any", "the result of the step in that place"),
            Key("next_after", "integer | null", "`after` of the next page; `null`: this was the last"),
        ),
        takes="task_uuid uuid, step_uuid uuid, after integer, quantity integer",
    ),
    Function(
        "mark_steps_started",
        "Commits the mark that steps with `retryable: false` need before their handlers begin. Without it, a step whose"
        " executor is lost runs again; with it, it ends in `error` (`outcome_unknown`).",
        (EXECUTOR, Key("steps", "object[]", "`task_uuid`, `position`, `map_index`, `fence` of each")),
        (Key("started[]", "boolean", "for each, in their order; `false`: no longer yours, do not run it"),),
    ),
    Function(
        "complete_steps",
        "Reports outcomes, and everything that follows from them: retries, failures, dependents, the end of tasks."
        " Hands back steps that became ready, already claimed.",
        (
            EXECUTOR,
            CALL_NO,
            QUEUES,
            Key("outcomes", "object[]", "see [outcomes](#outcomes)"),
            FINISHED,
            KNOWN,
            Key("continue_limit", "integer", "most steps to be handed back", "0"),
            Key("budget_ms", "number", "as in `claim_steps`, for these", "50"),
            Key("wait", "boolean", "wait for tasks that others hold instead of answering `busy`", "false"),
            BYTES,
        ),
        (
            Key("outcomes[]", "object", "what became of each, in their order"),
            Key("outcomes[].task_uuid", "uuid", "as reported"),
            Key("outcomes[].step_uuid", "uuid", "as reported"),
            Key("outcomes[].fence", "integer", "as reported"),
            Key("outcomes[].answer", "text", "`accepted`, `stale` or `busy`: see [outcomes](#outcomes)"),
            Key("outcomes[].reason", "text | null", "why, for people"),
            Key("outcomes[].state", "text | null", "the step's state now"),
            Key("finished_tasks[].task_uuid", "uuid", "a task that ended thereby"),
            Key("finished_tasks[].state", "text", "`complete` or `error`"),
            *_WHOM_TO_WAKE,
            _CIRCUITS,
        ),
        claims=True,
    ),
    Function(
        "release_steps",
        "Gives steps back that will not be run, without spending their attempt. One that is no longer held under that"
        " fence is left alone, so a late repeat takes nothing away.",
        (EXECUTOR, Key("steps", "object[]", "`task_uuid`, `position`, `map_index`, `fence` of each"), FINISHED),
        (Key("released", "integer", "how many were given back"), _WHOM_TO_WAKE[0]),
    ),
    Function(
        "report_circuit",
        "Counts what calls of an external system came to. Failures always; successes only where `circuits` says that"
        " there are failures to forget, and of whoever tries. `failure_threshold`, `success_threshold` and"
        " `timeout_seconds` may be given, and are kept.",
        (
            Key("name", "text", "the system's, as in `system_dependency`"),
            Key("failures", "integer", "calls that failed because of the system", "0"),
            Key("successes", "integer", "calls that show that it works", "0"),
            Key("is_probe", "boolean", "it was the call that a half-open circuit let through", "false"),
            Key("reason", "text", "of the last failure, for people", "null"),
            Key("by", "text", "who says so", "null"),
            Key("max_circuits", "integer", "where there are as many, no further one is made", "null"),
        ),
        _CIRCUIT,
    ),
    Function(
        "ask_circuit",
        "Asks whether a call may go through a circuit that is not closed, beside those that claims hand out as"
        " `probes`.",
        (
            Key("name", "text", "the system's"),
            Key("probe_seconds", "number", "how long the call may take until another one may try", "60"),
            Key("by", "text", "who asks", "null"),
        ),
        (
            *_CIRCUIT,
            Key("allowed", "boolean", "whether it may be made"),
            Key("is_probe", "boolean", "whether it is the one that tries: report what came of it"),
        ),
    ),
    Function(
        "deregister_executor",
        "Says good-bye. What it still holds is recovered by the next sweep.",
        (EXECUTOR, FINISHED, Key("counters", "object", "as in `heartbeat`, its last ones", "as it said last")),
    ),
    Function("notify", "Wakes whoever listens on these channels.", takes="channels text[]"),
)
"""Called by those who run steps, in about this order."""

CLIENT_FUNCTIONS = (
    Function(
        "create_tasks",
        "Creates tasks, all or none, inside the caller's transaction and at any isolation level. Takes an array of"
        " requests, and answers with an array in their order.",
        (
            Key("namespace", "text", "of the workflow"),
            Key("name", "text", "of the workflow"),
            Key("version", "text", "of the workflow", "the highest"),
            Key("context", "object", "what the task is about", "{}"),
            Key("identity_key", "text", "two tasks of a workflow with the same key are one", "null"),
            Key("identity_strategy", "text", "`strict`, `caller_provided`, `always_unique`", "the workflow's"),
            Key("priority", "integer", "higher is admitted sooner", "0"),
            Key("run_at", "time", "not before then; ISO 8601, with its zone", "now"),
            Key("tags", "text[]", "to find it by", "[]"),
            Key("correlation_id", "text", "handed on to every step", "null"),
            Key("requested_by", "text", "who", "null"),
            Key("source_system", "text", "from where", "null"),
            Key("reason", "text", "why", "null"),
            Key("parent_task_uuid", "uuid", "the task that it belongs to", "null"),
            Key(
                "context_checked",
                "boolean",
                "the caller has checked the context against `input_schema`; else a task with one waits as `pending`"
                " until Tasker has",
                "false",
            ),
        ),
        (
            Key("[].task_uuid", "uuid", "the task"),
            Key("[].is_new", "boolean", "`false`: there was one of that identity"),
            Key("[].same_context", "boolean", "whether that has the same context"),
            Key("[].state", "text", "its state"),
        ),
        takes="requests jsonb[]",
    ),
    Function("create_task", "One task; returns its uuid.", takes="see below"),
    Function(
        "cancel_tasks",
        "Ends every step that has not ended; those that run are told by their worker's next heartbeat.",
        (
            Key("task_uuids", "uuid[]", "which"),
            Key("by", "text", "who", "null"),
            Key("reason", "text", "why", "null"),
        ),
        (
            Key("tasks[].task_uuid", "uuid", "one of them"),
            Key("tasks[].changed", "boolean", "`false`: it had ended, or there is none"),
            Key("tasks[].state", "text | null", "its state; `null`: there is none"),
            *_WHOM_TO_WAKE,
        ),
    ),
    Function(
        "set_schedule",
        "Makes a schedule: a workflow that is started by the clock. Said again with the same definition it does"
        " nothing. You compute the first slot; those that follow are computed by whoever fires them.",
        (
            Key("name", "text", "of the schedule: `a-z0-9_-.`, at most 128"),
            Key(
                "task",
                "object",
                "a request to `create_tasks`, without `identity_key`, `run_at` and the like; at most 99 tags",
            ),
            Key("cron", "text", "five fields, or six with seconds first; at most 256 characters", "null"),
            Key("every_seconds", "integer", "the alternative: an interval", "null"),
            Key("starts_at", "timestamp", "no slot lies before it; intervals count from it, or from 1970", "null"),
            Key("time_zone", "text", "of `cron`", "UTC"),
            Key("catch_up", "text", "of missed slots fire the `last`, `all`, or `none`", "last"),
            Key("next_due_at", "timestamp", "the first slot after now"),
            Key(
                "replace",
                "boolean",
                "let one of this name with another definition give way; at the same times, `next_due_at` stays",
                "false",
            ),
            Key("by", "text", "who", "null"),
        ),
        (
            Key("name", "text", "as given"),
            Key("outcome", "text", "`new`, `replaced` or `unchanged`"),
            Key("next_due_at", "timestamp", "its next slot"),
        ),
    ),
    Function(
        "change_schedule",
        "Pauses, resumes or removes a schedule. Slots that pass while it is paused are not made up for.",
        (
            Key("name", "text", "which"),
            Key("action", "text", "`pause`, `resume` or `remove`"),
            Key("next_due_at", "timestamp", "of `resume`: the first slot after now", "null"),
            Key("by", "text", "who", "null"),
        ),
        (Key("name", "text", "as given"), Key("changed", "boolean", "`false`: it was so before")),
    ),
    Function(
        "read_events",
        "The oldest [domain events](#domain-events) of a namespace that nobody handles at the moment, hidden from"
        " others for a while. Handle them, then name them in `settle_events`; what is not named shows again. All"
        " readers of a namespace share its events.",
        (
            Key("namespace", "text", "of the workflows that published them"),
            Key("pattern", "text", "of names; `*` stands for any characters", "*"),
            Key("limit", "integer", "at most so many; fewer where they are large", "100"),
            Key("visibility_timeout_seconds", "number", "how long they are hidden", "60"),
            Key("after", "integer", "look behind this message only: `last` of the answer before", "0"),
            Key("look", "integer", "look at most at so many messages", "10000"),
            Key("peek", "boolean", "only look, and take none", "false"),
        ),
        (
            Key("events[].msg_id", "integer", "of what was taken: its number in the queue"),
            Key("events[].read_count", "integer", "how often it was taken, this time included"),
            Key("events[].event", "any", "the event"),
            Key("last", "integer | null", "how far this looked: go on behind it, until `is_end`"),
            Key("is_end", "boolean", "nothing is behind that: begin at the front again, after a while"),
            Key("newest", "integer | null", "the last message of the queue"),
        ),
    ),
    Function(
        "settle_events",
        "Deletes events that were handled, and makes dead letters of those that cannot be.",
        (
            Key("namespace", "text", "as in `read_events`"),
            Key("done", "integer[]", "`msg_id` of those that were handled", "[]"),
            Key("refused", "object[]", "`msg_id` and `rejected` {`reason`, `message`}: dead letters", "[]"),
            Key("again", "integer[]", "`msg_id` of those that others shall see at once", "[]"),
        ),
        (
            Key("done", "integer", "how many were there"),
            Key("refused", "integer", "likewise"),
        ),
    ),
    Function(
        "add_waiter",
        "Has the channel notified, for so many seconds, whenever tasks finish; look then whether it is yours. `channel`"
        " is `tasker_` and up to 54 of `a-z0-9_`, one per process.",
        takes="channel text, seconds integer",
    ),
    Function("remove_waiter", "Takes that back.", takes="channel text"),
    Function(
        "register_template",
        "Stores a version of a workflow. The same `digest` again does nothing; another one replaces a version that no"
        " task uses, and fails under a used one (`TK003`). Where you can, write [templates](templates.md) in YAML:"
        " `tasker template register` checks far more.",
        (
            Key("namespace", "text", "its namespace"),
            Key("name", "text", "its name"),
            Key("version", "text", "`x.y.z`"),
            Key("digest", "text", "of the whole definition, by whatever function you like"),
            Key("steps", "object[]", "each after all that it depends on"),
            Key("document", "any", "kept, and handed to workers", "null"),
            Key("identity_strategy", "text", "of tasks that do not say", "by whether they have a key"),
            Key("input_schema", "object", "JSON Schema of contexts", "null"),
            Key("has_after_work", "boolean", "whether it has completion hooks, which Python runs", "false"),
            Key("max_context_bytes", "integer", "a larger context is refused", "1048576"),
            Key("lifecycle", "object", "how long a task, and each of its steps, may take and wait", "null"),
            Key("domain_events", "object[]", "as `publishes_events` of a step; sent when a task is final", "[]"),
        ),
        (
            Key("named_task_id", "integer", "the version's number"),
            Key("is_new", "boolean", "whether it was not there before"),
            Key("replaced", "boolean", "whether it took the place of another"),
        ),
        takes="definition jsonb",
    ),
)
"""Called by those who start tasks and register workflows."""
