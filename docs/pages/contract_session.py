"""A session in psql that goes through the contract: it is run when the page is made, and shown with what came."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from docs.pages.markdown import prose
from tasker.database.embedded.installation import Installation

EXECUTOR = "5f0c1e5a-7a70-4b60-9a3c-2f4d1c0b7e11"


@dataclass(frozen=True)
class Block:
    """What is said, and what is typed then."""

    text: str
    sql: str


BLOCKS = (
    Block(
        """
        A worker's login has the role `tasker_worker`; this session takes it on. Answers are shown as they are, without
        psql's frames, and errors with their SQLSTATE.
        """,
        r"""
SET ROLE tasker_worker;
\pset format unaligned
\pset tuples_only on
\set VERBOSITY verbose
\set SHOW_CONTEXT never
""",
    ),
    Block(
        "A workflow of three steps, one after the other. The second may run twice, the third must not.",
        r"""
SELECT tasker.register_template('{
    "namespace": "shop", "name": "order", "version": "1.0.0", "digest": "1", "steps": [
        {"name": "reserve", "handler": {"callable": "shop.reserve"}},
        {"name": "charge", "handler": {"callable": "shop.charge", "initialization": {"currency": "EUR"}},
         "depends_on": ["reserve"], "max_attempts": 2, "backoff": "none"},
        {"name": "ship", "handler": {"callable": "shop.ship"}, "depends_on": ["charge"], "retryable": false}]}');
""",
    ),
    Block(
        "A client creates a task. With the key it may do so twice, and it is one task.",
        r"""
SELECT tasker.create_task('shop', 'order', '{"order_id": 42}', identity_key => 'order-42') AS task \gset
SELECT tasker.create_tasks(ARRAY['{"namespace": "shop", "name": "order", "context": {"order_id": 42},
                                   "identity_key": "order-42"}'::jsonb]);
""",
    ),
    Block(
        "An executor announces itself, under a UUID of its own making.",
        rf"""
\set me {EXECUTOR}
SELECT tasker.register_executor(jsonb_build_object(
    'executor', :'me', 'kind', 'step_executor', 'worker', 'psql', 'queues', '["shop_queue"]'::jsonb));
LISTEN tasker_shop_queue;
""",
    ),
    Block(
        """
        Call 1 claims. The answer has all that a handler needs; the workflow is in it since the executor does not know
        it yet.
        """,
        r"""
SELECT jsonb_pretty(tasker.claim_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 1, 'queues', '["shop_queue"]'::jsonb, 'limit', 10))::jsonb);
""",
    ),
    Block(
        """
        Had the connection been cut before the answer came: the same call again, with the same number, brings the same
        step, and claims nothing more. (psql keeps what is in it for later.)
        """,
        r"""
SELECT tasker.claim_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 1, 'queues', '["shop_queue"]'::jsonb, 'limit', 10,
    'known_templates', '[1]'::jsonb)) AS answer \gset
SELECT jsonb_pretty(:'answer'::jsonb);
SELECT :'answer'::jsonb->'steps'->0 AS step \gset
""",
    ),
    Block(
        "While the handler runs, a heartbeat goes out every few seconds: call 1 is the oldest that is held.",
        r"""
SELECT tasker.heartbeat(jsonb_build_object('executor', :'me', 'oldest_call_no', 1));
""",
    ),
    Block(
        """
        It is done. Call 2 reports it, and takes the step that became ready with it: its parent's result comes along.
        The receipt of call 1 is not needed any more once this call has settled its step, so the *next* call names it.
        """,
        r"""
SELECT tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 2, 'queues', '["shop_queue"]'::jsonb, 'known_templates', '[1]'::jsonb,
    'continue_limit', 1, 'outcomes', jsonb_build_array(:'step'::jsonb || '{
        "status": "complete", "results": {"reserved": true}, "may_continue": true}'))) AS answer \gset
SELECT jsonb_pretty(:'answer'::jsonb);
SELECT :'answer'::jsonb->'steps'->0 AS step \gset
""",
    ),
    Block(
        "This one fails. It has an attempt left, so it waits; without a back-off it is due at once. Call 4 claims it.",
        r"""
SELECT tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 3, 'queues', '["shop_queue"]'::jsonb, 'finished', '[1]'::jsonb,
    'outcomes', jsonb_build_array(:'step'::jsonb || '{
        "status": "error", "error": {"type": "CardServiceAway", "message": "no answer"}}')))->'outcomes';
SELECT tasker.claim_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 4, 'queues', '["shop_queue"]'::jsonb, 'finished', '[2]'::jsonb,
    'known_templates', '[1]'::jsonb))->'steps'->0 AS next \gset
SELECT :'next'::jsonb->>'attempt' AS attempt, :'next'::jsonb->>'fence' AS fence;
""",
    ),
    Block(
        """
        The fence tells the attempts apart. Whoever still reports the first one is told that it is stale, and nothing is
        changed; the second is accepted, and accepted again if it is repeated.
        """,
        r"""
SELECT tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 5, 'queues', '[]'::jsonb, 'outcomes', jsonb_build_array(
        :'step'::jsonb || '{"status": "complete", "results": {"receipt": "R-1"}}')))->'outcomes';
SELECT tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 6, 'queues', '["shop_queue"]'::jsonb, 'known_templates', '[1]'::jsonb,
    'continue_limit', 1, 'outcomes', jsonb_build_array(
        :'next'::jsonb || '{"status": "complete", "results": {"receipt": "R-2"}, "may_continue": true}'))) AS answer
\gset
SELECT :'answer'::jsonb->'outcomes';
SELECT :'answer'::jsonb->'steps'->0 AS step \gset
SELECT tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 7, 'queues', '[]'::jsonb, 'finished', '[4]'::jsonb, 'outcomes', jsonb_build_array(
        :'next'::jsonb || '{"status": "complete", "results": {"receipt": "R-2"}}')))->'outcomes';
