"""Each peer's own virtual environment, so that no engine's libraries meet another's.

`python_for` names the interpreter of an engine and makes its environment where that is missing or out of date:
``.venv-bench/<peer>``, from the dependency group of pyproject.toml that the registry names (lower bounds, so that the
newest release is measured). Tasker is not installed there; ``benchmarks`` is found through the working directory.
``python -m benchmarks.engines.environments [engine…]`` makes them ahead of a run and prints what each holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.engines.registry import ENGINES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-bench"
PIP = "pip>=25.1"  # the first that reads dependency groups


class EnvironmentFailed(Exception):
    """An engine's environment could not be made."""


def python_for(engine: str) -> Path:
    """The interpreter that runs this engine's program; makes its environment first where need be.

    :raises KeyError: no engine of that name.
    :raises EnvironmentFailed: says which command failed, and with what.
    """
    group = ENGINES[engine].group
    if group is None:
        return Path(sys.executable)
    folder = FOLDER / group.removeprefix("bench-")
    python, stamp = folder / "bin" / "python", folder / "made-from.json"
    wanted = json.dumps(
        {"place": str(folder), "python": platform.python_version(), "requirements": _requirements(group)}, indent=1
    )
    with _alone(folder):
        if _text(stamp) != wanted:
            print(f"Making {folder} ...", file=sys.stderr)
            stamp.unlink(missing_ok=True)
            _run([sys.executable, "-m", "venv", "--clear", str(folder)], engine)
            _pip(python, engine, PIP)
            _pip(python, engine, "--group", f"{ROOT / 'pyproject.toml'}:{group}")
            stamp.write_text(wanted)
    return python


def versions_in(engine: str) -> dict[str, str]:
    """What is installed in this engine's environment: distribution name to version."""
    pip = [str(python_for(engine)), "-m", "pip", "--disable-pip-version-check"]
    listed = _run([*pip, "list", "--format=json"], engine)
    return {found["name"]: found["version"] for found in json.loads(listed)}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes that want the same environment, one makes it and the others wait."""
    folder.parent.mkdir(exist_ok=True)
    # Beside the environment, which is cleared when it is made anew.
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _requirements(group: str) -> list[str]:
    requirements: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"][group]
    return requirements


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _pip(python: Path, engine: str, *arguments: str) -> None:
    options = ["--disable-pip-version-check", "--no-input", "-qq", "--retries", "3", "--timeout", "30"]
    _run([str(python), "-m", "pip", "install", *options, "--upgrade", *arguments], engine)


def _run(command: list[str], engine: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFailed(
            f"the environment of {engine} cannot be made: {' '.join(command)} ended with {done.returncode}. "
            f"It needs the package registry that pip is set up for; leave {engine} out where that is out of reach.\n"
            f"{done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def main() -> None:
    """Make the environments of the engines named on the command line, or of all."""
    for engine in sys.argv[1:] or ENGINES:
        if engine not in ENGINES:
            sys.exit(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
        group = ENGINES[engine].group
        if group is None:
            continue
        installed = versions_in(engine)
        asked = [requirement.split(">=")[0].split("[")[0] for requirement in _requirements(group)]
        print(f"{engine}: {', '.join(f'{name} {installed[name]}' for name in asked)}")


if __name__ == "__main__":
    main()
