"""What executors call: also late, twice, with answers that get lost, and after they were given up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.races.comparing import (
    QUEUE,
    SLOTS,
    Client,
    Machine,
    action,
    found_by_sweep,
    has_seen_steps,
    has_seen_steps_ever,
    step_of,
    verdicts,
)
from tests.races.model import DEADLINE_SECONDS, MAX_LOSSES, Hold


class ExecutorCalls(Machine):
    """Executors that claim, report, release, tell of themselves, leave and fall silent; and the sweep."""

    def send(self, function: str, request: dict[str, Any], fate: str) -> Any:
        """Make a call whose transaction may be lost, or its answer; then it is made again, word for word."""
        if fate == "lost":
            with self.core.connection.transaction(force_rollback=True):
                self.ask(function, request)
        return self.ask(function, request)

    @action(9, slot=SLOTS, limit=st.sampled_from([12, 3, 1]), fate=st.sampled_from(["", "", "lost", "repeated"]))
    def claim(self, slot: int, limit: int, fate: str) -> None:
        client = self.clients[slot]
        finished = client.finished()
        call = client.next_call()
        request = {"executor": client.uuid, "call_no": call, "queues": [QUEUE], "limit": limit, "budget_ms": 1000}
        request["finished"] = finished
        answer = self.send("claim_steps", request, fate)
        if self.both(answer, lambda: self.model.check(client.uuid), lambda said: None) is None and isinstance(
            answer, str
        ):
            return
        self.model.name_finished(client.uuid, finished)
        self.judge_claim(client, call, answer, limit)
        if fate == "repeated" and answer["steps"]:
            again = self.ask("claim_steps", request)
            assert [(s["step_uuid"], s["fence"]) for s in again["steps"]] == [
                (s["step_uuid"], s["fence"]) for s in answer["steps"]
            ]

    def judge_claim(self, client: Client, call: int, answer: dict[str, Any], limit: int) -> None:
        taken = [(step["task_uuid"], step["position"]) for step in answer["steps"]]
        assert len(taken) == len(set(taken)) <= limit
        for step, place in zip(answer["steps"], taken, strict=True):
            assert self.model.is_due(place), f"not to be had: {place}, {self.model.step(place)}"
            assert self.model.step(place).losses == 0 or len(taken) == 1, "a step that lost an executor comes alone"
            self.hand_over(client, call, step, answer)
        if answer["queue_empty"] and len(taken) < limit:
            # Nothing more is due, as the engine says; but a step that lost an executor waits until it comes alone.
            left = [
                (task.uuid, position)
                for task in self.model.tasks.values()
                for position, step in enumerate(task.steps)
                if self.model.is_due((task.uuid, position)) and not (step.losses and taken)
            ]
            assert left == []
        self.counts["claimed"] += len(taken)

    def hand_over(self, client: Client, call: int, step: dict[str, Any], answer: dict[str, Any]) -> None:
        place = (step["task_uuid"], step["position"])
        self.model.take(client.uuid, call, place)
        now = self.model.step(place)
        assert (step["fence"], step["attempt"]) == (now.fence, now.attempts)
        parents = {str(parent) for parent in self.model.tasks[place[0]].workflow.parents[place[1]]}
        assert parents <= answer["results"].get(place[0], {}).keys()
        hold = (*place, now.fence)
        client.held[hold] = call
        client.seen.append(hold)
        client.open.add(call)

    @action(
        12,
        data=st.data(),
        continue_limit=st.sampled_from([0, 0, 2]),
        fate=st.sampled_from(["", "", "lost", "repeated"]),
        when=has_seen_steps_ever,
    )
    def complete(self, data: st.DataObject, continue_limit: int, fate: str) -> None:
        client = data.draw(st.sampled_from([c for c in (*self.clients, *self.gone) if c.seen]), "client")
        outcomes = self.draw_outcomes(data, client)
        finished = client.finished()
        call = client.next_call()
        request = {
            "executor": client.uuid, "call_no": call, "queues": [QUEUE], "outcomes": outcomes, "finished": finished,
            "continue_limit": continue_limit, "budget_ms": 1000,
        }  # fmt: skip
        answer = self.send("complete_steps", request, fate)

        def foretell() -> list[tuple[str, str | None]]:
            self.model.check(client.uuid)
            said, self.ready = self.model.settle(outcomes)
            return said

        if self.both(answer, foretell, verdicts) is None:
            return
        self.note_effects(outcomes, answer["outcomes"])
        for outcome, said in zip(outcomes, answer["outcomes"], strict=True):
            if said["answer"] != "busy":
                client.held.pop((outcome["task_uuid"], outcome["position"], outcome["fence"]), None)
        self.judge_continued(client, call, answer, continue_limit)
        self.model.name_finished(client.uuid, finished)
        if fate == "repeated":
            again = self.ask("complete_steps", request)
            repeated = verdicts(again)
            expected, _ = copy.deepcopy(self.model).settle(outcomes)
            assert repeated == expected
            assert [s["step_uuid"] for s in again["steps"]] == [s["step_uuid"] for s in answer["steps"]]

    def draw_outcomes(self, data: st.DataObject, client: Client) -> list[dict[str, Any]]:
        holds = data.draw(st.lists(st.sampled_from([*client.held] or client.seen), max_size=6, unique=True), "of")
        if client.held and data.draw(st.integers(0, 5), "late") == 5:
            holds.append(data.draw(st.sampled_from(client.seen), "late one"))
        outcomes = []
        for hold in holds:
            delegated = hold[1] in self.model.tasks[hold[0]].workflow.delegated
            status = data.draw(
                st.sampled_from(["complete"] * 4 + ["error"] * 2 + ["delegated"] * 2 * delegated), "status"
            )
            outcome = step_of(hold) | {"status": status, "executor": client.uuid, "may_continue": True}
            if status == "complete":
                outcome["results"] = {"fence": hold[2]}
            elif status == "error":
                outcome["error"] = {"message": "boom", "type": "Boom", "retryable": data.draw(st.booleans(), "again")}
            else:
                outcome["deadline_seconds"] = DEADLINE_SECONDS
            outcomes.append(outcome)
        return outcomes

    def note_effects(self, outcomes: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> None:
        for outcome, said in zip(outcomes, answers, strict=True):
            self.counts[f"outcome {said['answer']}: {said['reason']}"] += 1
            if said["answer"] == "accepted" and said["reason"] is None and outcome["status"] == "complete":
                self.effects[outcome["task_uuid"], outcome["position"]] += 1

    def judge_continued(self, client: Client, call: int, answer: dict[str, Any], limit: int) -> None:
        """Steps that were handed on are some of those that became ready, of tasks that are not paused."""
        taken = [(step["task_uuid"], step["position"]) for step in answer["steps"]]
        possible = [place for place in self.ready if self.model.tasks[place[0]].state == "in_progress"]
        assert set(taken) <= set(possible)
        assert len(taken) == len(set(taken)) <= limit
        assert taken or not (limit and possible)
        for step in answer["steps"]:
            self.hand_over(client, call, step, answer)
        self.counts["continued"] += len(taken)

    @action(2, data=st.data(), fate=st.sampled_from(["", "lost", "repeated"]), when=has_seen_steps)
    def release(self, data: st.DataObject, fate: str) -> None:
        client, holds = self.draw_holds(data)
        request = {"executor": client.uuid, "steps": [step_of(hold) for hold in holds], "finished": []}
        answer = self.send("release_steps", request, fate)
        self.both(answer, lambda: self.model.release(client.uuid, holds), lambda said: said["released"])
        for hold in holds:
            client.held.pop(hold, None)
        if fate == "repeated":
            assert self.ask("release_steps", request)["released"] == 0
        self.counts["released"] += answer["released"]

    @action(2, data=st.data(), when=has_seen_steps)
    def mark_started(self, data: st.DataObject) -> None:
        client, holds = self.draw_holds(data)
        request = {"executor": client.uuid, "steps": [step_of(hold) for hold in holds]}
        answer = self.ask("mark_steps_started", request)
        self.both(answer, lambda: self.model.mark(client.uuid, holds), lambda said: said["started"])

    def draw_holds(self, data: st.DataObject) -> tuple[Client, list[Hold]]:
        """Steps of an executor that no other session has locked; most of them are held."""
        client = data.draw(st.sampled_from([c for c in self.clients if c.seen]), "client")
        free = [hold for hold in [*client.held] or client.seen if hold[:2] not in self.model.locked_steps]
        if not free:
            return client, []
        return client, data.draw(st.lists(st.sampled_from(free), max_size=3, unique=True), "of")

    @action(
        4,
        slot=SLOTS,
        forget=st.sampled_from([False, False, True]),
        exact=st.booleans(),
        late=st.sampled_from([0, 0, 1]),
    )
    def heartbeat(self, slot: int, forget: bool, exact: bool, late: bool) -> None:
        """Tell the oldest call that is held, or exactly which are; or let an earlier heartbeat come once more."""
        client = self.clients[slot]
        if forget:
            client.held.clear()
        told: dict[str, Any] = {"oldest_call_no": client.oldest()}
        if exact:
            told |= {"next_call_no": client.call_no + 1, "held_calls": sorted({*client.held.values()})}
        if late and client.told:
            told = client.told[0]
        client.told.append(told)
        answer = self.ask("heartbeat", {"executor": client.uuid, **told})
        lost = self.both(
            answer,
            lambda: self.model.heartbeat(
                client.uuid, told["oldest_call_no"], told.get("next_call_no"), told.get("held_calls", ())
            ),
            lambda said: {(s["task_uuid"], s["position"], s["fence"]) for s in said["steps_lost"]},
        )
        for hold in lost or ():
            client.held.pop(hold, None)

    @action(2, slot=SLOTS, politely=st.booleans())
    def leave(self, slot: int, politely: bool) -> None:
        """An executor takes its leave, or is not heard of for longer than its lease; another takes its place."""
        client = self.clients[slot]
        if politely:
            finished = client.finished()
            self.ask("deregister_executor", {"executor": client.uuid, "finished": finished})
            self.model.name_finished(client.uuid, finished)
            client.known.gone = True
        elif not client.known.lost:
            self.core.rows_affected(
                """UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour', suspected_heartbeat =
                       heartbeat_at - interval '1 hour', suspected_at = clock_timestamp() - interval '1 hour'
                   WHERE executor = %s""",
                client.uuid,
            )
            client.known.silent = True
        self.gone.append(client)
        self.clients[slot] = self.new_client()

    @action(3, slot=SLOTS)
    def fall_silent(self, slot: int) -> None:
        """An executor is not heard of for longer than its lease, and may yet speak before a sweep sees it."""
        client = self.clients[slot]
        self.leave(slot, politely=False)
        self.clients[slot] = self.gone.pop()
        assert self.clients[slot] is client

    @action(5)
    def sweep(self) -> None:
        answer = self.ask("recover_lost_steps", {"lease_seconds": 15, "net_page": 50, "max_losses": MAX_LOSSES})
        found = self.both(answer, self.model.sweep, lambda said: {key: said[key] for key in found_by_sweep})
        assert answer["netted"] == 0
        for what, count in found.items():
            self.counts[what] += count
