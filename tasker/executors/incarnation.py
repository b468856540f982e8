"""One life of an executor in the database: its identity and the calls it made under it.

An executor that was declared lost never comes back under its old identity: whatever it held is others' by now. It takes
a new incarnation; what belongs to the old one (held steps, outcomes on their way) is dropped where it turns up.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasker.executors.calls import CallLedger


@dataclass(eq=False, slots=True)
class Incarnation:
    """Compared by identity. ``registered`` and ``lost`` are written under the lock of the executor that owns it.

    Attributes:
        counted_before: what the executor had told of its counts before this incarnation, which tells the rest: what all
            incarnations tell can be added up.
        told: what it has told by now, ``counted_before`` included.
    """

    executor: str = field(default_factory=lambda: str(uuid.uuid4()))
    ledger: CallLedger = field(default_factory=CallLedger)
    registered: bool = False
    lost: bool = False
    counted_before: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, float] = field(default_factory=dict)

    def next(self) -> Incarnation:
        """The one that follows; what this one could not tell any more is told by it."""
        return Incarnation(counted_before=self.told, told=self.told)
