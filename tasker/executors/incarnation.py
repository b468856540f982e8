"""One life of an executor in the database: its identity and the calls it made under it.

An executor that was declared lost never comes back under its old identity: whatever it held is others' by now. It takes
a new incarnation; what belongs to the old one (held steps, outcomes on their way) is dropped where it turns up.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from tasker.executors.calls import CallLedger


@dataclass(eq=False, slots=True)
class Incarnation:
    """Compared by identity. ``registered`` and ``lost`` are written under the lock of the executor that owns it."""

    executor: str = field(default_factory=lambda: str(uuid.uuid4()))
    ledger: CallLedger = field(default_factory=CallLedger)
    registered: bool = False
    lost: bool = False
