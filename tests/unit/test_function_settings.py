"""How functions run: entry points as their owner and with pinned plans, internal ones as whoever called them left it.

A session keeps the plans of a function. Were an internal one first called without the settings, its plan would stay.
"""

from __future__ import annotations

import re

import pytest

from tasker.database.function_files import load_function_files
from tasker.database.roles import GRANTED_FUNCTIONS

PINS = ("jit = off", "enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off", "force_generic_plan")
HEADS = {
    name: (file.text[: file.text.index("$$")], file.text[file.text.index("$$") :])
    for name, file in load_function_files().items()
    # The transport's are all entry points; migrations call the other one.
    if "$$" in file.text and not name.startswith("celery_") and name != "ensure_transition_checks"
}
ENTRY_POINTS = {name for names in GRANTED_FUNCTIONS.values() for name in names} & HEADS.keys()
INTERNAL = HEADS.keys() - ENTRY_POINTS
# Entry points that other functions call as well, and helpers that read no table.
PLANLESS = {"assert_read_committed", "check_task_request", "queue_send", "queue_show_again", "queue_ensure", "to_uuid"}
PLANLESS |= {"checked_events", "checked_lifecycle"}


@pytest.mark.parametrize("name", sorted(INTERNAL))
def test_an_internal_function_has_no_settings_of_its_own(name: str) -> None:
    head, _ = HEADS[name]
    assert "SECURITY DEFINER" not in head
    assert re.search(r"^SET ", head, re.MULTILINE) is None


@pytest.mark.parametrize("name", sorted(ENTRY_POINTS))
def test_an_entry_point_that_calls_internal_functions_with_plans_pins_them(name: str) -> None:
    head, body = HEADS[name]
    called = {other for other in INTERNAL - PLANLESS if f"tasker.{other}(" in body and "plpgsql" in HEADS[other][0]}
    if called:
        assert all(pin in head for pin in PINS), f"it calls {', '.join(sorted(called))}"
        assert "SECURITY DEFINER" in head
        assert "SET search_path = pg_catalog, pg_temp" in head
