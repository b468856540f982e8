"""Proves from the tables alone that a database's history is legal, or lists what is not: ``tasker db verify``."""

from tasker.database.verification.checker import (
    CHECKS,
    RULES,
    Example,
    Finding,
    Progress,
    Report,
    verify,
    verify_connection,
)
from tasker.database.verification.rule import Check, Rule

__all__ = [
    "CHECKS",
    "RULES",
    "Check",
    "Example",
    "Finding",
    "Progress",
    "Report",
    "Rule",
    "verify",
    "verify_connection",
]
