"""How much an executor asks for, and from where in its queues."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tasker.database import functions
from tests.integration.executors.engine import Engine

pytestmark = pytest.mark.orchestration


def test_a_busy_executor_comes_back_for_a_message_that_was_locked_when_it_passed(engine: Engine) -> None:
    engine.workflow({"name": "a", "handler": lambda context: None})
    engine.create(3)
    executor = engine.executor(sizes={"batch_size": 1})
    front = engine.value("SELECT min(msg_id) FROM pgmq.q_testing_queue")
    with psycopg.connect(engine.database.url) as holder:
        holder.execute("SELECT FROM pgmq.q_testing_queue WHERE msg_id = %s FOR UPDATE", [front])
        assert executor.drain(1) == 1
    # From where it is now there are one message and then none: it looks from the front without going idle in between.
    assert [executor.drain(1) for _ in range(3)] == [1, 1, 0]
    assert engine.task_states() == {"complete": 3}


def test_after_a_claim_that_took_few_of_many_the_next_asks_for_little(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    claim = functions.claim_steps

    def noting(request: dict[str, Any]) -> Any:
        asked.append(request["limit"])
        return claim(request)

    monkeypatch.setattr(functions, "claim_steps", noting)
    engine.workflow({"name": "a", "handler": lambda context: None})
    engine.create(120)
    executor = engine.executor(sizes={"batch_size": 100})
    # Nobody knows how long the step takes: it is claimed alone.
    executor.drain(100)
    executor.drain(100)
    engine.connection.execute("UPDATE tasker.named_steps SET expected_ms = 0.1")
    for _ in range(2):
        executor.drain(100)
    assert asked == [100, 16, 16, 64]
    assert engine.task_states() == {"complete": 1 + 1 + 16 + 64, "in_progress": 38}
