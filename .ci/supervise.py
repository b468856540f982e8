"""Run a command as process 1 would: reap its orphans, and complain about every process it leaves behind.

    python .ci/supervise.py SECONDS COMMAND ...

Exits with the command's code; with 124 where it took longer than SECONDS; with 1 where it succeeded but left processes
behind. Whatever is left is named and killed. (Linux: elsewhere orphans escape, and only the command's own children are seen.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 15.0
"""How long orphans may take to end by themselves, such as a server that stops when its last user is gone."""


class DeadlineReached(Exception):
    """The command takes longer than it may."""


def main(limit_seconds: int, command: list[str]) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(limit_seconds)
    try:
        code = _reap_until_end_of(subprocess.Popen(command).pid)
    except DeadlineReached:
        print(f"supervise: {' '.join(command)} took longer than {limit_seconds} s", file=sys.stderr)
        _kill(psutil.Process().children(recursive=True))
        return 124
    except BaseException:
        _kill(psutil.Process().children(recursive=True))
        raise
    signal.alarm(0)
    left = _wait_for_orphans()
    if left:
        print("supervise: left behind by", " ".join(command), file=sys.stderr)
        _kill(left)
    return code or int(bool(left))


def _on_alarm(*_: object) -> None:
    raise DeadlineReached


def _reap_until_end_of(pid: int) -> int:
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _wait_for_orphans() -> list[psutil.Process]:
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        if time.monotonic() > deadline:
            return psutil.Process().children(recursive=True)
        time.sleep(0.1)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            print(f"  killed {process.pid}: {' '.join(process.cmdline())[:200] or process.name()}", file=sys.stderr)
            process.kill()
        except psutil.NoSuchProcess:
            pass


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
