"""For each rule of ``tasker db verify`` the ways to break it, and it alone, in the database of ``healthy``."""

from __future__ import annotations

from tests.integration.verification import (
    corruptions_of_history,
    corruptions_of_schema,
    corruptions_of_steps,
    corruptions_of_tasks,
    corruptions_of_work,
)
from tests.integration.verification.corruption import Corruption

CORRUPTIONS: dict[str, list[Corruption]] = {
    **corruptions_of_tasks.CORRUPTIONS,
    **corruptions_of_steps.CORRUPTIONS,
    **corruptions_of_work.CORRUPTIONS,
    **corruptions_of_history.CORRUPTIONS,
    **corruptions_of_schema.CORRUPTIONS,
}

ALL = [(rule, corruption) for rule, corruptions in CORRUPTIONS.items() for corruption in corruptions]
