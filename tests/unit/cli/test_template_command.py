from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tasker.cli import main
from tests.unit.workflows.bad_inputs import BASE_TEMPLATE

TEMPLATES = Path(__file__).parents[2] / "data" / "templates"
GOOD = BASE_TEMPLATE.replace("shop.orders:validate", "tests.unit.workflows.shop.ChargeCard").replace(
    "{callable: shop.orders:ship}", '{callable: "celery:shop.ship"}'
)


def tasker(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def settings_dir(tmp_path: Path) -> Path:
    """Settings whose handlers are the tests' own, and whose templates lie beside them."""
    base = tmp_path / "settings" / "base"
    base.mkdir(parents=True)
    (base / "engine.toml").write_text(
        '[engine]\nhandler_modules = ["tests.unit.workflows.shop"]\ntemplate_paths = ["templates"]\n'
        "dependency_graph.max_depth = 2\n"
    )
    (tmp_path / "templates" / "deeper").mkdir(parents=True)
    return tmp_path / "settings"


def write(settings_dir: Path, name: str, text: str) -> Path:
    file = settings_dir.parent / "templates" / name
    file.write_text(text)
    return file


def test_the_structure_of_templates_of_another_language_can_be_checked() -> None:
    done = tasker("template", "validate", "--structure", TEMPLATES)
    assert done.exit_code == 0
    assert "payments/credit_card_payment:1.0.0" in done.stdout
    assert "task_handler.callable: is of another language, so nothing calls it here" in done.stderr


def test_without_structure_their_handlers_are_missed() -> None:
    done = tasker("template", "validate", TEMPLATES / "integration_diamond_workflow_1.0.0.yaml")
    assert done.exit_code == 1
    assert "step 'step_a': handler.callable: 'IntegrationTest::StepHandler::DiamondStartHandler' names no handler" in (
        done.stderr
    )


def test_validate_tells_each_file_and_problem_as_json(settings_dir: Path) -> None:
    write(settings_dir, "good.yaml", GOOD)
    bad = write(settings_dir, "deeper/bad.yml", GOOD.replace("timeout_seconds: 30", "timeout: 30"))
    write(settings_dir, "notes.txt", "no template")
    done = tasker("--settings-dir", settings_dir, "template", "validate", "--json")
    assert done.exit_code == 1
    rows = {Path(row["file"]).name: row for row in json.loads(done.stdout)}
    assert set(rows) == {"good.yaml", "bad.yml"}
    assert rows["good.yaml"]["valid"] is True
    assert rows["good.yaml"]["workflow"] == "fulfillment/process_order:1.0.0"
    assert rows["bad.yml"]["problems"] == [
        {
            "file": str(bad),
            "line": 9,
            "environment": None,
            "step": "validate_order",
            "field": "timeout",
            "message": "unknown field, did you mean 'timeout_seconds'?",
        }
    ]


def test_limits_of_the_settings_are_checked(settings_dir: Path) -> None:
    deep = GOOD + "  - {name: last, handler: {callable: 'celery:a'}, depends_on: [ship_order]}\n"
    file = write(settings_dir, "deep.yaml", deep)
    done = tasker("--settings-dir", settings_dir, "template", "validate", "--structure", file)
    assert done.exit_code == 1
    assert "is 3 steps long; engine.dependency_graph.max_depth allows 2" in done.stderr


def test_two_files_of_one_version_are_refused(settings_dir: Path) -> None:
    write(settings_dir, "a.yaml", GOOD)
    write(settings_dir, "b.yaml", GOOD)
    done = tasker("--settings-dir", settings_dir, "template", "validate")
    assert done.exit_code == 1
    assert "fulfillment/process_order:1.0.0 is defined in" in done.stderr


def test_nothing_to_validate_is_said(settings_dir: Path) -> None:
    done = tasker("--settings-dir", settings_dir, "template", "validate")
    assert done.exit_code == 0
    assert "No templates found" in done.stderr


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("tree", "└── validate_order\n    └── ship_order\n"),
        ("mermaid", "s_validate_order --> s_ship_order"),
        ("dot", '"validate_order" -> "ship_order";'),
    ],
)
def test_the_graph_of_a_file_is_drawn(tmp_path: Path, form: str, expected: str) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(BASE_TEMPLATE)
    done = tasker("template", "graph", file, "--format", form)
    assert done.exit_code == 0
    assert expected in done.stdout


def test_the_graph_as_json_has_the_steps_in_order(tmp_path: Path) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(BASE_TEMPLATE)
    found = json.loads(tasker("template", "graph", file, "--json").stdout)
    assert found["workflow"] == "fulfillment/process_order:1.0.0"
    assert found["steps"] == [
        {"name": "validate_order", "namespace": "fulfillment", "depends_on": []},
        {"name": "ship_order", "namespace": "fulfillment", "depends_on": ["validate_order"]},
    ]


def test_a_bad_file_is_told_what_is_wrong_instead_of_drawn(tmp_path: Path) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(BASE_TEMPLATE.replace("depends_on: [validate_order]", "depends_on: [ship_order]"))
    done = tasker("template", "graph", file)
    assert done.exit_code == 1
    assert "step 'ship_order': depends_on: depends on itself" in done.stderr
