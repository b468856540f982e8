"""How much each program measures: the full sizes, which the bars speak of, and small ones that take seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """The sizes of all programs; each is an option of the command line, with this help."""

    rounds: int = field(metadata={"help": "how often each figure is measured"})
    seconds: float = field(metadata={"help": "how long a throughput takes, roughly"})
    latencies: int = field(metadata={"help": "tasks of a latency in a round"})
    finished: int = field(metadata={"help": "finished tasks in the tables"})
    waiting: int = field(metadata={"help": "tasks that wait: for a time far ahead, and in a queue that nobody serves"})
    timers: int = field(metadata={"help": "steps that wait for another attempt, far ahead"})
    templates: int = field(metadata={"help": "registered workflows"})
    snapshot_seconds: float = field(metadata={"help": "how long a snapshot is held"})
    handoffs: int = field(metadata={"help": "tasks of a round whose handoffs are timed"})
    completions: int = field(metadata={"help": "completions whose dependents are looked for, by width and way"})
    messages: int = field(metadata={"help": "results sent as messages in a round"})
    steps_of_one: int = field(metadata={"help": "steps of the one large task"})
    payload_bytes: int = field(metadata={"help": "size of contexts and results"})
    memory_steps: int = field(metadata={"help": "steps that one process runs while its memory is watched"})
    restarts: int = field(metadata={"help": "replacements of workers under load, on each pool"})
    calls: int = field(metadata={"help": "remote-control calls of each kind, on each pool and broker in a round"})


FULL = Sizes(
    rounds=5,
    seconds=4,
    latencies=60,
    finished=1_000_000,
    waiting=100_000,
    timers=100_000,
    templates=10_000,
    snapshot_seconds=240,
    handoffs=100,
    completions=2_000,
    messages=40_000,
    steps_of_one=10_000,
    payload_bytes=100_000,
    memory_steps=1_000_000,
    restarts=10,
    calls=50,
)
SMALL = Sizes(
    rounds=1,
    seconds=0.2,
    latencies=5,
    finished=2_000,
    waiting=500,
    timers=500,
    templates=100,
    snapshot_seconds=3,
    handoffs=5,
    completions=50,
    messages=500,
    steps_of_one=400,
    payload_bytes=20_000,
    memory_steps=12_000,
    restarts=2,
    calls=3,
)
