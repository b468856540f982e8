"""Run a command as process 1 would: reap its orphans, and complain about every process it leaves behind.

    python .ci/supervise.py [--limit SECONDS] [--grace SECONDS] COMMAND ...

Exits with the command's code; with 124 where it took longer than its limit; with 1 where it succeeded but left
processes behind that did not end within the grace (a server that stops when its last user is gone may). Whatever is
left is named and killed. (On Linux: elsewhere orphans escape, and only the command's own children are seen.)
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36


class DeadlineReached(Exception):
    """The command takes longer than it may."""


def main(command: list[str], *, limit_seconds: int, grace_seconds: float) -> int:
    """Run ``command``, and return the code to exit with."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(limit_seconds)
    try:
        code = _reap_until_end_of(os.posix_spawnp(command[0], command, os.environ))
    except DeadlineReached:
        print(f"supervise: {' '.join(command)} took longer than {limit_seconds} s", file=sys.stderr)
        _kill(psutil.Process().children(recursive=True))
        return 124
    except BaseException:
        _kill(psutil.Process().children(recursive=True))
        raise
    signal.alarm(0)
    left = _wait_for_orphans(grace_seconds)
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


def _wait_for_orphans(grace_seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + grace_seconds
    while True:
        if not _reap_ended():
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
    # Killed ones are handed to this process and stay as zombies until they are reaped.
    for _ in range(100):
        if not _reap_ended():
            break
        time.sleep(0.02)


def _reap_ended() -> bool:
    """Reap every child that has ended; say whether any other is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=1800)
    parser.add_argument("--grace", type=float, default=15.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    sys.exit(main(arguments.command, limit_seconds=arguments.limit, grace_seconds=arguments.grace))
