"""The built wheel alone is enough: outside the checkout it migrates a database, starts workers and runs a workflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tasker.database.scratch import ScratchDatabases

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]

# Building and installing with all dependencies takes its time on a slow network.
pytestmark = pytest.mark.timeout(600)

HANDLERS = """
def compose(ctx):
    return {"text": "hello, " + ctx.context["name"]}

def shout(ctx):
    return {"text": ctx.results["compose"]["text"].upper(), "attempt": ctx.attempt}
"""

TEMPLATE = """
name: greet
namespace_name: greetings
version: 1.0.0
input_schema: {type: object, required: [name]}
steps:
  - {name: compose, handler: {callable: "greeting_handlers:compose"}}
  - {name: shout, handler: {callable: "greeting_handlers:shout"}, dependencies: [compose]}
"""

CLIENT = """
import json
from tasker import Tasker
tasker = Tasker()
handle = tasker.create("greetings", "greet", {"name": "wheel"})
handle.wait(timeout=60)
print(json.dumps({"state": handle.state, "results": handle.results}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as for a release: the sdist from the checkout, the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, wheel], check=True)
    return programs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project: handlers and a template, far from the checkout."""
    (tmp_path / "greeting_handlers.py").write_text(HANDLERS)
    (tmp_path / "greet.yaml").write_text(TEMPLATE)
    return tmp_path


@pytest.fixture
def environment(project: Path, tasker_server: ScratchDatabases) -> Iterator[dict[str, str]]:
    """The variables a user would set, and none of the test run's own."""
    url = tasker_server.create(migrated=False)
    ours = ("TASKER", "DATABASE_URL", "CELERY", "PYTHON", "VIRTUAL_ENV", "COV", "PG")
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "DATABASE_URL": url,
        "TASKER_ENGINE__HANDLER_MODULES": '["greeting_handlers"]',
        "PYTHONPATH": str(project),
        "HOME": str(project),
    }
    tasker_server.drop(url)


@pytest.fixture
def run(installed: Path, project: Path, environment: dict[str, str]) -> Run:
    def run(program: str, *arguments: str) -> str:
        command = [installed / program, *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def worker(installed: Path, project: Path, environment: dict[str, str], run: Run) -> Iterator[subprocess.Popen[bytes]]:
    run("tasker", "db", "migrate")
    run("tasker", "template", "register", "greet.yaml")
    command = [installed / "celery", "-A", "tasker", "worker", "-Q", "greetings", "-c", "2", "--loglevel", "INFO"]
    with (project / "worker.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def test_the_wheel_carries_settings_migrations_and_the_example_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "settings", "migrations", "examples/order_fulfillment"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert tracked
    assert [name for name in tracked if f"tasker/_data/{name}" not in names] == []
    assert {name.split("/")[0] for name in names} == {"tasker", names[-1].split("/")[0]}
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_what_the_image_copies_is_enough_to_build_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    for *sources, target in (line.split() for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)):
        for source in map(Path, sources):
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
            destination = tmp_path / "context" / (source if target == "./" else target)
            destination.parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / source, destination)
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, tmp_path / "context"], check=True)
    (built,) = tmp_path.glob("*.whl")
    ours, theirs = (
        {name for name in zipfile.ZipFile(path).namelist() if "__pycache__" not in name} for path in (built, wheel)
    )
    assert ours == theirs


def test_the_installed_wheel_migrates_a_database_starts_workers_and_runs_a_workflow(
    worker: subprocess.Popen[bytes], run: Run, project: Path
) -> None:
    try:
        answer = json.loads(run("python", "-c", CLIENT))
    except AssertionError as error:
        raise AssertionError(f"{error}\n\nworker:\n{(project / 'worker.txt').read_text()[-4000:]}") from None
    assert answer == {
        "state": "complete",
        "results": {"compose": {"text": "hello, wheel"}, "shout": {"text": "HELLO, WHEEL", "attempt": 1}},
    }

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=30) == 0, (project / "worker.txt").read_text()[-4000:]


def test_the_demo_runs_from_the_installed_wheel(run: Run) -> None:
    run("tasker", "demo", "--orders", "20", "--no-flower", "--concurrency", "1")


def test_celerys_own_program_has_the_commands_of_tasker(run: Run) -> None:
    run("tasker", "db", "migrate")
    assert json.loads(run("celery", "-A", "tasker", "tasker", "worker", "list", "--json")) == []
    # Also where the app is another one, and what is wrong is said in the same way.
    assert "Durable workflows" in run("celery", "tasker", "--help")
    assert run("celery", "tasker", "--version") == run("tasker", "--version")


def test_nothing_of_the_checkout_is_used(run: Run) -> None:
    where = run("python", "-c", "import tasker; print(tasker.__file__)").strip()
    assert not Path(where).is_relative_to(ROOT)
