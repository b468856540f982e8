"""What the bench knows of its engines."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.engines.registry import ENGINES

ROOT = Path(__file__).parents[3]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_has_a_program_and_a_group_of_dependencies(engine: str) -> None:
    entry = ENGINES[engine]
    program = ROOT / (entry.module.replace(".", "/") + ".py")
    assert 'if __name__ == "__main__"' in program.read_text()
    assert entry.group is None or all(">=" in requirement for requirement in GROUPS[entry.group])


def test_each_group_for_the_bench_belongs_to_an_engine() -> None:
    assert {group for group in GROUPS if group.startswith("bench-")} == {e.group for e in ENGINES.values() if e.group}


@pytest.mark.parametrize("module", ["shapes", "engines/base", "engines/processes"])
def test_what_all_engines_share_needs_the_standard_library_alone(module: str) -> None:
    tree = ast.parse((ROOT / "benchmarks" / f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {*sys.stdlib_module_names, "benchmarks"}
