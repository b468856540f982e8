"""What is committed: sources, and nothing that a tool makes."""

from __future__ import annotations

import fnmatch
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GENERATED = (
    "*.pyc", "*.pyo", "*.so", "*.whl", "*.tar.gz", "*.egg-info/*", "*/__pycache__/*", "__pycache__/*",
    ".venv/*", ".venv-*/*", "build/*", "dist/*", "htmlcov/*", ".coverage", ".coverage.*", "coverage.xml",
    ".pytest_cache/*", ".ruff_cache/*", ".mypy_cache/*", ".hypothesis/*", ".import_linter_cache/*",
    "*.log", "*.pid", "celerybeat-schedule*", "*.db", "*.sqlite", "*.orig", "*.rej", "*.swp", "*~", ".DS_Store",
)  # fmt: skip
MAX_BYTES = 1024 * 1024


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def committed() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout (an unpacked sdist, say)")
    return git("ls-tree", "-r", "-z", "--name-only", "HEAD")


def test_no_generated_file_is_committed(committed: list[str]) -> None:
    assert [name for name in committed if any(fnmatch.fnmatch(name, pattern) for pattern in GENERATED)] == []


def test_no_generated_file_ever_was(committed: list[str]) -> None:
    ever = git("log", "--all", "--diff-filter=A", "--format=", "--name-only", "-z")
    names = {name.strip("\n") for name in ever}
    assert sorted(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in GENERATED)) == []


def test_nothing_that_is_ignored_is_committed(committed: list[str]) -> None:
    assert git("ls-files", "-z", "--cached", "--ignored", "--exclude-standard") == []


def test_no_committed_file_is_large(committed: list[str]) -> None:
    large = [name for name in committed if (ROOT / name).is_file() and (ROOT / name).stat().st_size > MAX_BYTES]
    assert large == []


def test_every_dependency_has_a_lower_bound_and_no_upper_one() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [text for text in dependencies if ">=" not in text or "<" in text or "==" in text] == []


def test_every_script_of_ci_can_be_executed() -> None:
    assert [
        path.name for path in (ROOT / ".ci").iterdir() if path.suffix == "" and not path.stat().st_mode & 0o111
    ] == []
