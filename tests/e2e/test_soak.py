"""The program that soaks: real workers at a steady rate, ended before its time, and nothing left of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasker.database.scratch import ScratchDatabases
from tests.e2e.harness import ROOT
from tests.waiting import wait_until


@pytest.mark.long
def test_a_soak_that_is_told_to_end_judges_what_it_has_and_leaves_no_process(
    tasker_server: ScratchDatabases, tmp_path: Path
) -> None:
    into, log = tmp_path / "soak.json", tmp_path / "soak.log"
    # Finished tasks are kept for three seconds.
    options = ["--minutes", "10", "--rate", "20", "--every", "1", "--keep", "0.05", "--lifetime", "3"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", *options, "--into", into, "--database-url", tasker_server.url],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def some_were_pruned() -> bool:
        assert process.poll() is None, log.read_text()
        looks = json.loads(into.read_text())["looks"] if into.exists() else []
        return bool(looks) and looks[-1]["created"] - looks[-1]["counts"]["tasks"] > 20

    try:
        wait_until(some_were_pruned, f"finished tasks are pruned as it runs: {log}")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:  # it failed: all of it goes
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.wait()
    found = json.loads(into.read_text())
    tally = found["verdict"]["tally"]
    assert found["violations"] == []
    assert tally["pruned"] > 20
    assert tally["created"] == tally["finished"] + tally["pruned"]
    assert tally["error"] > 0
    assert len(children) >= 3
    assert not [child for child in children if child.is_running()]
    assert "nothing lost, nothing illegal" in log.read_text()
