"""The reference of the SQL contract: what a program in any language calls, sends and hears."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence

from docs.pages import contract_session
from docs.pages.contract_functions import (
    CLIENT_FUNCTIONS,
    ERROR,
    OUTCOME,
    REGISTER_TEMPLATE_STEP,
    STEP_KEYS,
    WORKER_FUNCTIONS,
    Function,
    Key,
)
from docs.pages.markdown import code, from_docstring, page, prose, table
from tasker import errors
from tasker.config.resources import resource_dir
from tasker.database.roles import GRANTED_FUNCTIONS

Create = Callable[[], str]

INTRO = """
All that Tasker's own workers and clients do in the database goes through functions of the schema `tasker`. They are
for every language: a program needs a driver for PostgreSQL and JSON, and nothing of Python. This page is that
contract. Tests hold it against the functions, and the session below is run when the page is made.

Most functions take one JSON object and answer with one: `SELECT tasker.claim_steps('{…}')`. Objects grow by keys
only, so leave out what you do not need (an empty list too; `null` is not the same), and ignore keys that you do not
know. Call at the isolation level READ COMMITTED, PostgreSQL's default, each in a transaction of its own;
`create_task`, `create_tasks` and `pgmq.send` may stand in a transaction of yours. A function whose meaning changes
gets another name, and the old one stays for two releases.
"""

WHO = """
Steps, in any language: a worker serves the queues of its namespaces, and a workflow says by the `namespace` of a step
whose workers run it. All else stays with Tasker's own processes, and one worker of them has to run beside yours, with
its beat: `celery -A tasker worker -B -Q orchestration`. It finds lost executors and gives their steps back, takes
requests and outcomes that come as messages, admits scheduled tasks, sends the messages of wide fan-outs, runs
completion hooks.
"""

WORKER = """
1. Register an executor under a new UUID.
2. Send heartbeats on a connection of its own, whatever the handlers do. Stop what an answer names in `steps_lost`.
3. Claim. Run the handler that `handler.callable` of the step's template names, with `context` and the parents'
   results. Before one with `retryable: false`, mark its start; if that answers `false`, leave it.
4. Report outcomes, many at once where many end at once; the answer may bring further steps.
5. Notify the channels that answers name, once their transaction has committed.
6. With nothing to do, say that you are idle (`set_executor_idle`), look again after 20 and 100 ms, then sleep until a
   notification, until `next_due_seconds` have passed, and in any case for some seconds at most.
7. When a step's `timeout_seconds` have passed, report an error with `type` and `timeout` set, and drop what still
   comes.
8. Told to stop, claim nothing more. Let finish what runs, for a while; release the rest, but report what must not run
   twice as an error (`outcome_unknown`); deregister.
"""

LIMITS = """
These are the worker's own to keep, since the functions do not look: `timeout_seconds`, `result_schema`,
`system.max_result_bytes`, `${VARIABLE}` in `handler.initialization` (an unset one is a permanent error), and what calls
of a system (`system_dependency`) came to: claims hand out no steps whose circuit is open, but only workers know whether
a call failed because of the system (`report_circuit`). Outcomes that come as messages are checked against
`result_schema` and `system.max_result_bytes`, and counted for the circuit of their step.
"""

CALLS = """
`claim_steps` and `complete_steps` carry a number, `call_no`: from 1, rising, none twice in one incarnation. A call
that brings steps leaves a *receipt* under it, which is their lease.

- A call whose outcome is unknown, since the connection was cut, is repeated **as it is, with its number**, on a new
  connection, for as long as it takes. Nothing is done twice: an existing receipt brings the steps that are still
  held, outcomes that were recorded answer `accepted` with reason `repeated`. `release_steps`, `mark_steps_started`,
  `heartbeat` and registering are repeated likewise.
- A number is *held* from the moment it is given out until the outcome of its call is known and each step it brought
  is completed, released, delegated, or known to be others'. Outcomes that were answered `busy` are not completed.
- The heartbeat carries the oldest held number, or, if none is held, the next one to be given. Receipts below that are
  taken for those of answers that never arrived, and their steps are given to others; calls below it are refused
  (`TK008`: take a fresh number).
- Once a receipt's steps are all settled, the next call names it in `finished`, once, and it is deleted.
- Steps whose outcome was sent as a message are held until that was taken. Nobody says so by himself; the call that
  brought them tells, repeated every few seconds: as long as its receipt is there it brings those of its steps that are
  still held, and claims nothing. So name the receipt in `finished` only once none is left. Deregistering counts as
  letting go.
- `TK006` says that the executor was declared lost, or never registered. Drop all it held, without a report, and begin
  anew under another UUID: others run its steps by now.
