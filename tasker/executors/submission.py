"""Reporting outcomes: one ``complete_steps`` call, its refusals, and what its answer means for what is held."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasker.database import functions
from tasker.errors import CallRefused, ExecutorLost, InvalidRequest, PayloadTooLarge, ValueNotStorable
from tasker.executors.counters import STALE_RESULTS, Counters
from tasker.executors.domain_events import StepDomainEvents
from tasker.executors.held import HeldStep, HeldSteps
from tasker.executors.incarnation import Incarnation
from tasker.executors.intake import Chain, Intake
from tasker.executors.link import Link, sqlstate_of
from tasker.executors.notifier import Notifier
from tasker.executors.outcomes import RESULT_NOT_STORABLE, Outcome, refused
from tasker.executors.step_circuits import StepCircuits
from tasker.executors.step_events import StepEvents
from tasker.messaging.queues import channel_name

logger = logging.getLogger(__name__)

# Data exceptions, integrity violations, program limits: something in the batch cannot be stored.
_BAD_VALUE_CLASSES = ("22", "23", "54")


def is_bad_value(error: BaseException) -> bool:
    """Whether the server refused a batch because of a value in it, so that its other outcomes may pass without it."""
    if isinstance(error, (InvalidRequest, PayloadTooLarge, ValueNotStorable)):
        return True
    sqlstate = sqlstate_of(error)
    return sqlstate is not None and sqlstate[:2] in _BAD_VALUE_CLASSES


@dataclass(frozen=True, slots=True)
class Reporting:
    """What every submission of one step executor needs.

    Attributes:
        queues: names of the queues it serves.
        max_claim_bytes: parents' results above this size are left out of answers.
        held: where steps go that an answer hands back.
        intake: makes them.
        notifier: takes the channels to notify.
        counters: of the executor.
        events: of its steps.
        circuits: of the systems that its steps need.
        domain_events: of its steps.
        lost: called with an incarnation that the database says is lost.
        queued: called with the queues that got messages and have an idle consumer.
    """

    queues: tuple[str, ...]
    max_claim_bytes: int
    held: HeldSteps
    intake: Intake
    notifier: Notifier
    counters: Counters
    events: StepEvents
    circuits: StepCircuits
    domain_events: StepDomainEvents
    lost: Callable[[Incarnation], None]
    queued: Callable[[Sequence[str]], None]


@dataclass(slots=True)
class Sent:
    """What is left to do after a submission.

    Attributes:
        busy: outcomes whose task somebody else has locked; nothing was recorded for them.
        delegated: steps that are now to be sent to their Celery tasks.
        continued: how many steps were handed back to be run here.
    """

    busy: list[Outcome] = field(default_factory=list)
    delegated: list[HeldStep] = field(default_factory=list)
    continued: int = 0


def submit(
    link: Link,
    reporting: Reporting,
    outcomes: Sequence[Outcome],
    sent: Sent,
    *,
    continue_limit: int = 0,
    budget_ms: float = 0.0,
    lock_timeout_ms: int | None = None,
) -> None:
    """Report ``outcomes``, in one call where nothing is refused.

    Args:
        link: the connection.
        reporting: the executor.
        outcomes: of any incarnation; those of a lost one are dropped. Whether an error comes out or not, afterwards
            those are ``answered`` of which nothing need be sent again.
        sent: receives what is left to do.
        continue_limit: how many newly ready steps may be handed back at most.
        budget_ms: how much work they may be, in milliseconds.
        lock_timeout_ms: wait so long for tasks that are locked, instead of leaving them (``busy``).

    Raises:
        GaveUp: no database before the executor had to stop.
        psycopg.Error: refused for a reason that no split cures.
    """
    _submit(link, reporting, list(outcomes), sent, continue_limit, budget_ms, lock_timeout_ms)


def _submit(
    link: Link,
    reporting: Reporting,
    outcomes: list[Outcome],
    sent: Sent,
    continue_limit: int,
    budget_ms: float,
    lock_timeout_ms: int | None,
) -> None:
    for outcome in outcomes:
        outcome.answered = outcome.step.incarnation.lost
    outcomes = [outcome for outcome in outcomes if not outcome.answered]
    if not outcomes:
        return
    incarnation = outcomes[0].step.incarnation
    now = time.monotonic()
    chains: dict[str, Chain] = {}
    for outcome in outcomes:
        step = outcome.step
        if continue_limit:
            outcome.body["may_continue"] = outcome.may_continue(now)
            hops, started = chains.get(step.task_uuid, (0, now))
            chains[step.task_uuid] = (max(hops, step.chain_hops + 1), min(started, step.chain_started))
    call_no, finished = incarnation.ledger.open()
    request: dict[str, Any] = {
        "executor": incarnation.executor,
        "call_no": call_no,
        "queues": reporting.queues,
        "outcomes": [outcome.body for outcome in outcomes],
        "finished": finished,
        "known_templates": reporting.intake.known_templates() if continue_limit else [],
        "continue_limit": continue_limit,
        "budget_ms": budget_ms,
        "wait": lock_timeout_ms is not None,
        "max_claim_bytes": reporting.max_claim_bytes,
    }
    asked_at = time.monotonic()
    try:
        answer = link.call(
            functions.complete_steps(request), lock_timeout_ms=lock_timeout_ms, transient=lock_timeout_ms is None
        )
    except ExecutorLost:
        for outcome in outcomes:
            outcome.answered = True
        reporting.lost(incarnation)
        return
    except CallRefused:
        # The heartbeat ran ahead of this number: nothing was recorded, and a fresh number will do.
        incarnation.ledger.failed(call_no, finished)
        _submit(link, reporting, outcomes, sent, continue_limit, budget_ms, lock_timeout_ms)
        return
    except Exception as error:
        incarnation.ledger.failed(call_no, finished)
        if not is_bad_value(error):
            raise
        if len(outcomes) == 1:
            _replace(outcomes[0], error)
            _submit(link, reporting, outcomes, sent, continue_limit, budget_ms, lock_timeout_ms)
            return
        reporting.counters.add(bisections=1)
        middle = len(outcomes) // 2
        for half in (outcomes[:middle], outcomes[middle:]):
            _submit(link, reporting, half, sent, continue_limit // 2, budget_ms / 2, lock_timeout_ms)
        return
    _heed(reporting, incarnation, call_no, outcomes, answer, chains, sent, asked_at)


def _replace(outcome: Outcome, error: Exception) -> None:
    """Put a permanent error in place of what the server refuses to store."""
    if outcome.status == "error" and outcome.body["error"]["type"] == RESULT_NOT_STORABLE:
        raise error  # not the value, then: say so instead of trying for ever
    logger.warning(
        "step %s of task %s: the server refused its outcome: %s",
        outcome.step.template.label,
        outcome.step.task_uuid,
        error,
    )
    outcome.body = refused(outcome, error).body


def _heed(
    reporting: Reporting,
    incarnation: Incarnation,
    call_no: int,
    outcomes: Sequence[Outcome],
    answer: dict[str, Any],
    chains: dict[str, Chain],
    sent: Sent,
    asked_at: float,
) -> None:
    """Take in the steps that were handed back, then settle what the outcomes were about."""
    continued = reporting.intake.take(answer, incarnation, call_no, chains)
    incarnation.ledger.answered(call_no, len(continued))
    reporting.circuits.learn(answer, asked_at, continued)
    if continued:
        reporting.events.received(continued)
        reporting.held.add(continued)
        sent.continued += len(continued)

    settled: dict[int, int] = {}
    done = failures = stale = parked = 0
    for outcome, reply in zip(outcomes, answer["outcomes"], strict=True):
        verdict = reply["answer"]
        step = outcome.step
        if verdict == "busy":
            sent.busy.append(outcome)
            continue
        outcome.answered = True
        settled[step.call_no] = settled.get(step.call_no, 0) + 1
        if verdict == "stale":
            stale += 1
            reporting.counters.add(**{f"{STALE_RESULTS}|{reply.get('reason')}": 1})
            logger.info("step %s: outcome refused, %s", step.template.label, reply.get("reason"))
            continue
        reporting.events.ended(outcome, reply.get("state"))
        reporting.domain_events.ended(outcome, reply.get("state"))
        match outcome.status:
            case "complete":
                done += 1
            case "error":
                failures += 1
            case "parked":
                parked += 1
            case _:
                sent.delegated.append(step)
    for number, steps in settled.items():
        incarnation.ledger.settled(number, steps)
    reporting.events.flush()
    reporting.counters.add(
        completed=done,
        failed=failures,
        parked=parked,
        stale=stale,
        busy=len(sent.busy),
        continued=len(continued),
        completions=1,
        tasks_finished=len(answer["finished_tasks"]),
    )
    reporting.notifier.add(answer["notify"])
    reporting.notifier.add(channel_name(queue) for queue in answer["queues"])
    if answer["queues"]:
        reporting.queued(answer["queues"])
