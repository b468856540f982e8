"""Driving the SQL core by its contract, from tests: templates, tasks, executors, and what must always hold."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg.types.json import Jsonb

from tasker.database.verification import RULES, Report, schema, verify_connection

# The schema is the same after every test: its rules have tests of their own, and cost a third of the time.
_RULES_OF_DATA = RULES.keys() - {rule.name for check in schema.CHECKS for rule in check.rules}

Graph = Mapping[str, Sequence[str]]
"""Steps in order, each with what it depends on."""

CHAIN: Graph = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}
DIAMOND: Graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def fan(width: int) -> Graph:
    """1 -> width -> 1."""
    middle = [f"m{index}" for index in range(width)]
    return {"first": [], **{name: ["first"] for name in middle}, "last": middle}


def _json(value: Any) -> Jsonb:
    return Jsonb(value, dumps=lambda v: orjson.dumps(v, default=str).decode())


class Core:
    """The SQL core on one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)
        self.excused: set[str] = set()

    def close(self) -> None:
        self.connection.close()

    def call(self, function: str, *arguments: Any) -> Any:
        """``SELECT tasker.function(…)``; dicts travel as jsonb."""
        places = ", ".join("%s" for _ in arguments)
        values = [_json(value) if isinstance(value, dict) else value for value in arguments]
        row = self.connection.execute(f"SELECT tasker.{function}({places})", values).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, arguments).fetchall()  # type: ignore[arg-type]

    def one(self, query: str, *arguments: Any) -> Any:
        row = self.connection.execute(query, arguments).fetchone()  # type: ignore[arg-type]
        return row[0] if row else None

    def move_clock(self, seconds: float) -> None:
        """Move this connection's engine clock (not other connections')."""
        self.connection.execute("SELECT set_config('tasker.clock_offset', %s, false)", [f"{seconds} seconds"])

    # -- definitions and tasks --------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        graph: Graph,
        *,
        namespace: str = "shop",
        version: str = "1.0.0",
        step: Mapping[str, Any] | None = None,
        steps: Mapping[str, Mapping[str, Any]] | None = None,
        expected_ms: float | None = 0.01,
        **definition: Any,
    ) -> int:
        """Register a workflow; ``step`` holds settings of every step, ``steps`` those of single ones."""
        listed = [
            {
                "name": step_name,
                "depends_on": list(parents),
                "handler": {"callable": f"shop.{step_name}"},
                "backoff": "none",
                **(step or {}),
                **(steps or {}).get(step_name, {}),
            }
            for step_name, parents in graph.items()
        ]
        answer = self.call(
            "register_template",
            {
                "namespace": namespace,
                "name": name,
                "version": version,
                "digest": str(uuid.uuid4()),
                "document": {"name": name},
                "steps": listed,
                **definition,
            },
        )
        identifier = int(answer["named_task_id"])
        if expected_ms is not None:
            self.rows_affected(
                "UPDATE tasker.named_steps SET expected_ms = %s WHERE named_task_id = %s", expected_ms, identifier
            )
        return identifier

    def rows_affected(self, query: str, *arguments: Any) -> int:
        return self.connection.execute(query, arguments).rowcount  # type: ignore[arg-type]

    def create(self, name: str, count: int = 1, *, namespace: str = "shop", **request: Any) -> list[str]:
        """Create tasks; returns their uuids."""
        answers = self.create_many([{"namespace": namespace, "name": name, **request} for _ in range(count)])
        return [answer["task_uuid"] for answer in answers]

    def create_many(self, requests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        values = [_json(dict(request)) for request in requests]
        return list(self.one("SELECT tasker.create_tasks(%s::jsonb[])", values))

    # -- what is there ----------------------------------------------------------------------------------------

    def task(self, task_uuid: str) -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM tasker.tasks WHERE task_uuid = %s", [task_uuid])
        assert cursor.description is not None
        row = cursor.fetchone()
        assert row is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))

    def steps(self, task_uuid: str) -> dict[str, dict[str, Any]]:
        """The steps of a task by name."""
        cursor = self.connection.execute(
            """SELECT n.name AS step, s.*, n.queue FROM tasker.workflow_steps AS s
               JOIN tasker.tasks AS t USING (task_uuid)
               JOIN tasker.named_steps AS n ON n.named_task_id = t.named_task_id AND n.position = s.position
               WHERE s.task_uuid = %s ORDER BY s.position""",
            [task_uuid],
        )
        assert cursor.description is not None
        columns = [column.name for column in cursor.description]
        found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return {row["step"]: row for row in found}

    def states(self, task_uuid: str) -> dict[str, str]:
        return {name: row["state"] for name, row in self.steps(task_uuid).items()}

    def depth(self, queue: str) -> int:
        """How many messages a queue has, those of its priority bands too."""
        bands = self.rows(
            "SELECT queue_name FROM pgmq.meta WHERE queue_name IN (%s, %s)", f"{queue}_high", f"{queue}_low"
        )
        return sum(
            int(self.one(f"SELECT count(*) FROM pgmq.q_{name}")) for name in (queue, *(band for (band,) in bands))
        )

    def history(self, task_uuid: str, step: str) -> list[str]:
        """The transitions of a step, in order."""
        position = self.steps(task_uuid)[step]["position"]
        return [
            f"{row[0]}>{row[1]}"
            for row in self.rows(
                """SELECT from_state, to_state FROM tasker.workflow_step_transitions
                   WHERE task_uuid = %s AND position = %s ORDER BY at, fence""",
                task_uuid,
                position,
            )
        ]

    def executor(self, *queues: str, kind: str = "step_executor") -> Worker:
        return Worker(self, queues or ("shop_queue",), kind)

    def excuse(self, *rules: str) -> None:
        """Leave rules out of ``broken_rules``, for a test that writes to the tables what no function would write."""
        self.excused.update(rules)

    def broken_rules(self) -> list[str]:
        """What the tables say that may not be, by the rules of ``tasker db verify``."""
        return _told(verify_connection(self.connection, rules=_RULES_OF_DATA - self.excused))


