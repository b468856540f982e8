"""The reference of bad input holds the errors that are really given."""

from __future__ import annotations

import re

from docs.generate import PAGES_WITH_A_DATABASE, REFERENCE
from tasker.database.scratch import ScratchDatabases

REMEDY = "is not what the code makes of it: run `make docs` and commit what it changes"
SECTIONS = {
    "Templates",
    "Settings",
    "Contexts and requests",
    "Results",
    "Messages",
    "Identifiers",
    "Sizes",
    "Values that JSON or PostgreSQL cannot carry",
}


def test_the_page_of_bad_input_shows_what_is_observed(tasker_server: ScratchDatabases) -> None:
    for name, make in PAGES_WITH_A_DATABASE.items():
        text = (REFERENCE / name).read_text(encoding="utf-8")
        assert text == make(tasker_server.create), f"docs/reference/{name} {REMEDY}"


def test_it_covers_every_sort_of_input() -> None:
    text = (REFERENCE / "bad_input.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(parts) >= SECTIONS
    rows = {
        name: len(re.findall(r"^\| (?!---|what |how |request )", part, re.MULTILINE)) for name, part in parts.items()
    }
    assert min(rows[name] for name in SECTIONS) >= 8
    assert sum(rows.values()) >= 40
