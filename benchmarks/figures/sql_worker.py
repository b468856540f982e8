"""A worker as one writes it in any language, with a driver, JSON and the SQL contract (docs/reference/contract.md)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

Step = dict[str, Any]

MOST = 1000
"""So many steps a call claims at most."""

RUNNING = """
    SELECT FROM unnest(CAST(%s AS uuid[]), CAST(%s AS integer[]), CAST(%s AS integer[]), CAST(%s AS integer[]))
                AS k(task_uuid, position, map_index, fence)
    JOIN tasker.workflow_steps AS s USING (task_uuid, position, map_index, fence)
    WHERE s.state = 'in_progress' LIMIT 1
"""


class SqlWorker:
    """One executor. Use it in a ``with`` block; it leaves in order.

    Args:
        url: the database.
        queues: what it serves.
    """

    def __init__(self, url: str, queues: Sequence[str]) -> None:
        self._url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._queues = list(queues)
        self._executor = str(uuid.uuid4())
        self._call_no = 0
        self._templates: set[int] = set()
        self._receipts: dict[int, int] = {}  # the steps of a call that have not been settled
        self._call(
            "register_executor",
            {"executor": self._executor, "kind": "step_executor", "worker": "sql", "queues": self._queues},
        )

    def claim(self, limit: int = MOST) -> list[Step]:
        """Steps that are ready, each with the call that holds it and the executor, as an outcome names them."""
        self._call_no += 1
        request = {"call_no": self._call_no, "queues": self._queues, "limit": limit, **self._common()}
        answer = self._call("claim_steps", request)
        return self._take(answer)

    def complete(self, outcomes: Sequence[Mapping[str, Any]], *, continue_limit: int = 0) -> list[Step]:
        """Report outcomes of steps by a call; those that it may go on with, claimed already."""
        self._call_no += 1
        request = {
            "call_no": self._call_no,
            "queues": self._queues,
            "outcomes": list(outcomes),
            "continue_limit": continue_limit,
            **self._common(),
        }
        answer = self._call("complete_steps", request)
        refused = [outcome for outcome in answer["outcomes"] if outcome["answer"] != "accepted"]
        if refused:
            raise RuntimeError(f"{len(refused)} outcomes were refused, the first as {refused[0]}")
        self.settled(outcomes)
        return self._take(answer)

    def send(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Report outcomes by messages; whoever called says that they were taken, with `settled`."""
        self._connection.execute(
            "SELECT pgmq.send_batch('orchestration_step_results', CAST(%s AS jsonb[]))",
            [[json.dumps(outcome) for outcome in outcomes]],
        )
        self._connection.execute("SELECT tasker.notify(ARRAY['tasker_orchestration_step_results'])")

    def are_recorded(self, steps: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what was sent for all these steps has been taken."""
        keys = [[step[key] for step in steps] for key in ("task_uuid", "position", "map_index", "fence")]
        return self._connection.execute(RUNNING, keys).fetchone() is None

    def settled(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """These steps need no receipt any more."""
        for step in steps:
            self._receipts[step["call_no"]] -= 1

    def reconnect(self, options: str = "") -> None:
        """The same executor in a new session, with these options of libpq."""
        self.disconnect()
        self._connection = psycopg.connect(self._url, autocommit=True, options=options)

    def disconnect(self) -> None:
        """End the session; the executor remains."""
        self._connection.close()

    def close(self) -> None:
        """Leave."""
        if self._connection.closed:
            self.reconnect()
        try:
            request = {"executor": self._executor, "finished": self._finished()}
            self._call("deregister_executor", request)
        finally:
            self._connection.close()

    def __enter__(self) -> SqlWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _common(self) -> dict[str, Any]:
        return {
            "executor": self._executor,
            "known_templates": sorted(self._templates),
            "finished": self._finished(),
            "budget_ms": 1e9,
        }

    def _finished(self) -> list[int]:
        finished = [call for call, steps in self._receipts.items() if steps == 0]
        for call in finished:
            del self._receipts[call]
        return finished

    def _take(self, answer: Mapping[str, Any]) -> list[Step]:
        fresh = {int(number): template for number, template in answer["templates"].items()}
        if answer["steps"]:
            self._receipts[self._call_no] = len(answer["steps"])
        if fresh:
            # What a step takes is not known yet, and counts as all that one may claim at once: say it takes nothing.
            known = {f"{number}:{n}": 0.0 for number, template in fresh.items() for n in range(len(template["steps"]))}
            heartbeat = {"executor": self._executor, "oldest_call_no": min(self._receipts, default=self._call_no)}
            self._call("heartbeat", {**heartbeat, "expected_ms": known})
            self._templates |= fresh.keys()
        keys = ("task_uuid", "step_uuid", "position", "map_index", "fence")
        mine = {"executor": self._executor, "call_no": self._call_no}
        return [{**{key: step[key] for key in keys}, **mine} for step in answer["steps"]]

    def _call(self, function: str, request: Mapping[str, Any]) -> Any:
        row = self._connection.execute(f"SELECT tasker.{function}(%s)".encode(), [json.dumps(request)]).fetchone()
        assert row is not None
        return row[0]