class Worker:
    """One executor as another language would write it: it numbers its calls and remembers its receipts."""

    def __init__(self, core: Core, queues: Sequence[str], kind: str = "step_executor") -> None:
        self.core = core
        self.queues = list(queues)
        self.uuid = str(uuid.uuid4())
        self.call_no = 0
        self.last: dict[str, Any] = {}
        core.call(
            "register_executor",
            {"executor": self.uuid, "kind": kind, "worker": "test@host", "queues": self.queues, "pid": 1},
        )

    def claim(self, limit: int = 10, *, call_no: int | None = None, **more: Any) -> list[dict[str, Any]]:
        if call_no is None:
            self.call_no += 1
            call_no = self.call_no
        self.last = self.core.call(
            "claim_steps",
            {
                "executor": self.uuid,
                "call_no": call_no,
                "queues": self.queues,
                "limit": limit,
                "budget_ms": 1000,
                **more,
            },
        )
        return list(self.last["steps"])

    def complete(
        self,
        steps: Iterable[Mapping[str, Any]],
        *,
        call_no: int | None = None,
        continue_limit: int = 0,
        outcome: Mapping[str, Any] | None = None,
        core: Core | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        if call_no is None:
            self.call_no += 1
            call_no = self.call_no
        said = outcome or {"status": "complete"}
        keys = ("task_uuid", "step_uuid", "position", "map_index", "fence")
        outcomes = [
            {"results": {"step": step["position"]}, "may_continue": True, **said, **{key: step[key] for key in keys}}
            for step in steps
        ]
        self.last = (core or self.core).call(
            "complete_steps",
            {
                "executor": self.uuid,
                "call_no": call_no,
                "queues": self.queues,
                "outcomes": outcomes,
                "finished": more.pop("finished", list(range(1, call_no))),
                "continue_limit": continue_limit,
                "budget_ms": 1000,
                **more,
            },
        )
        return self.last

    def fail(self, steps: Iterable[Mapping[str, Any]], **error: Any) -> dict[str, Any]:
        return self.complete(steps, outcome={"status": "error", "error": {"message": "boom", "type": "Boom", **error}})

    def release(self, steps: Iterable[Mapping[str, Any]], finished: Sequence[int] = ()) -> dict[str, Any]:
        return dict(
            self.core.call(
                "release_steps", {"executor": self.uuid, "steps": [dict(s) for s in steps], "finished": list(finished)}
            )
        )

    def heartbeat(self, oldest_call_no: int | None = None, **more: Any) -> dict[str, Any]:
        oldest = self.call_no + 1 if oldest_call_no is None else oldest_call_no
        return dict(self.core.call("heartbeat", {"executor": self.uuid, "oldest_call_no": oldest, **more}))

    def run_all(self, limit: int = 50, *, continue_limit: int = 0) -> int:
        """Claim and complete until nothing is left; returns how many steps ran."""
        ran = 0
        while steps := self.claim(limit):
            while steps:
                ran += len(steps)
                answer = self.complete(steps, continue_limit=continue_limit)
                assert [o["answer"] for o in answer["outcomes"]] == ["accepted"] * len(steps)
                steps = answer["steps"]
        return ran

    def die(self) -> None:
        """Be seen silent by two sweeps a lease apart."""
        self.core.rows_affected(
            "UPDATE tasker.executors SET heartbeat_at = heartbeat_at - interval '1 hour' WHERE executor = %s", self.uuid
        )
        self.core.call("recover_lost_steps", {"lease_seconds": 15, "net_page": 0})
        self.core.rows_affected(
            "UPDATE tasker.executors SET suspected_at = suspected_at - interval '1 hour' WHERE executor = %s", self.uuid
        )


def sweep(core: Core, **more: Any) -> dict[str, Any]:
    """One pass of the recovery sweep."""
    return dict(core.call("recover_lost_steps", {"lease_seconds": 15, "limit": 100, "net_page": 100, **more}))


def assert_legal(url: str) -> None:
    """The database at ``url`` breaks no rule of ``tasker db verify``: for the end of tests that have no ``Core``."""
    with psycopg.connect(url, autocommit=True) as connection:
        assert _told(verify_connection(connection, rules=_RULES_OF_DATA)) == []


def _told(report: Report) -> list[str]:
    return [f"{name} cannot be checked: {reason}" for name, reason in report.unchecked.items()] + [
        f"{finding.rule.name}: {example}" for finding in report.violations for example in finding.examples
    ]


def lost_messages(core: Core) -> list[str]:
    """Enqueued steps of open tasks that nothing would ever start: no message, no deferred message, no timer."""
    report = verify_connection(core.connection, rules=["enqueued-step-has-message"])
    assert not report.unchecked
    return [str(example) for finding in report.violations for example in finding.examples]


@contextmanager
def lawful(url: str) -> Iterator[Core]:
    """A driver of that database; at the end of the block no rule is broken, and no step is forgotten."""
    core = Core(url)
    try:
        yield core
        core.connection.rollback()
        assert core.broken_rules() == []
        assert lost_messages(core) == []
    finally:
        core.close()