""",
    ),
    Block(
        "The last step must not run twice: its start is marked, and committed, before its handler begins.",
        r"""
SELECT tasker.mark_steps_started(jsonb_build_object('executor', :'me', 'steps', jsonb_build_array(:'step'::jsonb)));
SELECT jsonb_pretty(tasker.complete_steps(jsonb_build_object(
    'executor', :'me', 'call_no', 8, 'queues', '["shop_queue"]'::jsonb, 'outcomes', jsonb_build_array(
        :'step'::jsonb || '{"status": "complete", "results": {"parcel": 7}}')))::jsonb);
SELECT state, total, active, failed FROM tasker.tasks WHERE task_uuid = :'task';
""",
    ),
    Block(
        "Steps that the worker will not run after all, since it is told to stop, are given back and lose no attempt.",
        r"""
SELECT tasker.create_task('shop', 'order', '{"order_id": 43}') AS task \gset
SELECT tasker.claim_steps(jsonb_build_object('executor', :'me', 'call_no', 9, 'queues', '["shop_queue"]'::jsonb,
    'finished', '[6]'::jsonb, 'known_templates', '[1]'::jsonb))->'steps'->0 AS step \gset
SELECT tasker.release_steps(jsonb_build_object('executor', :'me', 'steps', jsonb_build_array(:'step'::jsonb)));
SELECT state, attempts, fence FROM tasker.workflow_steps WHERE task_uuid = :'task' AND position = 0;
""",
    ),
    Block(
        """
        An outcome can also be sent as a message, by whoever knows the claim; an orchestration worker records it. Until
        then the receipt of call 10 has to stay. Call 10, repeated, tells whether that was done: it brings the step as
        long as it was not. Here nobody records it, so there is a fence to be told.
        """,
        r"""
SELECT tasker.claim_steps(jsonb_build_object('executor', :'me', 'call_no', 10, 'queues', '["shop_queue"]'::jsonb,
    'finished', '[9]'::jsonb, 'known_templates', '[1]'::jsonb))->'steps'->0 AS step \gset
SELECT pgmq.send('orchestration_step_results', jsonb_build_object(
    'task_uuid', :'step'::jsonb->'task_uuid', 'step_uuid', :'step'::jsonb->'step_uuid',
    'fence', :'step'::jsonb->'fence', 'executor', :'me', 'status', 'complete', 'results', '{"reserved": true}'::jsonb));
SELECT tasker.notify(ARRAY['tasker_orchestration_step_results']);
SELECT tasker.claim_steps(jsonb_build_object('executor', :'me', 'call_no', 10, 'queues', '["shop_queue"]'::jsonb,
    'finished', '[9]'::jsonb, 'known_templates', '[1]'::jsonb))->'steps'->0->'fence' AS still_held;
""",
    ),
    Block(
        "So can a request for a task.",
        r"""
SELECT pgmq.send('task_requests_queue', '{"namespace": "shop", "name": "order", "context": {"order_id": 44}}');
SELECT tasker.notify(ARRAY['tasker_task_requests_queue']);
""",
    ),
    Block(
        """
        A step that names a system in `system_dependency` is not handed out while that system's circuit is open. What
        calls of it came to is for the worker to tell.
        """,
        r"""
SELECT tasker.report_circuit('{"name": "bank", "failures": 5, "by": "psql", "reason": "refused"}')->'state' AS state;
SELECT tasker.ask_circuit('{"name": "bank"}')->'allowed' AS allowed;
""",
    ),
    Block(
        "Good-bye. Who calls all the same is told to begin anew, under another UUID.",
        r"""
SELECT tasker.deregister_executor(jsonb_build_object('executor', :'me', 'finished', '[]'::jsonb));
SELECT tasker.claim_steps(jsonb_build_object('executor', :'me', 'call_no', 11, 'queues', '["shop_queue"]'::jsonb));
""",
    ),
)

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_LOCATION = re.compile(r"^LOCATION: .*\n", re.MULTILINE)
_PID = re.compile(r"(?<=PID )\d+")
_WAITED = re.compile(r'(?<="waited_seconds": )[0-9.e-]+')
_MARK = "--8<-- {}"


def shown(url: str) -> str:
    """The session as Markdown: each block with what psql printed."""
    parts = []
    for block, output in zip(BLOCKS, run(url), strict=True):
        parts += [prose(block.text), f"```sql\n{block.sql.strip()}\n```"]
        if output:
            parts.append(f"```text\n{output}\n```")
    return "\n\n".join(parts)


def run(url: str) -> list[str]:
    """What psql prints for each block, in one session on a fresh database; UUIDs are numbered, so that they stay."""
    script = "\n".join(f"{block.sql.strip()}\n\\echo {_MARK.format(number)}" for number, block in enumerate(BLOCKS))
    done = subprocess.run(
        [psql(), "-X", "-q", "-d", url],
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=60,
    )
    outputs = []
    rest = _WAITED.sub("0.012", _PID.sub("4711", _LOCATION.sub("", done.stdout)))
    for number in range(len(BLOCKS)):
        output, _, rest = rest.partition(f"{_MARK.format(number)}\n")
        outputs.append(output.strip("\n"))
    return _numbered(outputs)


def psql() -> str:
    """The psql that comes with the embedded server."""
    return str(Installation.find().bin / "psql")


def _numbered(outputs: Sequence[str]) -> list[str]:
    known = {EXECUTOR: EXECUTOR}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"01980000-0000-7000-8000-{len(known):012}")

    return [_UUID.sub(number, output) for output in outputs]
