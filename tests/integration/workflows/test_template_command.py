from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tasker.cli import main
from tests.integration.workflows.test_template_registry import TEXT


@pytest.fixture(autouse=True)
def _on_a_fresh_database(tasker_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", tasker_database_url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "orders.yaml"
    file.write_text(TEXT)
    return file


def tasker(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_template_is_registered_listed_shown_and_drawn(file: Path) -> None:
    done = tasker("template", "register", "--structure", file, "--json")
    assert done.exit_code == 0, done.output
    ((row),) = json.loads(done.stdout)
    assert (row["workflow"], row["outcome"]) == ("shop/orders:1.0.0", "new")
    again = tasker("template", "register", "--structure", file)
    assert "unchanged" in again.stdout

    ((listed),) = json.loads(tasker("template", "list", "--json").stdout)
    assert (listed["workflow"], listed["version"], listed["steps"], listed["used"]) == (
        "shop/orders",
        "1.0.0",
        2,
        False,
    )
    assert "takes orders" in tasker("template", "list", "--namespace", "shop").stdout
    assert "No workflow is registered" in tasker("template", "list", "--namespace", "elsewhere").stderr

    shown = tasker("template", "show", "shop/orders")
    assert shown.exit_code == 0, shown.output
    assert "takes orders" in shown.stdout
    assert "shop.charge" in shown.stdout
    as_json = json.loads(tasker("template", "show", "shop/orders:1.0.0", "--json").stdout)
    assert [step["name"] for step in as_json["definition"]["steps"]] == ["charge", "ship"]

    drawn = tasker("template", "graph", "shop/orders")
    assert drawn.stdout == "shop/orders:1.0.0\n└── charge [payments]\n    └── ship\n"


def test_a_template_whose_handlers_are_missing_is_not_registered(file: Path) -> None:
    done = tasker("template", "register", file)
    assert done.exit_code == 1
    assert "step 'charge': handler.callable: handler 'shop.charge' is in module 'shop'" in done.stderr
    assert json.loads(tasker("template", "list", "--json").stdout) == []


def test_a_workflow_that_is_not_registered_is_told_as_such() -> None:
    done = tasker("template", "show", "shop/orders")
    assert done.exit_code == 1
    assert "no workflow shop/orders is registered" in done.stderr
    assert "names no workflow" in tasker("template", "graph", "orders").stderr