"""

FENCES = """
`fence` rises with every claim of a step and never falls. Whatever speaks of a claimed step carries it, and is without
effect once it is old: the step was given to another, reset, or ended by an operator. `attempt` is the budget, and may
be given back (release, loss of the executor); use the fence, or `step_uuid`, to tell runs or steps apart.
"""

VERDICTS = [
    ["`accepted`", "it is recorded; with reason `repeated`, it was already", "forget the step"],
    [
        "`stale`",
        "it is not, nor will it be: the step was cancelled or resolved (`cancelled`, `step_is_…`), claimed again"
        " (`fence_is_old`), is another's (`executor_differs`), or does not exist (`not_found`); or the batch had two"
        " outcomes of it (`repeated_in_batch`)",
        "forget the step",
    ],
    [
        "`busy`",
        "somebody else works on its task just now (`task_locked`); nothing is recorded",
        "report it again apart from all others, one task per call, with `wait` and a `lock_timeout` of a second",
    ],
]

BATCHES = """
A call is all or nothing. If PostgreSQL refuses one value of a batch (a SQLSTATE of class 22, 23 or 54, or `TK001`),
halve the batch until the culprit stands alone, and report in its place an error of type `result_not_storable` with
`retryable: false`. JSON that PostgreSQL does not store: the character U+0000, lone surrogates, numbers beyond
`numeric`, more than 200 levels.
"""

TEMPLATES = """
A workflow version never changes once a task uses it, so a process reads it once: `templates` has those that
`known_templates` does not name, by the number that `steps[].template` gives. Remember them for as long as you like.
"""

WIDE = """
The results of a claim's parents may be large. Those beyond `max_claim_bytes` are left out, and the step says
`results_paged`: read them by `get_parent_results(task_uuid, step_uuid, after, quantity)`, with `after` -1 at first
and `next_after` of the last page then.
"""

CHANNELS = [
    ["`tasker_{queue}`, such as `tasker_shop_queue`", "messages came on that queue, or a retry was made due"],
    ["`tasker_orchestration_step_results`, `tasker_task_requests_queue`", "likewise: notify it after `pgmq.send`"],
    ["`tasker_circuits`", "a circuit has changed: look at `tasker.circuit_breakers`"],
    ["a waiter's own", "tasks have finished: see `add_waiter`"],
]

NOTIFICATIONS = """
NOTIFY is a hint without payload: it may come too often, and with a dead connection it does not come, so look from
time to time all the same. `create_task`, `create_tasks` and an operator's functions notify by themselves, at the
commit; the others name in `queues` and `notify` whom *you* wake after the commit, by `tasker.notify`, coalesced if
you like.
"""

MESSAGES = [
    [
        "`task_requests_queue`",
        "one request of `create_tasks`, without `context_checked`",
        "clients: `tasker_client` may send",
    ],
    [
        "`orchestration_step_results`",
        "one outcome, with `executor`, status `complete` or `error`",
        "workers: `tasker_worker` may send",
    ],
    ["`{namespace}_queue`", "`task_uuid`, `step_uuid`, `position`, `map_index`", "nobody: see above"],
    ["`step_enqueue`, `task_finalization`", "Tasker's own", "nobody"],
    ["`{namespace}_domain_events`", "[events](#domain-events), read by `read_events`", "nobody"],
]

QUEUES = """
Queues are PGMQ's: `SELECT pgmq.send('task_requests_queue', '{…}')`. A message that cannot be understood goes to
`tasker.dead_letters` with its reason; a second message of the same outcome is a no-op. A message on a step queue only
says that a step may be due. Reading it is no claim: `claim_steps` does that, and drops what it has used up.
"""

EVENTS = """
What a step `publishes_events` says is sent by the transaction that records its outcome, to the queue
`{namespace}_domain_events` of its workflow's namespace: once for each recorded outcome, and of a repeated report
nothing. An outcome may bring the payloads (`events`); what it does not bring carries the result, or the error. A
workflow's `domain_events` are sent when `finalize_task` makes a task final. Events with `delivery` `fast` are not
stored. An event is:
"""

EVENT = [
    ["`event_id`", "the same in every delivery: the key for idempotency"],
    ["`name`", "as declared"],
    ["`version`", "1: of this form; keys may be added"],
    ["`at`", "when it was sent"],
    ["`namespace`, `task`, `task_version`", "the workflow"],
    ["`step`, `step_uuid`, `fence`, `attempt`", "the step, and the attempt; null in a task's event"],
    ["`task_uuid`, `correlation_id`", "the task"],
    ["`finish_no`", "in a task's event: how often it has finished; else null"],
    ["`state`", "of the step (`complete`, `error`, `waiting_for_retry`, `resolved_manually`) or the task"],
    ["`condition`", "`success`, `retryable_failure`, `permanent_failure`; of a task that an operator ended, its state"],
    ["`payload`", "any JSON value"],
]

SERVER_ERRORS = [
    ["none, `08…`, `57P01`–`57P03`", "the connection is gone", "connect again and repeat the call, with its number"],
    [
        "`40001`, `40P01`, `55P03`, `57014`, `53…`",
        "rolled back for a reason that passes",
        "repeat the call, with its number",
    ],
    ["`22…`, `23…`, `54…`", "a value cannot be stored", "[halve the batch](#outcomes)"],
    ["`42501`", "the login lacks the role", "grant it"],
]

MEANINGS = {
    "TK001": "mend the request; in a batch of outcomes, halve it",
    "TK006": "drop what was held, register anew under another UUID",
    "TK007": "call outside of REPEATABLE READ and SERIALIZABLE",
    "TK008": "make the call with a fresh number",
    "TK011": "make it smaller",
}

PROOF = """
`tests/e2e/conformance/` is a suite for workers and clients in any language; a worker in JavaScript, made of nothing
but this page, is part of it, and an example to read. To try yours, give it the handlers and settings that the suite's
README lists, and name the command that starts it:
"""

PROOF_COMMAND = """
```console
$ TASKER_CONFORMANCE_WORKER="/path/to/my-worker" TASKER_CONFORMANCE_CLIENT="/path/to/my-client" \\
    make test ARGS="tests/e2e/conformance --no-cov"
```
"""


def make(create: Create) -> str:
    """The page; the session is run on a database of its own."""
    return page(
        "The SQL contract",
        INTRO,
        "## Who runs what",
        WHO,
        "## A session",
        contract_session.shown(create()),
        "## What a worker does",
        WORKER,
        LIMITS,
        "## Calls and receipts",
        CALLS,
        "## Fences",
        FENCES,
        "## Outcomes",
        "One element of `outcomes`, and a message on `orchestration_step_results`:",
        _keys(OUTCOME),
        "`error` has:",
        _keys(ERROR),
        "`complete_steps` answers each:",
        table(["answer", "means", "then"], VERDICTS),
        BATCHES,
        "## Workflows and results",
        TEMPLATES,
        WIDE,
        "## Functions for workers",
        "Keys in bold must be there. `steps` in a request are objects of:",
        _keys(STEP_KEYS),
        *(_function(function) for function in WORKER_FUNCTIONS),
        "## Functions for clients",
        *(_function(function) for function in CLIENT_FUNCTIONS),
        "`steps` of a definition:",
        _keys(REGISTER_TEMPLATE_STEP),
        "## Notifications",
        NOTIFICATIONS,
        table(["channel", "says"], CHANNELS),
        "## Queues",
        QUEUES,
        table(["queue", "message", "who sends"], MESSAGES),
        "## Domain events",
        EVENTS,
        table(["key", "what it says"], EVENT),
        "## Errors",
        "An error has a SQLSTATE, a message, often a hint, and as the name of its column the key that is wrong.",
        table(["SQLSTATE", "means", "what to do"], [*_errors(), *SERVER_ERRORS]),
        "## Roles",
        _roles(),
        "## Prove it",
        PROOF,
        PROOF_COMMAND,
    )


def _keys(keys: Sequence[Key]) -> str:
    rows = []
    for key in keys:
        name = f"**{code(key.name)}**" if key.default is None else code(key.name)
        rows.append([name, key.type, "" if key.default is None else key.default, key.meaning])
    return table(["key", "type", "if left out", "meaning"], rows)


def _function(function: Function) -> str:
    takes = create_task_arguments() if function.name == "create_task" else function.takes
    roles = ", ".join(code(role) for role in roles_of(function.name))
    parts = [f"### {function.name}", code(f"tasker.{function.name}({takes})"), prose(f"{function.does} For {roles}.")]
    if function.request:
        parts.append(_keys(function.request))
    if function.answer:
        rows = [[code(key.name), key.type, key.meaning] for key in function.answer]
        parts.append("Answers with the first keys of `claim_steps`, and:" if function.claims else "Answers:")
        parts.append(table(["key", "type", "meaning"], rows))
    elif function.request:
        parts.append("Answers `{}`.")
    return "\n\n".join(parts)


def roles_of(function: str) -> list[str]:
    """The roles that may call it."""
    return [role for role, names in GRANTED_FUNCTIONS.items() if function in names]


def create_task_arguments() -> str:
    """The arguments of ``create_task``, from its text."""
    text = (resource_dir("migrations") / "functions" / "create_task.sql").read_text(encoding="utf-8")
    found = re.search(r"FUNCTION tasker\.create_task\(\s*(.*?)\) RETURNS", text, re.DOTALL)
    assert found is not None
    return " ".join(found[1].split())


def own_errors() -> dict[str, type[errors.TaskerError]]:
    """The errors of the SQL core by SQLSTATE."""
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    found = [each for each in classes if issubclass(each, errors.TaskerError) and each.sqlstate is not None]
    return {str(each.sqlstate): each for each in sorted(found, key=lambda each: str(each.sqlstate))}


def _errors() -> list[list[str]]:
    return [
        [code(sqlstate), from_docstring(inspect.getdoc(error) or ""), MEANINGS.get(sqlstate, "mend what was asked")]
        for sqlstate, error in own_errors().items()
    ]


def _roles() -> str:
    return prose(
        """
        `tasker db migrate` makes the roles `tasker_client`, `tasker_worker` and `tasker_operator`, without a login of
        their own: `GRANT tasker_worker TO my_login`. All three may read the tables of the schema `tasker`; none may
        write them. A client may also send to `task_requests_queue`; the other two may use every queue. The owner of
        the schema may do all.
        """
    )
