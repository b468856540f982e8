"""CI's supervisor: a run that leaves a process behind fails, and the process is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SUPERVISE = Path(__file__).parents[2] / ".ci" / "supervise.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to a subreaper")


def supervise(*arguments: str, limit: int = 30, grace: float = 0.2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SUPERVISE, "--limit", str(limit), "--grace", str(grace), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_code_of_the_command_is_handed_on() -> None:
    assert supervise("true").returncode == 0
    assert supervise("sh", "-c", "exit 7").returncode == 7


def test_an_orphan_in_a_session_of_its_own_fails_the_run_and_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    done = supervise(
        "sh", "-c", f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 600' & while [ ! -s {pid_file} ]; do :; done"
    )
    assert done.returncode == 1
    assert "sleep 600" in done.stderr
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_an_orphan_that_ends_by_itself_within_the_grace_is_no_fault() -> None:
    assert supervise("sh", "-c", "setsid sleep 0.3 &", grace=20).returncode == 0


def test_a_command_that_takes_too_long_is_ended_with_its_children() -> None:
    done = supervise("sh", "-c", "sleep 601 & sleep 602", limit=1)
    assert done.returncode == 124
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] in (["sleep", "601"], ["sleep", "602"])
    ]
