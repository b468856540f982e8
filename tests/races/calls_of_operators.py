"""What operators call, and what a second session does that leaves its transaction open."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from tests.races.calls_of_executors import ExecutorCalls
from tests.races.comparing import QUEUE, action, has_free_task, verdicts
from tests.races.model import LIVE, TERMINAL, Refused


class OperatorCalls(ExecutorCalls):
    """Operators, and another session."""

    @action(
        6,
        data=st.data(),
        action=st.sampled_from(["pause", "pause", "pause", "resume", "resume", "resume", "resume", "cancel"]),
        when=has_free_task,
    )
    def act_on_tasks(self, data: st.DataObject, action: str) -> None:
        uuids = self.some_tasks(data, "paused" if action == "resume" else "in_progress")
        answer = self.ask(f"{action}_tasks", {"task_uuids": uuids, "by": "somebody", "reason": "a whim"})

        def foretell() -> list[tuple[str, bool, str]]:
            changed = [(uuid, getattr(self.model, action)(uuid)) for uuid in sorted(uuids)]
            return [(uuid, yes, self.model.tasks[uuid].state) for uuid, yes in changed]

        said = self.both(
            answer,
            foretell,
            lambda said: [(t["task_uuid"], t["changed"], t["state"]) for t in said["tasks"]],
        )
        self.counts[f"{action}: changed"] += sum(yes for _, yes, _ in said)

    @action(
        6,
        data=st.data(),
        action=st.sampled_from(["retry", "retry", "reset", "reset", "resolve_step"] * 2 + ["resolve_task"]),
        when=has_free_task,
    )
    def act_on_one(self, data: st.DataObject, action: str) -> None:
        task = self.any_task(data, "error" if action == "retry" else "in_progress")
        request: dict[str, Any] = {"task_uuid": task.uuid, "by": "somebody"}
        place: tuple[Any, ...] = (task.uuid,)
        if action in ("reset", "resolve_step"):
            live = [n for n, step in enumerate(task.steps) if step.state in LIVE | {"error"}]
            position = data.draw(st.sampled_from(live or range(len(task.steps))), "position")
            place = (task.uuid, position)
            request |= {"position": position, "results": {"by": "hand"}}
        name = {"retry": "retry_task", "reset": "reset_step"}.get(action, action)
        answer = self.ask(name, request)
        self.both(answer, lambda: getattr(self.model, action)(*place), lambda said: None)
        self.counts[f"{name}: {'refused' if isinstance(answer, str) else 'done'}"] += 1

    # -- another session ------------------------------------------------------------------------------------------

    @action(
        3,
        data=st.data(),
        action=st.sampled_from(["pause", "cancel", "complete", "complete"]),
        when=lambda self: self.pending is None and bool(self.model.tasks),
    )
    def hold(self, data: st.DataObject, action: str) -> None:
        """Another session makes a call, and leaves its transaction open."""
        self.other.connection.execute("BEGIN")
        if action == "complete":
            self.hold_outcomes(data)
        else:
            uuids = self.some_tasks(data, "in_progress")
            answer = self.ask(f"{action}_tasks", {"task_uuids": uuids, "by": "another"}, core=self.other)
            foretold = copy.deepcopy(self.model)
            assert [t["changed"] for t in answer["tasks"]] == [getattr(foretold, action)(u) for u in sorted(uuids)]
            open_ones = [task for uuid in uuids if (task := self.model.tasks[uuid]).state not in TERMINAL]
            self.model.locked = set(uuids)
            if action == "cancel":
                self.model.locked_steps = {(task.uuid, n) for task in open_ones for n in range(len(task.steps))}
            self.pending = lambda: [getattr(self.model, action)(uuid) for uuid in uuids]
        self.counts[f"held open: {action}"] += 1

    def hold_outcomes(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients), "client")
        outcomes = self.draw_outcomes(data, client) if client.seen else []
        request = {"executor": client.uuid, "call_no": client.next_call(), "queues": [QUEUE], "outcomes": outcomes}
        answer = self.ask("complete_steps", request, core=self.other)
        foretold = copy.deepcopy(self.model)
        try:
            foretold.check(client.uuid)
        except Refused as refusal:
            self.refused(answer, refusal)
            self.other.connection.execute("ROLLBACK")
            return
        said = foretold.settle(outcomes)[0]
        assert verdicts(answer) == said
        self.model.locked = {outcome["task_uuid"] for outcome in outcomes}
        for outcome, verdict in zip(outcomes, said, strict=True):
            place = (outcome["task_uuid"], outcome["position"])
            self.model.locked_steps.add(place)
            if verdict == ("accepted", None) and outcome["status"] == "complete":
                children = self.model.tasks[place[0]].workflow.children(place[1])
                self.model.locked_steps |= {(place[0], child) for child in children}

        def commit() -> None:
            self.model.settle(outcomes)
            self.note_effects(outcomes, answer["outcomes"])
            for outcome in outcomes:
                client.held.pop((outcome["task_uuid"], outcome["position"], outcome["fence"]), None)

        self.pending = commit

    @action(5, commit=st.sampled_from([True, True, False]), when=lambda self: self.pending is not None)
    def let_go(self, commit: bool) -> None:
        assert self.pending is not None
        self.other.connection.execute(b"COMMIT" if commit else b"ROLLBACK")
        self.model.locked, self.model.locked_steps = set(), set()
        if commit:
            self.pending()
        self.pending = None
