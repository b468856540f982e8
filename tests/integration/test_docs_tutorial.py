"""The tutorial does what it says: its files are written, its commands run, its output is what is printed."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tasker.cli import main
from tasker.config.manager import ConfigManager
from tasker.core import OrchestrationCore
from tasker.database.scratch import ScratchDatabases
from tasker.testing import run_until_idle

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "first_workflow.md"
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
NOT_RUN = {
    "pip install tasker-celery": "it is installed",
    "pip install pytest": "it is installed",
    "tasker up": "run_until_idle stands for the workers",
}


def blocks() -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Reader:
    """Follows the tutorial in an empty folder, on a database of its own."""

    def __init__(self, folder: Path, url: str, server_url: str) -> None:
        self.folder = folder
        self.server_url = server_url
        self.core = OrchestrationCore.from_settings(ConfigManager.load("test"), database_url=url)
        self.uuids: dict[str, str] = {}
        self.environment = {**os.environ, "DATABASE_URL": url, "TASKER_ENV": "test"}

    def write(self, text: str) -> None:
        """A file, whose first line says its name."""
        name = re.match(r"# (\S+)\n", text)
        assert name is not None, f"which file is this?\n{text}"
        file = self.folder / name[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def follow(self, text: str) -> None:
        """Commands after ``$``, each with what it prints."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            if command in NOT_RUN:
                continue
            printed = self.run(self.with_own_uuids(command), shown)
            self.compare(command, [line for line in shown if line.strip() != "…"], printed)

    def run(self, command: str, shown: list[str]) -> list[str]:
        words = shlex.split(command)
        match words[0]:
            case "tasker":
                result = CliRunner().invoke(main, words[1:], env=self.environment)
                assert result.exit_code == 0, result.output
                output = result.output
            case "python":
                output = self.python(words[1:])
                self.uuids[shown[0]] = output.strip()
            case "pytest":
                output = self.pytest(words[1:])
            case "echo" | "rm":
                output = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
            case _:
                raise AssertionError(f"the reader cannot run {command!r}")
        run_until_idle(self.core)
        return output.splitlines()

    def python(self, words: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=self.environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pytest(self, words: list[str]) -> str:
        plugins = ("--disable-plugin-autoload", "-p", "tasker.testing.plugin", "-p", "no:cacheprovider", "-q")
        own = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "TASKER_TEST", "CI"))}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, *words],
            capture_output=True,
            text=True,
            env={**own, "TASKER_TEST_DATABASE_URL": self.server_url, "PYTHONPATH": str(self.folder)},
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def with_own_uuids(self, text: str) -> str:
        return UUID.sub(lambda found: self.uuids.get(found[0], found[0]), text)

    def compare(self, command: str, shown: list[str], printed: list[str]) -> None:
        """Each line that is shown was printed, in this order; ``…`` stands for anything."""
        left = iter(printed)
        for line in shown:
            pattern = re.escape(self.with_own_uuids(line).rstrip()).replace("…", ".*")
            pattern = re.sub(r"\d{4}\\-\d\d\\-\d\d(\\ | )\d\d:\d\d:\d\d", r"[-\\d]+ [:\\d]+", pattern)
            pattern = re.sub(r"(\\ )+", r"\\s+", pattern)
            assert any(re.match(pattern, each) for each in left), f"{command}\nprinted no {line!r}, but\n" + "\n".join(
                printed
            )


@pytest.fixture
def reader(
    tasker_server: ScratchDatabases, tasker_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = Reader(tmp_path, tasker_database_url, tasker_server.url)
    yield made
    made.core.close()
    sys.modules.pop("shop", None)


def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    for language, text in blocks():
        if language == "console":
            reader.follow(text)
        else:
            reader.write(text)
        if text.startswith("# shop.py"):
            importlib.import_module("shop")  # as a worker does, for engine.handler_modules
    assert len(reader.uuids) == 2
